"""Choosing on held-out seen classes: what is taken, and what is said where there was nothing to see."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from zslib.classifier import PixelClassifier
from zslib.selection import Choice, calibration_matrices, hiou_of

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
