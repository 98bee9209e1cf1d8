"""Oracle checks of JoEm's networks and losses (joem §11, Errata)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zslib.benchmark import Split
from zslib.grids import floor_nearest
from zslib.methods.joem.cells import Cells
from zslib.methods.joem.closed_form import Moments, solve
from zslib.methods.joem.networks import SemanticEncoder, VisualHead, with_void
from zslib.methods.joem.objectives import (
    boundary_aware_regression,
    consistency_classes,
    mixing_weights,
    neighbourhoods,
    pairwise_distances,
    sample_labels,
    semantic_consistency,
)
from zslib.params.joem import JoemObjectives
from zslib.training import poly_lr

HALF = JoemObjectives(ratio=0.5)
RELEASED = HALF.model_copy(update={"mixing": "released"})
CENTER_LOSS = JoemObjectives(ratio=1.0)
VOID = 255


def row(*labels: int) -> Tensor:
    """Return one label map of one line."""
    return torch.tensor([[labels]], dtype=torch.uint8)


# --- labels and mixtures -------------------------------------------------------------------------

J1 = {
    (8, 3): [0, 2, 5],
    (312, 19): [0, 16, 32, 49, 65, 82, 98, 114, 131, 147, 164, 180, 197, 213, 229, 246, 262, 279,
                295],
    (312, 78): list(range(0, 312, 4)),
}  # fmt: skip


@pytest.mark.parametrize(("sizes", "expected"), J1.items(), ids=str)
def test_joem_j1_nearest_indices(sizes: tuple[int, int], expected: list[int]) -> None:
    assert sampled(*sizes, "released") == expected


def test_joem_j1_nearest_indices_of_the_spnet_setting() -> None:
    found = sampled(321, 20, "released")
    assert (found[:5], found[-1]) == ([0, 16, 32, 48, 64], 304)


def sampled(size: int, cells: int, form: str) -> list[int]:
    """Return which pixels of a line are sampled; there are more of them than labels."""
    high, low = (torch.arange(size).div(by, rounding_mode="floor") % 251 for by in (251, 1))
    found = [
        sample_labels(part.to(torch.uint8)[None, None], (1, cells), form)[0, 0].int()
        for part in (high, low)
    ]
    return (251 * found[0] + found[1]).tolist()


@given(size=st.integers(1, 400), cells=st.integers(1, 60))
def test_labels_are_sampled_at_the_centre_or_at_the_corner_of_a_cell(size: int, cells: int) -> None:
    pixels = torch.arange(size, dtype=torch.int64).remainder(251).to(torch.uint8)[None, None]
    centres = [int(np.floor((k + 0.5) * size / cells)) % 251 for k in range(cells)]
    assert sample_labels(pixels, (1, cells), "clean")[0, 0].tolist() == centres
    expected = floor_nearest(pixels[0].numpy(), (1, cells))
    np.testing.assert_array_equal(sample_labels(pixels, (1, cells), "released")[0], expected)


WORDS = torch.eye(2)


def affine() -> SemanticEncoder:
    """Return the encoder of J2: W = diag(2, 4), b = (1, 1)."""
    encoder = SemanticEncoder(2, 2)
    encoder.affine.weight.data = torch.tensor([2.0, 4.0]).diag()
    encoder.affine.bias.data = torch.ones(2)
    return encoder


def mixed(labels: Tensor, objectives: JoemObjectives) -> tuple[Tensor, float]:
    """Return the mixed prototypes of a line of cells, and L_bar with v = (2, 2) everywhere."""
    grid = (1, labels.shape[-1])
    weights, valid = mixing_weights(labels, grid, 2, objectives)
    table = affine().table(WORDS)
    features = torch.full((1, *grid, 2), 2.0)
    total, count = boundary_aware_regression(features, weights, table, valid)
    return (weights @ table)[0, 0], (total / count).item()


def test_joem_j2_boundary_aware_regression() -> None:
    weights, valid = mixing_weights(row(0, 0, 1, 1), (1, 4), 2, HALF)
    assert weights[0, 0, :, 1].tolist() == [0, 0.25, 0.75, 1]
    assert valid.all()
    prototypes, loss = mixed(row(0, 0, 1, 1), HALF)
    assert prototypes.tolist() == [[3, 1], [2.5, 2], [1.5, 4], [1, 5]]
    assert (prototypes - 2).square().sum(1).tolist() == [2, 0.25, 4.25, 10]
    assert loss == 2.0625
    assert mixed(row(0, 0, 1, 1), CENTER_LOSS)[1] == 3.0


def test_joem_j3_void_draws_nothing_unless_as_released() -> None:
    prototypes, loss = mixed(row(0, 0, VOID, VOID), RELEASED)
    assert prototypes.tolist() == [[3, 1], [2.5, 1], [1.5, 1], [1, 1]]
    assert loss == 0.8125
    prototypes, loss = mixed(row(0, 0, VOID, VOID), HALF)
    assert prototypes[:3].tolist() == [[3, 1]] * 3
    assert loss == 1.0


def test_joem_9_7_a_neighbour_of_which_rounding_leaves_a_trace_is_none() -> None:
    """Cells of row 2 lie in the middle of the upper coarse cells, which are void."""
    labels = torch.zeros(1, 20, 20, dtype=torch.uint8)
    labels[0, 5, [5, 15]] = VOID
    _, valid = mixing_weights(labels, (10, 10), 2, JoemObjectives())
    assert not valid[0, 2].any()
    assert valid[0, 3].all()


def test_joem_j10_registration_as_released() -> None:
    """An edge at column 156 of 312; cell 39 is the first whose own label is B."""
    labels = torch.zeros(1, 312, 312, dtype=torch.uint8)
    labels[..., 156:] = 1
    released = JoemObjectives(mixing="released")
    weights, _ = mixing_weights(labels, (78, 78), 2, released)
    found = weights[0, 40, 38:44, 1].tolist()
    assert found == pytest.approx([0, 0.122, 0.365, 0.609, 0.853, 1], abs=1e-3)
    own = sample_labels(labels, (78, 78), "released")[0, 0]
    assert own.tolist().index(1) == 39


@pytest.mark.parametrize(
    ("cells", "ratio", "size", "released"), [(78, 0.25, 312, 2.05), (41, 0.5, 321, 1.02)]
)
def test_joem_e7_sampling_at_centres_displaces_no_boundary(
    cells: int, ratio: float, size: int, released: float
) -> None:
    """Displacement, in cells, of the crossing of 1/2 against the true edge, over all edges."""
    edges = np.arange(size // 4, 3 * size // 4)
    labels = torch.from_numpy(np.arange(size)[None] >= edges[:, None]).to(torch.uint8)[:, None]
    for mixing, expected in [("clean", 0.0), ("released", released)]:
        objectives = JoemObjectives(ratio=ratio, mixing=mixing)
        weights, _ = mixing_weights(labels, (1, cells), 2, objectives)
        of_second = weights[:, 0, :, 1].numpy()
        crossings = [np.interp(0.5, line, np.arange(cells) + 0.5) for line in of_second]
        displacement = np.mean(crossings - edges * cells / size)
        assert displacement == pytest.approx(expected, abs=0.06)


label_maps = st.lists(st.sampled_from([0, 1, 2, VOID]), min_size=24, max_size=24).map(
    lambda labels: torch.tensor(labels, dtype=torch.uint8).reshape(1, 4, 6)
)
any_objectives = st.builds(
    JoemObjectives,
    ratio=st.sampled_from([0.25, 0.5, 1.0]),
    mixing=st.sampled_from(["clean", "released"]),
)


@settings(deadline=None)
@given(labels=label_maps, objectives=any_objectives)
def test_weights_are_those_of_a_mean_and_void_has_none_in_clean_form(
    labels: Tensor, objectives: JoemObjectives
) -> None:
    weights, valid = mixing_weights(labels, (8, 12), 3, objectives)
    assert weights.shape == (1, 8, 12, 4)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights[valid].sum(-1), torch.ones(int(valid.sum())))
    if objectives.mixing == "clean":
        assert not weights[..., 3].any()
        assert not weights[~valid].sum(-1).gt(1 + 1e-6).any()
    own = sample_labels(labels, (8, 12), objectives.mixing)
    assert not valid[own == VOID].any()


@settings(deadline=None)
@given(labels=label_maps, objectives=any_objectives)
def test_mixing_embeddings_before_encoding_equals_mixing_prototypes(
    labels: Tensor, objectives: JoemObjectives
) -> None:
    torch.manual_seed(0)
    words, encoder = torch.randn(3, 5), SemanticEncoder(5, 7)
    weights, valid = mixing_weights(labels, (8, 12), 3, objectives)
    before = encoder((weights @ with_void(words)).reshape(-1, 5)).reshape(1, 8, 12, 7)
    after = weights @ encoder.table(words)
    torch.testing.assert_close(before[valid], after[valid], atol=1e-5, rtol=1e-5)


def test_a_map_of_void_gives_a_loss_of_zero_and_finite_gradients() -> None:
    """joem §9.13."""
    labels = torch.full((2, 8, 8), VOID, dtype=torch.uint8)
    weights, valid = mixing_weights(labels, (4, 4), 2, HALF)
    features = torch.ones(2, 4, 4, 2, requires_grad=True)
    encoder = affine()
    total, count = boundary_aware_regression(features, weights, encoder.table(WORDS), valid)
    (total / count.clamp(min=1)).backward()
    assert (total.item(), count.item()) == (0, 0)
    assert torch.isfinite(weights).all()
    assert not features.grad.any()
    assert not encoder.affine.weight.grad.any()


def test_cells_that_do_not_count_have_no_gradient() -> None:
    weights, valid = mixing_weights(row(0, 0, VOID, VOID), (1, 4), 2, HALF)
    features = torch.zeros(1, 1, 4, 2, requires_grad=True)
    total, _ = boundary_aware_regression(features, weights, affine().table(WORDS), valid)
    total.backward()
    assert features.grad.ne(0).any(-1).flatten().tolist() == [True, True, False, False]


# --- semantic consistency ------------------------------------------------------------------------

LINE = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
MOVED = torch.tensor([[0.0], [2.0], [3.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("temperature", "form", "rows", "expected"),
    [
        (1.0, "clean", [0.080330, 0.154698, 0.064971], 0.0999997),
        (1.0, "released_context", [0.080316, 0.154698, 0.064985], 0.0333332),
        (5.0, "clean", [0.143048, 0.380362, 0.348554], 0.290655),
        (5.0, "released_context", [0.143063, 0.380395, 0.348584], 0.0968935),  # joem E3
    ],
)
def test_joem_j4_semantic_consistency(
    temperature: float, form: str, rows: list[float], expected: float
) -> None:
    objectives = JoemObjectives(temperature=temperature, consistency=form)
    log_p, log_q = neighbourhoods(LINE, MOVED, objectives)
    divergences = (log_p.exp() * (log_p - log_q)).sum(1)
    assert divergences.tolist() == pytest.approx(rows, abs=5e-7)
    found = semantic_consistency(LINE, MOVED, objectives).item()
    assert found == pytest.approx(expected, abs=1e-6 if temperature == 5 else 5e-8)


def test_joem_j4_a_scaled_line_is_consistent() -> None:
    assert semantic_consistency(LINE, 5 * LINE, JoemObjectives()).item() == pytest.approx(
        0, abs=1e-12
    )


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0.5, 10), other=st.floats(0.5, 3))
def test_joem_3_3_consistency_is_zero_for_a_scaled_isometry(
    seed: int, temperature: float, other: float
) -> None:
    rng = np.random.default_rng(seed)
    words, shift = torch.from_numpy(rng.normal(size=(6, 4))), torch.from_numpy(rng.normal(size=4))
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(4, 4)))[0])
    objectives = JoemObjectives(temperature=temperature, prototype_temperature=other)
    scaled = temperature / other * (words @ turn) + shift
    assert semantic_consistency(words, scaled, objectives).item() == pytest.approx(0, abs=1e-9)
    assert semantic_consistency(words, 0.5 * scaled, objectives) > 0


@pytest.mark.parametrize("form", ["clean", "released_context"])
def test_joem_o14_gradients_are_finite_where_prototypes_coincide(form: str) -> None:
    """On the diagonal always; here between two classes as well."""
    prototypes = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    words = torch.tensor([[0.0], [1.0], [3.0]])
    semantic_consistency(words, prototypes, JoemObjectives(consistency=form)).backward()
    assert torch.isfinite(prototypes.grad).all()
    assert prototypes.grad[2].any()


def test_joem_o13_gradients_reach_the_prototypes_only() -> None:
    words = torch.randn(4, 3, requires_grad=True)
    prototypes = torch.randn(4, 5, requires_grad=True)
    semantic_consistency(words, prototypes, JoemObjectives()).backward()
    assert words.grad is None or not words.grad.any()
    assert prototypes.grad.any()


def test_background_and_unseen_classes_need_not_be_consistent() -> None:
    split = Split.from_ids("s", ("background", "a", "b", "c"), [2], [])
    assert consistency_classes(split) == (1, 3)


def test_distances_are_exact_where_they_are_small() -> None:
    rows = torch.tensor([[1000.0, 0.0], [1000.0, 0.001]])
    assert pairwise_distances(rows)[0, 1].item() == pytest.approx(0.001, rel=1e-6)


# --- the rest of the specification ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "epoch", "expected"),
    [
        *[(50, 1, 2.5e-4), (50, 2, 2.454955e-4), (50, 26, 1.339717e-4), (50, 50, 7.393788e-6)],
        *[(200, 2, 2.488747e-4), (200, 101, 1.339717e-4), (200, 200, 2.123308e-6)],
    ],
)
def test_joem_j7_learning_rate(epochs: int, epoch: int, expected: float) -> None:
    assert poly_lr(2.5e-4, epoch - 1, epochs) == pytest.approx(expected, rel=1e-6)


J8 = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
TARGETS = torch.tensor([[3, 1], [2.5, 2], [1.5, 4], [1, 5]], dtype=torch.float16)


def moments(weights: Tensor) -> Moments:
    """Return those of the targets' cells, two to a map."""
    padded = torch.nn.functional.pad(weights, (0, 1))
    labels = torch.tensor([0, 0, 1, 1], dtype=torch.uint8)
    return Moments.of(Cells(TARGETS[i:j], padded[i:j], labels[i:j]) for i, j in ((0, 2), (2, 4)))


def solved(weights: Tensor) -> Tensor:
    objectives = JoemObjectives(consistency_weight=0.0)
    return solve(moments(weights), WORDS, (0, 1), objectives, ridge=1e-10, steps=0)


def test_joem_j8_prototypes_by_least_squares() -> None:
    found = moments(J8)
    assert (4 * found.weights[:2, :2]).tolist() == [[1.625, 0.375], [0.375, 1.625]]
    assert (4 * found.features[:2]).tolist() == [[5.25, 3.5], [2.75, 8.5]]
    torch.testing.assert_close(
        solved(J8), torch.tensor([[3.0, 1.0], [1.0, 5.0]]), atol=1e-5, rtol=0
    )


def test_joem_j8_center_loss_gives_class_means() -> None:
    means = torch.tensor([[2.75, 1.5], [1.25, 4.5]])
    torch.testing.assert_close(solved(J8.round()), means, atol=1e-5, rtol=0)


def test_joem_2_3_the_semantic_encoder_at_its_start() -> None:
    torch.manual_seed(0)
    encoder = SemanticEncoder(300, 256)
    assert (encoder.affine.bias == 0.01).all()
    assert encoder.affine.weight.var().item() == pytest.approx(2 / 556, rel=0.02)
    words = torch.randn(4, 300)
    torch.testing.assert_close(encoder.table(words)[:4], encoder(words))
    assert (encoder.table(words)[4] == 0.01).all()


def test_a_folded_head_is_the_head_in_eval_mode() -> None:
    torch.manual_seed(0)
    head, features = VisualHead(5, 7, 3), torch.randn(64, 5)
    for _ in range(5):
        head(3 * features + 1)
    weight, bias = head.folded()
    expected = head.eval()(features)
    found = torch.nn.functional.linear(features, weight, bias).relu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
