"""SAZS's targets and losses against their numbers (sazs §3, checks 4, 5)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from zslib.benchmark import IGNORE_INDEX
from zslib.grids import corner_nearest
from zslib.methods.sazs.margins import upsampled
from zslib.methods.sazs.objectives import (
    alignment_loss,
    attention_loss,
    binary_targets,
    cells_with_any,
    class_outline,
    class_weights,
    comparable,
    directions,
    edge_loss,
    edge_targets,
    joint_alignment_loss,
    losses,
    released_outlines,
    subsample,
)
from zslib.methods.sazs.shape import DistanceRegressor, shape_loss
from zslib.params.sazs import SazsObjectives

PASCAL = 20
"""Values with a channel."""


def labels(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.uint8))[None]


# --- edges (sazs §3.2) ---------------------------------------------------------------------------


def slow_outlines(label_map: np.ndarray, channels: int) -> np.ndarray:
    """The definition: of every value's mask, padded with zeros, distances up to 2 on either side."""
    edges = np.zeros(label_map.shape, bool)
    for value in range(channels):
        mask = np.pad(label_map == value, 1)
        distance = distance_transform_edt(mask) + distance_transform_edt(~mask)
        if mask.any():
            edges |= ((distance > 0) & (distance <= 2))[1:-1, 1:-1]
    return edges


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0, 1, 2, 19, 20, 255]),
    )
)
def test_sazs_o3_the_fast_rule_equals_the_slow_definition(label_map: np.ndarray) -> None:
    found = released_outlines(labels(label_map), PASCAL)[0].numpy()
    np.testing.assert_array_equal(found, slow_outlines(label_map, PASCAL))


def test_sazs_check_4_edges_of_an_object_and_of_the_frame() -> None:
    scene = np.zeros((20, 20))
    scene[8:12, 8:12] = 3
    found = released_outlines(labels(scene), PASCAL)[0]
    frame = torch.ones(20, 20, dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    assert int(found.sum()) == 196
    assert int((found & frame).sum()) == int(frame.sum()) == 144
    assert int((found & ~frame).sum()) == 52


def test_sazs_check_4_background_alone_and_an_object_without_a_channel() -> None:
    assert int(released_outlines(labels(np.zeros((6, 6))), PASCAL).sum()) == 32
    scene = np.full((20, 20), IGNORE_INDEX)
    scene[8:12, 8:12] = 20
    assert not released_outlines(labels(scene), PASCAL).any()


def grid_of_edges(scene: np.ndarray, form: str) -> Tensor:
    classes = torch.tensor([1])
    rule = {"channels": PASCAL, "form": form, "corners": False}
    return edge_targets(labels(scene), classes, (64, 64), **rule)[0]


def test_sazs_check_4_the_frame_survives_subsampling_on_two_sides() -> None:
    found = grid_of_edges(np.zeros((512, 512)), "released")
    assert int(found.sum()) == 127
    assert found[0].all()
    assert found[:, 0].all()


def test_sazs_check_4_half_of_the_straight_boundaries_are_missed_as_released() -> None:
    expected = [True, True, True, False, False, False, False, True]
    for offset, hit in enumerate(expected):
        scene = np.zeros((512, 512))
        scene[:, 200 + offset :] = 1
        inner = (slice(8, -8), slice(8, -8))
        assert bool(grid_of_edges(scene, "released")[inner].any()) == hit
        assert grid_of_edges(scene, "clean")[inner].any(), "8x8 max-pooling misses none"


def test_sazs_8_1_d_clean_edges_are_those_of_the_class_without_the_frame() -> None:
    scene = np.zeros((64, 64))
    scene[:32, :32], scene[40:60, 40:60] = 1, 7
    of_class = torch.from_numpy(scene == 1)
    found = class_outline(binary_targets(labels(scene), torch.tensor([1]), void="others"))[0]
    assert found[30:34, :32].all()
    assert not found[:30, :30].any(), "the crop's frame is no edge"
    assert not found[36:, 36:].any(), "nor is the outline of another class"
    assert bool((found & of_class).any())
    assert bool((found & ~of_class).any())


def test_an_outline_at_the_last_class_is_an_edge_in_the_clean_form() -> None:
    scene = np.full((64, 64), IGNORE_INDEX)
    scene[20:40, 20:40] = 20
    tv, rule = torch.tensor([20]), {"channels": PASCAL, "corners": False}
    assert edge_targets(labels(scene), tv, (8, 8), form="clean", **rule).any()
    assert not edge_targets(labels(scene), tv, (8, 8), form="released", **rule).any()


@pytest.mark.parametrize(("form", "expected"), [("clean", [0, 1]), ("released", [0, 8])])
def test_edges_lie_where_corners_aligned_cells_do(form: str, expected: list[int]) -> None:
    """9 cells on pixels 0, 8, .. 64: an outline on 3..6 is near two; the frame is under the last."""
    scene = np.zeros((65, 65))
    scene[:, 5:] = 1
    rule = {"channels": PASCAL, "form": form, "corners": True}
    edges = edge_targets(labels(scene), torch.tensor([1]), (9, 9), **rule)[0]
    assert edges[4].nonzero().flatten().tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.booleans()),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_a_marked_pixel_marks_the_corners_aligned_cell_that_it_is_nearest_to(
    marked: np.ndarray, most: tuple[int, int]
) -> None:
    grid = (min(most[0], marked.shape[0]), min(most[1], marked.shape[1]))
    expected = np.zeros(grid, bool)
    for pixel in np.argwhere(marked):
        steps = [(g - 1) / max(n - 1, 1) for g, n in zip(grid, marked.shape, strict=True)]
        expected[tuple(np.rint(pixel * steps).astype(int))] = True
    found = cells_with_any(torch.from_numpy(marked)[None], grid, corners=True)[0]
    np.testing.assert_array_equal(found.numpy(), expected)


# --- targets and scores --------------------------------------------------------------------------


def test_sazs_3_1_labels_are_subsampled_by_8_from_the_first_row() -> None:
    rows = np.arange(512).reshape(512, 1) % 251 + np.zeros((1, 512))
    found = subsample(labels(rows), (64, 64), corners=False)[0]
    assert found[:, 0].tolist() == [(8 * i) % 251 for i in range(64)]


@pytest.mark.parametrize(("size", "grid"), [((96, 96), (24, 24)), ((31, 50), (8, 7))])
def test_labels_of_corners_aligned_cells_are_those_under_them(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    scene = np.random.default_rng(0).integers(0, 9, size)
    found = subsample(labels(scene), grid, corners=True)[0]
    np.testing.assert_array_equal(found, corner_nearest(scene.astype(np.uint8), grid))


def test_corners_aligned_targets_are_found_where_they_were_learned() -> None:
    """Margins that fit the targets of a boundary put it back within half a cell, wherever it is."""
    for boundary in range(2, 95):
        scene = np.zeros((96, 96))
        scene[:, boundary:] = 1
        targets = subsample(labels(scene), (24, 24), corners=True)[0]
        margins = upsampled(targets.float() - 0.5, (96, 96), corners=True)
        found = int((margins[0] <= 0).sum())
        assert abs(found - boundary) <= (95 / 23 + 1) / 2


def test_sazs_8_1_e_void_is_ignored_or_others() -> None:
    scene = labels(np.array([[3, 5, 255]]))
    assert binary_targets(scene, torch.tensor([3]), void="ignore").tolist() == [[[1, 0, 255]]]
    assert binary_targets(scene, torch.tensor([3]), void="others").tolist() == [[[1, 0, 0]]]


def test_sazs_2_5_the_margin_is_that_of_the_2_way_log_softmax() -> None:
    torch.manual_seed(0)
    pixel, text = torch.randn(8), torch.randn(2, 8)
    margin = (directions(text[1:], text[0], "sazs") @ pixel)[0]
    others, own = (text @ pixel).log_softmax(0)
    torch.testing.assert_close(margin, own - others)
    targets = torch.ones(1, 1, 1, dtype=torch.uint8)
    torch.testing.assert_close(alignment_loss(margin.reshape(1, 1, 1), targets), -own)


def test_sazs_2_4_the_form_of_lseg_is_a_difference_of_cosines_over_0_07() -> None:
    torch.manual_seed(0)
    pixel, text = torch.randn(1, 8, 1, 1), torch.randn(2, 8)
    cosine = nn.functional.cosine_similarity(pixel[..., 0, 0], text)
    direction = directions(text[1:], text[0], "lseg")
    found = direction @ comparable(pixel, "lseg")[0, :, 0, 0]
    torch.testing.assert_close(found[0], (cosine[1] - cosine[0]) * (1 / 0.07))


# --- losses --------------------------------------------------------------------------------------


def test_sazs_check_5_the_edge_loss() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).reshape(1, 1, 4)
    edges = torch.tensor([True, False, False, False]).reshape(1, 1, 4)
    terms = torch.tensor([0.126928, 0.313262, 0.974077, 0.048587])
    expected = (terms * torch.tensor([0.75, 0.25, 0.25, 0.25])).mean()
    assert float(edge_loss(logits, edges)) == pytest.approx(0.107294, abs=1e-6)
    torch.testing.assert_close(edge_loss(logits, edges), expected, atol=1e-6, rtol=1e-5)


def test_sazs_check_5_class_weights() -> None:
    assert class_weights(torch.tensor([48, 16])).tolist() == [1.25, 1.75]


def test_sazs_3_4_attention_is_a_weighted_mean_per_image_summed() -> None:
    torch.manual_seed(0)
    margins, edges = torch.randn(2, 4, 4), torch.randn(2, 4, 4)
    targets = torch.randint(0, 2, (2, 4, 4), dtype=torch.uint8)
    attended = edges > 0.8
    counts = torch.stack([(attended & (targets == side)).sum() for side in (0, 1)])
    weights = 2 - counts / counts.sum()
    logs = torch.stack([torch.zeros_like(margins), margins]).log_softmax(0)
    expected = sum(
        nn.functional.nll_loss(
            logs[:, i][:, attended[i]].T, targets[i][attended[i]].long(), weights
        )
        for i in range(2)
    )
    torch.testing.assert_close(attention_loss(margins, targets, edges), expected)


def test_sazs_o8_images_without_an_attended_pixel_are_left_out() -> None:
    margins = torch.zeros(2, 2, 2, requires_grad=True)
    edges = torch.full((2, 2, 2), -1.0, requires_grad=True)
    targets = torch.ones(2, 2, 2, dtype=torch.uint8)
    assert attention_loss(margins, targets, edges) == 0
    raised = torch.stack([edges[0], edges[1] + 2])
    found = attention_loss(margins, targets, raised)
    assert found.item() == pytest.approx(math.log(2))
    found.backward()
    assert not margins.grad[0].any()
    assert edges.grad is None or not edges.grad.any(), "no gradient through the threshold"


def test_void_pixels_draw_no_loss() -> None:
    margins = torch.randn(1, 2, 2)
    void = torch.full((1, 2, 2), IGNORE_INDEX, dtype=torch.uint8)
    assert alignment_loss(margins, void) == 0
    assert attention_loss(margins, void, torch.ones(1, 2, 2)) == 0
    assert joint_alignment_loss(margins[:, None], void, [0]) == 0


def test_the_papers_softmax_is_over_the_texts_of_all_named_classes_and_others() -> None:
    torch.manual_seed(0)
    margins = torch.randn(1, 4, 2, 2)
    shown = torch.tensor([[[0, 3], [1, 255]]], dtype=torch.uint8)
    scores = torch.cat([torch.zeros(1, 1, 2, 2), margins[:, [1, 3]]], 1)
    wanted = torch.tensor([[[0, 2], [1, 255]]])
    expected = nn.functional.cross_entropy(scores, wanted, ignore_index=255)
    torch.testing.assert_close(joint_alignment_loss(margins, shown, [1, 3]), expected)


# --- shape (sazs §3.5) ---------------------------------------------------------------------------


class Sum(nn.Module):
    """Stands for the regressor: tells what it was given."""

    def forward(self, pairs: Tensor) -> Tensor:
        self.given = pairs
        return pairs.unflatten(1, (4, -1)).mean(2)


def test_sazs_check_5_the_released_shape_loss_has_no_gradient() -> None:
    regressor, logits = Sum(), torch.randn(1, 8, 8, requires_grad=True)
    shape_loss(regressor, logits, torch.ones(1, 8, 8, dtype=torch.bool), "released").backward()
    assert regressor.given.shape == (18, 2 * 224 * 224)
    prediction, target = regressor.given.chunk(2, dim=1)
    assert not prediction.any()
    assert target.min() == 1
    assert not logits.grad.any()


def test_sazs_3_5_clean_square_tiles_and_a_gradient() -> None:
    regressor, logits = Sum(), torch.randn(2, 8, 8, requires_grad=True)
    shape_loss(regressor, logits, torch.zeros(2, 8, 8, dtype=torch.bool), "clean").backward()
    assert regressor.given.shape == (2 * 4, 2 * 224 * 224)
    assert logits.grad.any()
    left = nn.functional.interpolate(logits.sigmoid()[:, None], (448, 448), mode="bilinear")
    first = regressor.given[1, : 224 * 224].reshape(224, 224)
    torch.testing.assert_close(first, left[0, 0, :224, 224:].detach())


def test_sazs_3_5_the_regressor_has_100_385_164_parameters() -> None:
    with torch.device("meta"):
        regressor = DistanceRegressor()
    assert sum(p.numel() for p in regressor.parameters()) == 100_385_164


# --- together ------------------------------------------------------------------------------------


def test_all_losses_are_weighted() -> None:
    torch.manual_seed(0)
    margins, edges = torch.randn(2, 5, 4, 4), torch.randn(2, 4, 4) + 1
    scene = torch.randint(0, 5, (2, 32, 32), dtype=torch.uint8)
    given = (margins, edges, scene, torch.tensor([1, 3]))

    def found(**weights: float) -> dict[str, float]:
        objectives = SazsObjectives(**weights)
        named = losses(*given, objectives, named=[1, 3, 4], corners=True, regressor=Sum())
        return {name: float(value) for name, value in named.items()}

    ones = found(edge_weight=1.0, attention_weight=1.0, inverse_weight=1.0, joint_weight=1.0)
    published = found(joint_weight=0.0)
    expected = {"alignment": 1.0, "edge": 0.3, "attention": 0.1, "shape": 0.3}
    assert set(ones) == {*expected, "joint"}
    assert published == pytest.approx({n: w * ones[n] for n, w in expected.items()}, rel=1e-5)


@pytest.mark.parametrize("form", ["clean", "released"])
def test_every_target_lies_where_the_margins_do(form: str) -> None:
    """Of a scene that is its own mirror image, maps and their mirror images have the same losses."""
    scene = np.zeros((33, 33))
    scene[12:21, 12:21] = 1
    torch.manual_seed(0)
    margins, edges = torch.randn(1, 2, 5, 5), torch.randn(1, 5, 5) + 1

    def found(margins: Tensor, edges: Tensor) -> dict[str, float]:
        given = (margins, edges, labels(scene), torch.tensor([1]))
        named = losses(*given, SazsObjectives(edges=form), named=[1], corners=True)
        return {name: float(value) for name, value in named.items()}

    mirrored = found(margins.flip(-1), edges.flip(-1))
    assert set(mirrored) == {"alignment", "edge", "attention", "joint"}
    assert mirrored == pytest.approx(found(margins, edges), rel=1e-5)
