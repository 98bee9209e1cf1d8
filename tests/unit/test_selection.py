"""Choosing on held-out seen classes: what is taken, and what is said where there was nothing to see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LABELS, open_labels
from zslib.benchmark import IGNORE_INDEX
from zslib.classifier import PixelClassifier
from zslib.metrics import harmonic_mean
from zslib.selection import Choice, calibration_matrices, hiou_of, score_strengths

CLASSES = ("cat", "dog", "cow")


def test_the_best_mean_is_chosen_and_the_first_of_equals() -> None:
    choice = Choice((0.0, 0.5, 1.0), ((0.2, 0.4, 0.3), (0.2, 0.2, 0.3)), ((0,), (1,)))
    assert (choice.best, choice.chosen) == (1, 0.5)
    assert choice.describe(CLASSES) == {
        "candidates": [0.0, 0.5, 1.0],
        "hiou": [[0.2, 0.4, 0.3], [0.2, 0.2, 0.3]],
        "held_out": [["cat"], ["dog"]],
        "chosen": 0.5,
    }


def test_a_blind_choice_warns_and_leaves_a_note(caplog: pytest.LogCaptureFixture) -> None:
    choice = Choice((0.3, 100.0), ((0.0, 0.0), (0.0, 0.0)), ((0, 1), (2,)))
    assert choice.is_blind
    note = choice.describe(CLASSES)["note"]
    assert note.startswith(
        "cat, dog, cow: every candidate scored 0, since the tuning images show none"
    )
    assert (
        "or no pixel of them was told right, so the first candidate, 0.3, was taken blindly" in note
    )
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", note)


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_choice_is_blind_only_if_nothing_ever_scored(rows: list[list[float]]) -> None:
    choice = Choice((1.0, 2.0, 3.0), tuple(map(tuple, rows)), ((0,),) * len(rows))
    assert choice.is_blind == (max(map(max, rows)) == 0)


def test_a_hidden_class_that_no_image_shows_is_no_part_of_the_score() -> None:
    """Else whoever finds more of the others, and puts some pixels on that one, would score less."""
    split = tiny.SPLIT.hide([0, 1])
    shy = np.zeros((len(tiny.CLASSES),) * 2, np.int64)
    seen = split.seen[0]
    shy[seen, seen] = shy[0, 0] = 100
    shy[0, seen] = 100
    bold = shy.copy()
    bold[0, [0, 1, seen]] = 180, 10, 10
    assert hiou_of(bold, split) > hiou_of(shy, split)
    nowhere = bold.copy()
    nowhere[0, [1, split.seen[1]]] = 0, 10  # which no image shows either
    assert hiou_of(bold, split) == hiou_of(nowhere, split)


def test_one_candidate_is_no_choice() -> None:
    assert not Choice((1.0,), ((0.0,),), ((0,),)).is_blind


def test_tuning_images_without_a_held_out_class_make_a_choice_blind() -> None:
    """The score is a harmonic mean, so however well the seen classes do, it is 0."""
    hidden = tiny.SPLIT.hide([0])
    labels = np.full((2, 2), 1, np.uint8)
    eye = torch.eye(len(tiny.CLASSES))
    classifier = PixelClassifier(hidden, eye, torch.zeros(len(tiny.CLASSES)))
    strengths = (0.0, 0.5, 1.0)
    matrices = calibration_matrices(
        classifier, iter([(eye[labels.astype(int)], labels)]), strengths
    )
    assert matrices[0, 1, 1] == 4, "the seen class is found where nothing is calibrated"
    scores = tuple(hiou_of(matrix, hidden) for matrix in matrices)
    assert Choice(strengths, (scores,), (hidden.unseen,)).is_blind


def test_a_strength_scores_as_predicting_every_pixel_with_it_does(tmp_path: Path) -> None:
    """Labels are of more images, in another order; some pixels are void, others of void classes."""
    hidden, content = tiny.SPLIT.hide([0, 4]), tiny.label_maps(4, range(9), seed=3)
    tiny.write_maps(tmp_path / "maps.h5", content)
    for label_map in content:
        label_map[:2, 1] = IGNORE_INDEX
    ids = [*reversed(tiny.image_ids(4)), "another"]
    label_maps = [*reversed(content), content[0]]
    tiny.write_label_maps(tmp_path / "labels.h5", ids, label_maps, schema=LABELS, meta={})
    weight = torch.from_numpy(tiny.features(np.arange(9), seed=1).astype(np.float32)) / 4
    classifier = PixelClassifier(hidden, weight, torch.zeros(9))
    maps, strengths = DenseMaps.open(tmp_path / "maps.h5"), (0.0, 0.3, 0.9)
    expected = tuple(plain_hiou(classifier, maps, content, gamma) for gamma in strengths)
    scores = score_strengths(classifier, maps, open_labels(tmp_path / "labels.h5"), strengths)
    assert scores == pytest.approx(expected)
    assert len(set(scores)) == len(strengths)


def plain_hiou(
    classifier: PixelClassifier, maps: DenseMaps, label_maps: list[np.ndarray], gamma: float
) -> float:
    """Count pixel by pixel, and score the classes that are labelled anywhere (spnet §4, §7)."""
    split, pairs = classifier.split, []
    for features, label_map in zip(maps, label_maps, strict=True):
        scores = classifier.scores(features.float()).double()
        scores[..., list(split.void)] = -torch.inf
        values = scores.softmax(-1)
        values[..., list(split.seen)] -= gamma
        pairs += zip(label_map.flat, values.argmax(-1).flatten().tolist(), strict=True)
    pairs = [(label, found) for label, found in pairs if label in (*split.seen, *split.unseen)]
    return harmonic_mean(mean_iou(pairs, split.seen), mean_iou(pairs, split.unseen))


def mean_iou(pairs: list[tuple[int, int]], classes: tuple[int, ...]) -> float:
    ious = []
    for c in classes:
        either = sum(c in pair for pair in pairs)
        if any(label == c for label, _ in pairs):
            ious.append(sum(pair == (c, c) for pair in pairs) / either)
    return sum(ious) / len(ious)
