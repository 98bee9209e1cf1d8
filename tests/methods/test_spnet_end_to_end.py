"""SPNet with its whole network learning, on tiny images (spnet §2-§5)."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import (
    AUGMENTATION,
    CalibratedEndToEndTester,
    World,
    backbone,
    fit_calibrated,
    of_norms,
    unchanged,
)
from zslib.backbones.trained import Backbone
from zslib.benchmark import IGNORE_INDEX
from zslib.classifier import PixelClassifier
from zslib.fine_tuning import LabelledImages, Run
from zslib.grids import corner_nearest, feature_grid, floor_nearest
from zslib.methods.spnet import end_to_end
from zslib.methods.spnet.end_to_end import at_scales, maximum_of, of_scores, sum_of_means
from zslib.params.spnet import SpnetEndToEnd
from zslib.params.training import OptimiserParams
from zslib.training import SingleProcess

PARAMS = SpnetEndToEnd(
    steps=20,
    batch_size=4,
    augmentation=AUGMENTATION,
    optimiser=OptimiserParams(name="adam", lr=0.003, weight_decay=5e-4),
)
GAMMAS = [0.0, 0.3, 0.6]
MODEL = tiny.deeplab(dropout=0.5)

Fitted = tuple[Backbone, PixelClassifier]


# --- training ------------------------------------------------------------------------------------


class TestSpnet(CalibratedEndToEndTester):
    section, short = "spnet.end_to_end", {"steps": 4}
    strength, candidates = "gamma", GAMMAS

    def fit(self, world: World, images: LabelledImages, run: Run, **changes: object) -> Fitted:
        params = PARAMS.model_copy(update=changes)
        return fit_calibrated(end_to_end.fit, MODEL, world, images, params, GAMMAS, run=run)

    def test_scores_start_at_zero(self, curves: tiny.RecordedCurves) -> None:
        assert curves.series("loss")[0] == pytest.approx(4 * np.log(7), rel=1e-4)

    def test_spnet_section_5_batch_norm_rests(self, fitted: Fitted) -> None:
        network = fitted[0].network
        assert unchanged(backbone(MODEL).network, network) == of_norms(network)

    def test_the_networks_classifier_scores_all_classes_by_their_embeddings(
        self, fitted: Fitted
    ) -> None:
        """spnet §3: unseen scores, too, are products with embeddings; no class has a bias of its own."""
        last = fitted[0].network.classifier
        everything = torch.cat([last.weight[:, :, 0, 0], last.bias[:, None]], 1).detach().double()
        assert torch.linalg.matrix_rank(everything, rtol=1e-5) <= 5
        solution = torch.linalg.lstsq(tiny.EMBEDDINGS.double(), everything).solution
        expected = tiny.EMBEDDINGS.double() @ solution
        torch.testing.assert_close(expected, everything, atol=1e-5, rtol=1e-4)


# --- scales (spnet §2) ---------------------------------------------------------------------------


def test_spnet_s4_the_maximum_over_scales_decides() -> None:
    rows = torch.tensor([[2.0, 1.9], [0.0, 2.2], [1.0, 0.5]])
    scores = iter(rows.reshape(3, 1, 2, 1, 1))
    *scales, maximum = at_scales(lambda _: next(scores), torch.zeros(1, 3, 8, 8), (1, 0.5, 0.75))
    assert [int(one.argmax(1)) for one in scales] == [0, 1, 0]
    assert maximum.flatten().tolist() == pytest.approx([2.0, 2.2])
    assert int(maximum.argmax(1)) == 1
    assert rows.mean(0).tolist() == pytest.approx([1.0, 1.533], abs=1e-3)


def test_spnet_o22_scores_of_smaller_scales_are_resized_with_corners_aligned() -> None:
    ramp = torch.tensor([1.0, 2.0, 3.0]).expand(1, 1, 3, 3)
    scores = iter([torch.zeros(1, 1, 5, 5), ramp])
    *_, maximum = at_scales(lambda _: next(scores), torch.zeros(1, 3, 8, 8), (1, 0.5))
    assert maximum[0, 0, 0].tolist() == pytest.approx([1, 1.5, 2, 2.5, 3])


@pytest.mark.parametrize(("crop", "grids"), [(321, [41, 21, 31]), (513, [65, 33, 49])])
def test_spnet_s6_grids_of_the_three_scales(crop: int, grids: list[int]) -> None:
    seen: list[int] = []

    def score(pictures: Tensor) -> Tensor:
        seen.append(pictures.shape[-1])
        height, width = feature_grid(tuple(pictures.shape[-2:]), 8)
        return torch.zeros(1, 2, height, width)

    outputs = at_scales(score, torch.zeros(1, 3, crop, crop), (1.0, 0.5, 0.75))
    assert seen == [crop, crop // 2, crop * 3 // 4]
    assert [output.shape[-1] for output in outputs] == [*grids, grids[0]]


def test_spnet_s6_deeplab_v2_has_those_grids() -> None:
    network = backbone(tiny.deeplab_v2()).network.eval()
    with torch.no_grad():
        outputs = at_scales(network.features, torch.zeros(1, 3, 65, 65), (1.0, 0.5, 0.75))
    assert [output.shape[-1] for output in outputs] == [9, 5, 7, 9]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_maximum_is_never_below_the_first_scale(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(1, 3, 12, 16, generator=generator)
    first, second, maximum = at_scales(lambda x: x[:, :, ::2, ::2], pictures, (1.0, 0.5))
    assert second.shape[-2:] == (3, 4)
    assert (maximum >= first).all()
    assert maximum.max() <= max(first.max(), second.max()) + 1e-6


def test_maps_are_the_maximum_of_the_networks_own_scores() -> None:
    found, images = backbone(), torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    maps = maximum_of(found, (1.0, 0.5, 0.75), SingleProcess())(images)
    assert maps.shape == (2, 9, 8, 8)
    alone = maximum_of(found, (1.0,), SingleProcess())(images)
    assert (maps >= alone).all()
    with torch.inference_mode():
        own = found.network.classifier(found.features_of(SingleProcess())(images))
    torch.testing.assert_close(alone, own)


def test_stored_scores_are_read_as_they_are() -> None:
    scores = torch.randn(4, 5, 9)
    found = of_scores(tiny.SPLIT).logits(scores, (4, 5))
    torch.testing.assert_close(found, scores.permute(2, 0, 1))


# --- loss (spnet §3) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "resized"), [("corners", corner_nearest), ("floor", floor_nearest)]
)
def test_the_loss_is_the_sum_of_four_means(
    rule: str, resized: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
) -> None:
    """spnet O21: not their average; every output has labels of its own grid."""
    torch.manual_seed(0)
    labels = np.stack(tiny.block_maps(2, range(3)))
    outputs = [torch.randn(2, 3, side, side) for side in (8, 4, 6, 8)]
    expected = 0.0
    for output in outputs:
        small = np.stack([resized(one, tuple(output.shape[-2:])) for one in labels])
        target = torch.from_numpy(small.astype(np.int64))
        expected += F.cross_entropy(output, target, ignore_index=IGNORE_INDEX).item()
    found = sum_of_means(outputs, labels, label_rule=rule)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_a_labelled_pixel_is_harmless() -> None:
    outputs = [torch.randn(2, 3, 8, 8, requires_grad=True)]
    loss = sum_of_means(outputs, np.full((2, 32, 32), IGNORE_INDEX, np.uint8), label_rule="corners")
    loss.backward()
    assert loss.item() == 0
    assert outputs[0].grad is not None
    assert not outputs[0].grad.any()
