"""Oracle checks of the losses (zs3net §11.1-§11.3, §11.6; spnet S1)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zslib.losses import (
    gaussian_similarity,
    guarded_root,
    squared_mmd,
    weighted_cross_entropy,
)

RELEASED = (2, 5, 10, 20, 40, 80)
PAPER = (2, 5, 10, 20, 40, 60)


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


GENERATED = rows((0, 0), (1, 0))
REAL = rows((0, 1), (2, 2))


def mmd(x: Tensor, y: Tensor, bandwidths: tuple[float, ...] = RELEASED) -> float:
    return guarded_root(squared_mmd(x, y, bandwidths)).item()


def test_zs3net_oracle_1_mmd_of_equal_sizes() -> None:
    assert squared_mmd(GENERATED, REAL, RELEASED).item() == pytest.approx(1.413001072, abs=1e-9)
    assert mmd(GENERATED, REAL) == pytest.approx(1.188697216, abs=1e-9)
    assert mmd(GENERATED, REAL, PAPER) == pytest.approx(1.192860203, abs=1e-9)


@pytest.mark.parametrize(
    ("bandwidth", "term"),
    [
        (2, 0.629067029),
        (5, 0.365970141),
        (10, 0.212421268),
        (20, 0.115019911),
        (40, 0.059926335),
        (80, 0.030596388),
    ],
)
def test_zs3net_oracle_1_each_bandwidth_is_a_variance(bandwidth: float, term: float) -> None:
    assert squared_mmd(GENERATED, REAL, [bandwidth]).item() == pytest.approx(term, abs=1e-9)


def test_zs3net_oracle_1_gradient() -> None:
    generated = GENERATED.clone().requires_grad_()
    guarded_root(squared_mmd(generated, REAL, RELEASED)).backward()
    expected = rows((0.03182924, -0.28421755), (-0.11183418, -0.31255069))
    torch.testing.assert_close(generated.grad, expected, atol=1e-8, rtol=0)


def test_zs3net_oracle_1_paper_form_has_standard_deviations_and_no_root() -> None:
    squared = squared_mmd(GENERATED, REAL, PAPER, kernel="deviation").item()
    assert squared == pytest.approx(0.553252117, abs=1e-9)
    unnormalised = squared * len(GENERATED) * len(REAL)
    assert unnormalised == pytest.approx(2.213008468, abs=1e-8)


def test_zs3net_oracle_2_mmd_of_unequal_sizes() -> None:
    generated = torch.cat([GENERATED, rows((0, 3))])
    assert mmd(generated, REAL) == pytest.approx(0.817552575, abs=1e-9)
    assert mmd(REAL, generated) == pytest.approx(0.817552575, abs=1e-9)


def test_zs3net_oracle_2_with_sizes_swapped_as_released() -> None:
    """Then a generated row has the sign of real ones."""
    generated = torch.cat([GENERATED, rows((0, 3))])
    swapped = torch.tensor([1 / 2] * 2 + [-1 / 3] * 3, dtype=torch.float64)
    released = swapped @ gaussian_similarity(torch.cat([generated, REAL]), RELEASED) @ swapped
    assert released.sqrt().item() == pytest.approx(1.389333550, abs=1e-9)


def test_zs3net_oracle_2_single_points_at_distance_two() -> None:
    assert mmd(rows((0, 0)), rows((0, 2))) == pytest.approx(1.619687010, abs=1e-9)


def test_zs3net_oracle_2_mmd_of_a_set_with_itself_is_zero_with_a_finite_gradient() -> None:
    x = GENERATED.clone().requires_grad_()
    loss = guarded_root(squared_mmd(x, GENERATED, RELEASED))
    loss.backward()
    assert squared_mmd(GENERATED, GENERATED, RELEASED).item() == pytest.approx(0, abs=1e-15)
    assert loss.item() == pytest.approx(0, abs=1.000001e-6)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_zs3net_oracle_3_mmd_in_256_dimensions(dtype: torch.dtype, tolerance: float) -> None:
    angles = 0.1 * np.outer(np.arange(1, 5), np.arange(1, 257))
    generated = torch.from_numpy(np.maximum(0, np.sin(angles))).to(dtype)
    real = torch.from_numpy(np.maximum(0, np.cos(angles))).to(dtype)
    assert squared_mmd(generated, real, RELEASED).item() == pytest.approx(
        2.684213927, abs=tolerance
    )
    assert mmd(generated, real) == pytest.approx(1.638357082, abs=tolerance)


LOGITS = rows((1, 0, 0), (0, 2, -1), (0, 1, 3), (0.5, 0.5, 0))
LABELS = torch.tensor([0, 255, 2, 1])


def test_zs3net_oracle_6_weighted_mean_without_void() -> None:
    weights = torch.tensor([1.0, 1.0, 100.0], dtype=torch.float64)
    total, weight = weighted_cross_entropy(LOGITS, LABELS, weights)
    assert (total / weight).item() == pytest.approx(0.181314377, abs=1e-8)
    assert weight.item() == 102


@pytest.mark.parametrize(
    ("row", "expected"), [(0, 0.551444714), (2, 0.169846020), (3, 0.958020088)]
)
def test_zs3net_oracle_6_single_pixels(row: int, expected: float) -> None:
    total, count = weighted_cross_entropy(LOGITS[row : row + 1], LABELS[row : row + 1])
    assert (total / count).item() == pytest.approx(expected, abs=1e-9)


def test_spnet_s1_training_softmax_is_over_the_seen_classes_only() -> None:
    total, count = weighted_cross_entropy(rows((1.0, 0.4)), torch.tensor([0]))
    assert (total / count).item() == pytest.approx(0.437488, abs=1e-6)
    assert math.exp(-total.item()) == pytest.approx(0.645656, abs=1e-6)


def test_a_batch_of_void_has_no_loss_and_no_weight() -> None:
    total, count = weighted_cross_entropy(LOGITS, torch.full((4,), 255))
    assert (total.item(), count.item()) == (0, 0)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_weighted_mean_and_gradient_equal_torchs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (20,), generator=generator)
    labels[torch.rand(20, generator=generator) < 0.3] = 255
    labels[0] = 0
    weights = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1
    ours = torch.randn(20, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    total, weight = weighted_cross_entropy(ours, labels, weights)
    (total / weight).backward()
    expected = torch.nn.functional.cross_entropy(theirs, labels, weights, ignore_index=255)
    expected.backward()
    torch.testing.assert_close(total / weight, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_squared_mmd_is_symmetric_and_not_negative(seed: int, m: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, 3, generator=generator, dtype=torch.float64) for k in (m, n))
    there, back = squared_mmd(x, y, RELEASED).item(), squared_mmd(y, x, RELEASED).item()
    assert there == pytest.approx(back, abs=1e-12)
    assert there > -1e-12
