"""The binary evaluation of the fold protocol (sazs §1.4, §4.4, §6; checks 7, 9, 10)."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests import tiny
from zslib.artifacts.eigenvectors import EIGENVECTORS, Eigenvectors
from zslib.artifacts.features import DENSE, DenseMaps
from zslib.artifacts.maps import open_labels
from zslib.artifacts.store import write_arrays
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.folds import Pair
from zslib.errors import InputError
from zslib.fusion.rules import eigensegments, foreground_iou
from zslib.methods.sazs import binary
from zslib.methods.sazs.binary import ROWS, Cut, Fusion, Material, Shown, count
from zslib.methods.sazs.episodes import (
    FoldEvaluation,
    FusionChoice,
    choose_fusion,
    evaluate_fold,
    fold_scores,
)
from zslib.params.sazs import SazsEpisodes

TRUTH = np.array([[0, 0, 1, 1, IGNORE_INDEX, IGNORE_INDEX]], np.uint8)
PREDICTION = np.array([[0, 1, 1, 0, 1, 0]], bool)
NOTHING = Fusion("agreement", 1.1)
PARAMS = SazsEpisodes(count=7, taus=[1.1, 0.5], vote_shares=[1.0])


# --- one pair ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("void", "intersection", "union"),
    [("removed", [1, 1], [3, 3]), ("predicted", [1, 1], [4, 4]), ("others", [2, 1], [5, 4])],
)
def test_sazs_check_7_and_e4_three_ways_with_void(
    void: str, intersection: list[int], union: list[int]
) -> None:
    assert count(PREDICTION, TRUTH, void).tolist() == [intersection, union]


def shown(margin: np.ndarray, vectors: np.ndarray, truth: np.ndarray) -> Shown:
    return Shown(margin.astype(np.float32), Cut(vectors), truth)


def signs(text: str) -> np.ndarray:
    """Return a row of margins: 1 where a mask of check 9 has 1, else -1."""
    return np.array([[1.0 if digit == "1" else -1.0 for digit in text]], np.float32)


def test_sazs_check_9_the_released_pick_and_agreement() -> None:
    vectors = np.stack([signs("00011100"), signs("11111100"), signs("00110000")])
    truth = (signs("00011100") > 0).astype(np.uint8)
    pair = shown(signs("00111000"), vectors, truth)
    masks = pair.masks(Fusion("agreement", 0.6), "removed")
    iou = {row: foreground_iou(mask, truth == 1) for row, mask in masks.items()}
    assert iou == {"sazs-nofusion": 0.5, "sazs": 0.25, "sazs-oracle": 1.0}


SCENES = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda size: st.tuples(
        arrays(np.float32, size, elements=st.integers(-9, 9).map(float)),
        arrays(np.float32, (2, *size), elements=st.sampled_from([-0.5, 0.25, 1.0])),
        arrays(np.uint8, size, elements=st.sampled_from([0, 1, IGNORE_INDEX])),
    )
)


@settings(max_examples=60, deadline=None)
@given(SCENES, st.sampled_from(["removed", "predicted", "others"]))
def test_sazs_check_10_the_oracle_never_loses(scene: tuple, void: str) -> None:
    pair = shown(*scene)
    masks = pair.masks(NOTHING, void)
    counts = {row: count(mask, pair.truth, void) for row, mask in masks.items()}
    iou = {row: found[0, 1] / max(found[1, 1], 1) for row, found in counts.items()}
    assert iou["sazs-oracle"] >= iou["sazs-nofusion"]
    assert iou["sazs"] == iou["sazs-nofusion"], "with tau > 1 nothing is fused"


@settings(max_examples=60, deadline=None)
@given(
    SCENES, st.sampled_from([Fusion("agreement", 0.3), Fusion("vote", 1.0), Fusion("vote", 0.5)])
)
def test_sazs_check_10_signs_of_eigenvectors_do_not_matter(scene: tuple, fusion: Fusion) -> None:
    margin, vectors, truth = scene
    flipped = vectors * np.array([1, -1], np.float32)[:, None, None]
    masks = [shown(margin, v, truth).masks(fusion, "removed")["sazs"] for v in (vectors, flipped)]
    np.testing.assert_array_equal(*masks)


# --- many pairs ----------------------------------------------------------------------------------


def test_sazs_check_10_pixels_are_summed_before_they_are_divided() -> None:
    pairs = [Pair("a", 0), Pair("b", 0), Pair("c", 2)]
    counts = dict(
        zip(
            pairs,
            [np.array([[8, 1], [10, 2]]), np.array([[0, 0], [10, 8]]), np.array([[1, 3], [2, 4]])],
            strict=True,
        )
    )
    found = fold_scores(counts, pairs, tiny.CLASSES)
    assert found["class_iou"] == {tiny.CLASSES[0]: 0.1, tiny.CLASSES[2]: 0.75}
    assert found["miou"] == pytest.approx(0.425)
    assert found["fb_iou"] == pytest.approx((9 / 22 + 4 / 14) / 2)
    twice = fold_scores(counts, [pairs[0], *pairs], tiny.CLASSES)
    assert twice["class_iou"][tiny.CLASSES[0]] == pytest.approx(2 / 12)


def material(folder: Path, *, hidden: bool = False) -> Material:
    """Three images whose margins are the truth, but for the outermost columns, with wide noise.

    One eigenvector tells the truth of class 4 in the first image.
    """
    folder.mkdir(exist_ok=True)
    split = tiny.SPLIT.hide([0, 1]) if hidden else tiny.SPLIT
    maps = tiny.label_maps(3, (0, 1) if hidden else (4, 8, 0), seed=3)
    classes = np.arange(len(tiny.CLASSES))
    margins = [np.where(m[..., None] == classes, 1.0, -1.0).astype(np.float16) for m in maps]
    for margin in margins:
        margin[:, :2] *= -0.5
    dense = {
        "grids": np.array([m.shape for m in maps], np.int32),
        "features": np.concatenate([m.reshape(-1, len(classes)) for m in margins]),
    }
    meta = {"ids": list(tiny.image_ids(3)), "views": [[6, 6]] * 3, "corners": True}
    write_arrays(folder / "maps.h5", dense, schema=DENSE, meta={**meta, **split.describe()})
    cells = np.concatenate([np.where(m == m[3, 3], 1.0, -1.0).reshape(-1, 1) for m in maps])
    write_arrays(
        folder / "eigenvectors.h5",
        {
            "vectors": cells.astype(np.float16),
            "eigenvalues": np.zeros((3, 2)),
            "offsets": np.arange(4, dtype=np.int64) * 36,
            "grids": np.full((3, 2), 6, np.int32),
            "covered": np.ones((3, 2)),
        },
        schema=EIGENVECTORS,
        meta={"ids": list(tiny.image_ids(3)), "aligned": "corners", "tuning": []},
    )
    return Material(
        DenseMaps.open(folder / "maps.h5"),
        open_labels(tiny.write_labels(folder / "labels.h5", maps)),
        Eigenvectors.open(folder / "eigenvectors.h5"),
        split,
    )


@pytest.fixture
def evaluation(tmp_path: Path) -> FoldEvaluation:
    choice = FusionChoice((NOTHING,), (0.5,), ("r box",))
    return evaluate_fold(material(tmp_path), None, choice, PARAMS)


def test_every_image_is_paired_with_its_unseen_classes(tmp_path: Path) -> None:
    found = material(tmp_path)
    expected = {
        Pair(image_id, c)
        for image_id in found.maps.ids
        for c in tiny.UNSEEN
        if (found.labels.of(image_id) == c).any()
    }
    assert set(found.pairs()) == expected


def test_rows_and_rules_are_told_apart(evaluation: FoldEvaluation) -> None:
    described = evaluation.describe()
    assert (described["episodes"], described["pairs"]) == (7, len(set(evaluation.episodes)))
    assert list(described["rows"]) == list(ROWS)
    assert "upper bound" in described["rows"]["sazs-oracle"]["note"]
    rows = described["rows"]
    assert rows["sazs"]["clean"] == rows["sazs-nofusion"]["clean"], "nothing was fused"
    for rule in ("clean", "released", "all_pairs"):
        assert rows["sazs-oracle"][rule]["miou"] >= rows["sazs-nofusion"][rule]["miou"]
        assert 0 < rows["sazs-nofusion"][rule]["miou"] < 1
    assert rows["sazs"]["released"]["miou"] < rows["sazs"]["clean"]["miou"], "void is biased down"
    assert rows["sazs"]["clean"]["miou"] != rows["sazs"]["all_pairs"]["miou"]


def test_counts_are_kept(evaluation: FoldEvaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path / "counts.csv")
    with (tmp_path / "counts.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(set(evaluation.episodes)) * len(ROWS) * 2
    first = lines[0]
    pair = Pair(first["image"], tiny.CLASSES.index(first["class"]))
    found = evaluation.counts[first["row"], first["void"]][pair]
    assert int(first["union_class"]) == found[1, 1]


def test_listed_pairs_are_the_episodes_in_their_order(tmp_path: Path) -> None:
    source = material(tmp_path)
    listed = source.pairs()[:2]
    choice = FusionChoice((NOTHING,), (0.5,), ())
    assert evaluate_fold(source, listed, choice, PARAMS).episodes == [*(listed * 4)][:7]
    with pytest.raises(InputError, match="elsewhere has no map"):
        evaluate_fold(source, [Pair("elsewhere", 4)], choice, PARAMS)


def test_of_a_draw_only_what_is_drawn_is_scored(evaluation: FoldEvaluation, tmp_path: Path) -> None:
    """And to the same counts; one pass over all pairs is there where they are cycled (sazs §8.1 j)."""
    source = material(tmp_path)
    params = PARAMS.model_copy(update={"draw": "classes", "count": 3})
    found = evaluate_fold(source, None, evaluation.choice, params)
    assert len(found.episodes) == 3
    for rule, counts in found.counts.items():
        assert set(counts) == set(found.episodes) < set(source.pairs())
        for pair, counted in counts.items():
            np.testing.assert_array_equal(counted, evaluation.counts[rule][pair])
    described = found.describe()
    assert described["pairs"] == len(set(found.episodes))
    assert list(described["rows"]["sazs"]) == ["note", "clean", "released"]


def cuts(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return a list that takes down whenever an image is cut into cells."""
    seen: list[np.ndarray] = []

    def counted(vectors: np.ndarray) -> np.ndarray:
        seen.append(vectors)
        return eigensegments(vectors)

    monkeypatch.setattr(binary, "eigensegments", counted)
    return seen


@pytest.mark.parametrize(("fusion", "times"), [(NOTHING, 0), (Fusion("vote", 0.5), 1)])
def test_an_image_is_cut_once_and_only_for_a_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fusion: Fusion, times: int
) -> None:
    source, seen = material(tmp_path), cuts(monkeypatch)
    listed = sorted(source.pairs(), key=lambda pair: pair.class_id)
    images = {pair.image_id for pair in listed}
    assert len(images) < len(listed)
    evaluate_fold(source, listed, FusionChoice((fusion,), (0.5,), ()), PARAMS)
    assert len(seen) == times * len(images)


def test_pairs_come_once_and_image_by_image(tmp_path: Path) -> None:
    source = material(tmp_path)
    pairs = source.pairs()
    assert [pair for pair, _ in source.each([*reversed(pairs), *pairs])] == list(pairs)


def test_fusion_is_chosen_on_classes_hidden_from_training(tmp_path: Path) -> None:
    held_out = material(tmp_path, hidden=True)
    choice = choose_fusion(held_out, PARAMS)
    assert choice.held_out == tuple(tiny.CLASSES[c] for c in (0, 1))
    assert [str(c) for c in choice.candidates] == ["agreement 1.1", "agreement 0.5", "vote 1"]
    assert choice.chosen == choice.candidates[int(np.argmax(choice.miou))]
    # Two classes fill these images, so that the two sides of the eigenvector are all the truth.
    assert choice.miou[0] < choice.miou[1] == 1.0


def test_without_a_pair_nothing_is_fused_or_scored(tmp_path: Path) -> None:
    source = material(tmp_path, hidden=True)
    none = Material(source.maps, source.labels, source.eigenvectors, tiny.SPLIT.hide([5]))
    choice = choose_fusion(none, PARAMS)
    assert (choice.chosen, set(choice.miou)) == (NOTHING, {0.0})
    evaluation = evaluate_fold(none, None, choice, PARAMS)
    assert (evaluation.episodes, evaluation.describe()["pairs"]) == ([], 0)
    assert evaluation.describe()["rows"]["sazs"]["clean"]["miou"] is None
