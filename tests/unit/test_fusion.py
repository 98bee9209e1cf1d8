"""Fusion of predictions with eigenvectors (sazs §4.4, §4.5, §11)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests import tiny
from zslib.artifacts.eigenvectors import EIGENVECTORS, Eigenvectors, scaled_to_one
from zslib.artifacts.maps import LabelMaps, open_labels
from zslib.artifacts.store import write_arrays
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.fusion.rules import (
    connected,
    foreground_iou,
    fuse,
    majority_of_cells,
    pick_by_truth,
    select_by_agreement,
    sign_cells,
    vote_in_cells,
)
from zslib.fusion.segmenter import FusedSegmenter, choose_tau
from zslib.segmenters import Segmenter


def mask(bits: str) -> np.ndarray:
    return np.array([[bit == "1" for bit in bits]])


def signed(*bits: str) -> np.ndarray:
    """Vectors that are positive where bits are 1."""
    return np.stack([np.where(mask(b), 1.0, -1.0) for b in bits])


# --- sazs oracle 9 -------------------------------------------------------------------------------

LABEL, PREDICTION = mask("00011100"), mask("00111000")
MASKS = ("00011100", "11111100", "00110000")


def test_sazs_oracle_9_overlaps() -> None:
    assert foreground_iou(PREDICTION, LABEL) == 0.5
    assert [foreground_iou(mask(m), LABEL) for m in MASKS] == [1, 0.5, 0.25]
    with_prediction = [foreground_iou(mask(m), PREDICTION) for m in MASKS]
    assert with_prediction == pytest.approx([0.5, 0.5, 2 / 3])


def test_sazs_oracle_9_the_published_rule_takes_the_truths_favourite() -> None:
    picked = pick_by_truth(PREDICTION, np.stack([mask(m) for m in MASKS]), LABEL)
    np.testing.assert_array_equal(picked, LABEL)


def test_sazs_oracle_9_agreement_may_hurt() -> None:
    selected = select_by_agreement(PREDICTION, signed(*MASKS), tau=0.5)
    np.testing.assert_array_equal(selected, mask(MASKS[2]))
    assert foreground_iou(selected, LABEL) == 0.25


def test_sazs_oracle_9_unrelated_masks_inflate_the_published_rule() -> None:
    """Prediction IoU from U(0, 1), five unrelated masks from U(0, 1/2): 0.500 becomes 0.589286."""
    rng = np.random.default_rng(0)
    length, total, count = 200, 0.0, 1000
    truth = np.ones((1, length), bool)
    overlaps = rng.integers(0, [length] + [length // 2] * 5, (count, 6), endpoint=True)
    for row in overlaps:
        prediction, *masks = np.arange(length) < row[:, None, None]
        total += foreground_iou(pick_by_truth(prediction, np.stack(masks), truth), truth)
    assert total / count == pytest.approx(1 - 32 * 0.5**7 / 7 - 0.375, abs=0.015)


def test_void_has_no_say_in_the_pick() -> None:
    scored = ~mask("00000011")
    masks = np.stack([mask("00011111"), mask("00011000")])
    assert (pick_by_truth(PREDICTION, masks, LABEL, scored) == masks[0]).all()
    assert (pick_by_truth(PREDICTION, masks, LABEL) == masks[1]).all()


def test_of_equals_the_prediction_is_picked() -> None:
    prediction, other = mask("00110000"), mask("00001100")
    truth = mask("00011000")
    assert (pick_by_truth(prediction, other[None], truth) == prediction).all()


# --- sazs oracle 10 ------------------------------------------------------------------------------

SHAPE = (4, 5)
masks = arrays.arrays(bool, SHAPE)
vectors = arrays.arrays(np.float64, (3, *SHAPE), elements=st.sampled_from([-2.0, -1, 0, 1, 2]))
signs = arrays.arrays(np.float64, (3, 1, 1), elements=st.sampled_from([-1.0, 1.0]))
margins = arrays.arrays(np.float64, SHAPE, elements=st.integers(-9, 9).map(float))
label_maps = arrays.arrays(np.uint8, SHAPE, elements=st.integers(0, 3))
cell_maps = arrays.arrays(np.int64, SHAPE, elements=st.integers(0, 4))


@given(masks, vectors)
def test_no_mask_agrees_by_more_than_one(prediction: np.ndarray, vectors: np.ndarray) -> None:
    selected = select_by_agreement(prediction, vectors, tau=1.01)
    np.testing.assert_array_equal(selected, prediction)


@given(masks, vectors, signs)
def test_selection_does_not_know_signs(
    prediction: np.ndarray, vectors: np.ndarray, flips: np.ndarray
) -> None:
    selected = select_by_agreement(prediction, vectors, tau=0.3)
    flipped = select_by_agreement(prediction, vectors * flips, tau=0.3)
    np.testing.assert_array_equal(selected, flipped)


@given(margins, vectors, signs, st.sampled_from([0.2, 0.7, 1.0]))
def test_the_vote_does_not_know_signs(
    margin: np.ndarray, vectors: np.ndarray, flips: np.ndarray, unsure: float
) -> None:
    voted = vote_in_cells(margin, sign_cells(vectors), unsure=unsure)
    flipped = vote_in_cells(margin, sign_cells(vectors * flips), unsure=unsure)
    np.testing.assert_array_equal(voted, flipped)


@given(masks, arrays.arrays(bool, (3, *SHAPE)), masks)
def test_the_pick_by_truth_never_lowers_an_iou(
    prediction: np.ndarray, masks: np.ndarray, truth: np.ndarray
) -> None:
    picked = pick_by_truth(prediction, masks, truth)
    assert foreground_iou(picked, truth) >= foreground_iou(prediction, truth)


def test_a_cell_goes_where_its_mean_margin_does() -> None:
    cells = np.array([[0, 0, 0, 1, 1, 1]])
    margin = np.array([[5.0, -1, -1, -4, 1, 1]])
    assert vote_in_cells(margin, cells).tolist() == [[True] * 3 + [False] * 3]
    # With half of the pixels open to change, those of |margin| 1 follow; all others are sure.
    assert vote_in_cells(margin, cells, unsure=0.5).tolist() == [[True] * 3 + [False] * 3]
    margin = np.array([[9.0, -3, -1, -8, 2, 1]])
    voted = vote_in_cells(margin, cells, unsure=0.3)
    assert voted.tolist() == [[True, False, True, False, True, False]]


# --- many classes --------------------------------------------------------------------------------


def test_cells_are_patterns_of_signs() -> None:
    cells = sign_cells(signed("1100", "1010"))
    assert len(set(cells.ravel().tolist())) == 4
    assert sign_cells(np.zeros((0, 2, 3))).max() == 0


def test_parts_that_lie_apart_are_cells_of_their_own() -> None:
    cells = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 0]])
    parts = connected(cells)
    assert parts.max() == 3
    assert parts[0, 0] != parts[2, 0]
    assert len({*parts[:, 2]}) == 1


def test_a_cell_changes_from_the_share_tau_on() -> None:
    prediction = np.array([[1, 1, 1, 2, 2, 1]], np.uint8)
    cells = np.array([[0, 0, 0, 0, 1, 1]])
    labels, shares = majority_of_cells(prediction, cells)
    assert labels.tolist() == [1, 1], "of equals the lowest label"
    assert shares.tolist() == [0.75, 0.5]
    assert fuse(prediction, cells, tau=0.75).tolist() == [[1, 1, 1, 1, 2, 1]]
    assert fuse(prediction, cells, tau=0.76).tolist() == prediction.tolist()
    assert fuse(prediction, cells, tau=0.5).tolist() == [[1] * 6]


@given(label_maps, cell_maps, st.floats(0, 1.2))
def test_fusion_invents_nothing(prediction: np.ndarray, cells: np.ndarray, tau: float) -> None:
    cells = connected(cells)
    fused = fuse(prediction, cells, tau=tau)
    changed = fused != prediction
    for cell in np.unique(cells[changed]):
        inside = cells == cell
        (label,) = set(fused[inside].tolist())
        share = (prediction[inside] == label).mean()
        assert share >= tau
        assert share == max((prediction[inside] == c).mean() for c in range(4))
    if tau > 1:
        assert not changed.any()


# --- any segmenter -------------------------------------------------------------------------------

SIZE = (8, 8)
HALVES = np.where(np.arange(8) < 4, 1.0, -1.0) * np.ones(SIZE)


@dataclass(frozen=True)
class Fixed:
    """Predicts given label maps; among unseen classes the first of them."""

    maps: list[np.ndarray]
    split: Split = tiny.SPLIT
    meta: dict = field(default_factory=lambda: {"gamma": 1})

    @property
    def ids(self) -> tuple[str, ...]:
        return tiny.image_ids(len(self.maps))

    def view(self, position: int) -> tuple[int, int]:
        return self.maps[position].shape

    def predict(self, position: int, size: tuple[int, int]) -> np.ndarray:
        assert size == self.maps[position].shape
        return self.maps[position]

    def among_unseen(self) -> "Fixed":
        return Fixed([np.full_like(m, self.split.unseen[0]) for m in self.maps], meta={})


@pytest.fixture
def eigenvectors(tmp_path: Path) -> Eigenvectors:
    """Two images that their one vector cuts in halves."""
    rows = scaled_to_one(np.stack([HALVES.reshape(-1)] * 2)).reshape(-1, 1)
    content = {
        "vectors": rows,
        "eigenvalues": np.zeros((2, 2)),
        "offsets": np.array([0, 64, 128]),
        "grids": np.array([SIZE] * 2, np.int32),
        "covered": np.ones((2, 2)),
    }
    meta = {"ids": list(tiny.image_ids(2)), "aligned": "corners"}
    write_arrays(tmp_path / "eigenvectors.h5", content, schema=EIGENVECTORS, meta=meta)
    return Eigenvectors.open(tmp_path / "eigenvectors.h5")


TRUTH = np.where(HALVES > 0, 0, 1).astype(np.uint8)


def speckled(seed: int, share: float) -> np.ndarray:
    """The truth, wrong in a share of its pixels."""
    wrong = np.random.default_rng(seed).random(SIZE) < share
    return np.where(wrong, 2, TRUTH).astype(np.uint8)


def labels(folder: Path, maps: list[np.ndarray]) -> LabelMaps:
    return open_labels(tiny.write_labels(folder / "labels.h5", maps))


def test_a_fused_segmenter_is_a_segmenter(eigenvectors: Eigenvectors) -> None:
    plain = Fixed([speckled(0, 0.2), speckled(1, 0.2)])
    fused = FusedSegmenter(plain, eigenvectors, 0.5, {"chosen": 0.5})
    assert isinstance(fused, Segmenter)
    assert (fused.ids, fused.split, fused.view(0)) == (plain.ids, plain.split, SIZE)
    np.testing.assert_array_equal(fused.predict(1, SIZE), TRUTH)
    assert fused.meta["gamma"] == 1
    assert fused.meta["tau"]["chosen"] == 0.5
    assert (fused.among_unseen().predict(0, SIZE) == tiny.UNSEEN[0]).all()


DRAWS = [tiny.SPLIT.hide([hidden]) for hidden in (0, 1)]
"""Either half of the truth plays the unseen class once."""


def held_out(*maps: np.ndarray) -> list[Fixed]:
    return [Fixed(list(maps), split) for split in DRAWS]


def test_what_helps_held_out_classes_is_chosen(eigenvectors: Eigenvectors, tmp_path: Path) -> None:
    rehearsals = held_out(speckled(0, 0.2), speckled(1, 0.2))
    known = labels(tmp_path, [TRUTH] * 2)
    tau, choice = choose_tau(rehearsals, known, eigenvectors, [1.1, 0.99, 0.5])
    assert tau == choice["chosen"] == 0.5
    names = tiny.SPLIT.classes
    assert choice["held_out"] == [[names[0]], [names[1]]]
    for draw in choice["hiou"]:
        assert draw[0] == draw[1] < draw[2] == 1


def test_what_a_draw_hides_decides_alone(eigenvectors: Eigenvectors, tmp_path: Path) -> None:
    """Fusion loses class 3 to the cell around it, and hIoU is 0 where it plays the unseen class."""
    small = TRUTH.copy()
    small[0, :2] = 3
    rehearsals = [Fixed([small, small], tiny.SPLIT.hide([3]))]
    known = labels(tmp_path, [small] * 2)
    tau, choice = choose_tau(rehearsals, known, eigenvectors, [1.1, 0.5])
    assert tau == 1.1
    assert choice["hiou"] == [[1, 0]]
    fused = FusedSegmenter(rehearsals[0], eigenvectors, tau, choice)
    np.testing.assert_array_equal(fused.predict(0, SIZE), small)


def test_of_equals_the_first_is_chosen(eigenvectors: Eigenvectors, tmp_path: Path) -> None:
    known = labels(tmp_path, [TRUTH] * 2)
    for candidates in ([1.2, 1.1], [1.1, 1.2]):
        tau, _ = choose_tau(held_out(TRUTH, TRUTH), known, eigenvectors, candidates)
        assert tau == candidates[0]


def test_unseen_pixels_have_no_say_in_the_choice(
    eigenvectors: Eigenvectors, tmp_path: Path
) -> None:
    rehearsals, choices = held_out(speckled(0, 0.2), speckled(1, 0.2)), []
    for unseen in tiny.UNSEEN:
        truth = TRUTH.copy()
        truth[:, 5:] = unseen
        folder = tmp_path / str(unseen)
        folder.mkdir()
        known = labels(folder, [truth] * 2)
        choices.append(choose_tau(rehearsals, known, eigenvectors, [1.1, 0.8, 0.5]))
    assert choices[0] == choices[1]


def test_without_draws_there_is_nothing_to_choose_with(
    eigenvectors: Eigenvectors, tmp_path: Path
) -> None:
    known = labels(tmp_path, [TRUTH] * 2)
    assert choose_tau([], known, eigenvectors, [0.7]) == (0.7, {})
    with pytest.raises(InputError, match=r"fusion\.taus: .* give one value"):
        choose_tau([], known, eigenvectors, [0.7, 0.5])


def test_an_image_without_eigenvectors_is_refused(eigenvectors: Eigenvectors) -> None:
    plain = Fixed([TRUTH] * 3)
    with pytest.raises(InputError, match="image02: has no eigenvectors"):
        FusedSegmenter(plain, eigenvectors, 1.1)
