"""Pseudo-labels: which pixels they go to (zs3net §6, oracle 11; cagnet §6, oracle 7)."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zslib.artifacts.maps import open_pseudo_labels, write_pseudo_labels
from zslib.benchmark import IGNORE_INDEX
from zslib.errors import ArtifactError
from zslib.params.self_training import PseudoLabelParams
from zslib.self_training.pseudo_labels import (
    confidence_map,
    confident_share,
    pseudo_labels,
    rank_labels,
    share_labels,
)

CLASSES = 6
UNSEEN = (1, 4)
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


@st.composite
def images(draw: st.DrawFn) -> tuple[torch.Tensor, np.ndarray]:
    """Logits, coarse enough for ties, and what is known of the labels."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.integers(-3, 4, (CLASSES, height, width)).astype(np.float32)
    known = rng.choice([0, 2, IGNORE_INDEX, IGNORE_INDEX], (height, width)).astype(np.uint8)
    return torch.from_numpy(logits), known


def logits_of(confidences: list[float], predictions: list[int], *, classes: int) -> torch.Tensor:
    """Return logits (c, 1, n) whose softmax gives the predicted class this probability.

    The others share the rest alike, so the prediction is the best class only if they are many.
    """
    probabilities = torch.tensor(confidences).expand(classes, 1, -1)
    probabilities = (1 - probabilities) / (classes - 1)
    probabilities[predictions, 0, range(len(predictions))] = torch.tensor(confidences)
    return probabilities.log()


# --- ZS3Net's rule -------------------------------------------------------------------------------

PREDICTIONS = [14, 14, 10, 10, 10, 14, 0, 15, 10, 14]
CONFIDENCES = [0.9, 0.4, 0.55, 0.8, 0.3, 0.95, 0.99, 0.97, 0.6, 0.5]


@pytest.mark.parametrize(
    ("pool", "share", "kept"),
    [
        ("image", 0.25, {0, 5}),
        ("image", 0.75, {0, 2, 3, 5, 8, 9}),
        ("image_class", 0.25, {3, 5}),
        ("image_class", 0.75, {0, 2, 3, 5, 8, 9}),
    ],
)
def test_oracle_of_zs3net(pool: str, share: float, kept: set[int]) -> None:
    logits = logits_of(CONFIDENCES, PREDICTIONS, classes=21)
    known = np.full((1, 10), IGNORE_INDEX, np.uint8)
    (found,) = share_labels(logits, known, (10, 14), [share], pool=pool)
    expected = [PREDICTIONS[i] if i in kept else IGNORE_INDEX for i in range(10)]
    assert found.tolist() == [expected]


@pytest.mark.parametrize("pool", ["image", "image_class"])
@given(image=images())
def test_a_larger_share_keeps_what_a_smaller_one_does(pool, image) -> None:
    maps = share_labels(*image, UNSEEN, SHARES, pool=pool)
    for smaller, larger in pairwise(maps):
        labelled = smaller != IGNORE_INDEX
        np.testing.assert_array_equal(larger[labelled], smaller[labelled])


@given(image=images())
def test_a_share_is_rounded_down_and_holds_the_most_confident(image) -> None:
    logits, known = image
    predictions = logits.argmax(0).numpy()
    confidences = logits.softmax(0).amax(0).numpy()
    candidates = (known == IGNORE_INDEX) & np.isin(predictions, UNSEEN)
    for share, found in zip(
        SHARES, share_labels(*image, UNSEEN, SHARES, pool="image"), strict=True
    ):
        kept = (known == IGNORE_INDEX) & (found != IGNORE_INDEX)
        assert kept.sum() == int(Fraction(str(share)) * int(candidates.sum()))
        assert (kept <= candidates).all()
        np.testing.assert_array_equal(found[kept], predictions[kept])
        # Stable: the order that a sort by falling confidence gives, equals as they stand.
        order = np.flatnonzero(candidates)[
            np.argsort(-confidences[candidates], kind="stable")[: kept.sum()]
        ]
        assert set(np.flatnonzero(kept)) == set(order.tolist())


@given(image=images())
def test_class_by_class_each_class_keeps_its_share(image) -> None:
    (everything,) = share_labels(*image, UNSEEN, [1.0], pool="image_class")
    (half,) = share_labels(*image, UNSEEN, [0.5], pool="image_class")
    for label in UNSEEN:
        assert (half == label).sum() == (everything == label).sum() // 2


def test_among_equals_the_first_are_kept() -> None:
    classes = np.array([4, 1, 4, 1, 4], np.uint8)
    confidences = np.array([0.5, 0.9, 0.5, 0.5, 0.5], np.float32)
    kept = confident_share(classes, confidences, 0.6, pool="image")
    assert kept.tolist() == [True, True, True, False, False]


# --- CaGNet's rule -------------------------------------------------------------------------------

RANKINGS = [
    [2, 4, 0, 3, 5, 1],
    [4, 3, 0, 1, 2, 5],
    [5, 1, 3, 0, 2, 4],
    [0, 1, 2, 5, 3, 4],
    [1, 0, 2, 3, 4, 5],
]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (1, [255, 4, 255, 255, 0]),
        (2, [4, 4, 255, 255, 0]),
        (3, [4, 4, 3, 255, 0]),
        (6, [4, 4, 3, 3, 0]),
    ],
)
def test_oracle_of_cagnet(ranks: int, expected: list[int]) -> None:
    logits = torch.zeros(6, 1, 5)
    for pixel, ranking in enumerate(RANKINGS):
        logits[ranking, 0, pixel] = torch.arange(6.0, 0.0, -1.0)
    known = np.array([[255, 255, 255, 255, 0]], np.uint8)
    (found,) = rank_labels(logits, known, (3, 4), [ranks])
    assert found.tolist() == [expected]


@given(image=images())
def test_more_ranks_label_more_pixels_and_change_no_label(image) -> None:
    maps = rank_labels(*image, UNSEEN, range(1, CLASSES + 1))
    for fewer, more in pairwise(maps):
        labelled = fewer != IGNORE_INDEX
        np.testing.assert_array_equal(more[labelled], fewer[labelled])
    assert (maps[-1] != IGNORE_INDEX).all(), "all ranks: every pixel has an unseen class"


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        PseudoLabelParams(rule="share", pool="image", candidates=[1.0]),
        PseudoLabelParams(rule="share", pool="image_class", candidates=[1.0]),
        PseudoLabelParams(rule="rank", candidates=[4]),
    ],
)
@given(image=images())
def test_what_is_known_stays_and_the_rest_is_unseen_or_void(params, image) -> None:
    logits, known = image
    before = known.copy()
    (found,) = pseudo_labels(logits, known, UNSEEN, params, params.candidates)
    np.testing.assert_array_equal(found[known != IGNORE_INDEX], known[known != IGNORE_INDEX])
    assert set(np.unique(found[known == IGNORE_INDEX])) <= {*UNSEEN, IGNORE_INDEX}
    np.testing.assert_array_equal(known, before)


def test_classes_that_are_void_get_no_pixel_and_take_no_rank() -> None:
    logits = torch.tensor([-torch.inf, 1.0, 2.0, -torch.inf]).reshape(4, 1, 1)
    known = np.full((1, 1), IGNORE_INDEX, np.uint8)
    assert rank_labels(logits, known, (1,), [1, 2])[1].item() == 1
    assert share_labels(logits, known, (2,), [1.0], pool="image")[0].item() == 2
    assert confidence_map(logits, np.full((1, 1), 2, np.uint8)).item() == round(255 * 0.7310586)


def test_confidence_is_the_probability_of_the_label() -> None:
    logits = logits_of([0.8, 0.4, 0.6], [1, 4, 0], classes=CLASSES)
    label_map = np.array([[1, 4, IGNORE_INDEX]], np.uint8)
    assert confidence_map(logits, label_map).tolist() == [[204, 102, 0]]


# --- the artifact --------------------------------------------------------------------------------


def test_pseudo_labels_come_back_image_by_image(tmp_path: Path) -> None:
    sizes = [(2, 3), (1, 1), (4, 2)]
    maps = [np.arange(h * w, dtype=np.uint8).reshape(h, w) for h, w in sizes]
    path = tmp_path / "pseudo_labels.h5"
    pairs = ((m, m + np.uint8(100)) for m in maps)
    write_pseudo_labels(path, ["a", "b", "c"], sizes, pairs, meta={"share": 0.5})
    labels, confidences = open_pseudo_labels(path)
    assert labels.ids == confidences.ids == ("a", "b", "c")
    assert labels.meta["share"] == 0.5
    for name, expected in zip("abc", maps, strict=True):
        np.testing.assert_array_equal(labels.of(name), expected)
        np.testing.assert_array_equal(confidences.of(name), expected + 100)


def test_a_damaged_file_of_pseudo_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pseudo_labels.h5"
    label_map = np.full((5, 5), 7, np.uint8)
    write_pseudo_labels(path, ["a"], [(5, 5)], iter([(label_map, label_map)]), meta={})
    content = bytearray(path.read_bytes())
    content[content.index(bytes([7] * 25))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="self_training"):
        open_pseudo_labels(path)


@pytest.mark.parametrize(
    ("rule", "candidates", "message"),
    [("share", [0.0], "above 0"), ("share", [1.5], "at most 1"), ("rank", [0.5], "a rank is 1")],
)
def test_candidates_that_make_no_sense_are_refused(rule, candidates, message) -> None:
    with pytest.raises(ValueError, match=message):
        PseudoLabelParams(rule=rule, candidates=candidates)
