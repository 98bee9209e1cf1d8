"""Oracle checks of the metrics (zs3net §11.4, §11.5; spnet S10; simbaseline §12.4), and invariants."""

import json
from typing import get_args

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zslib.metrics import (
    AbsentRule,
    bootstrap_intervals,
    class_iou,
    confusion_matrix,
    harmonic_mean,
    marginals,
    scores,
    without_rows,
)

ORACLE_4 = np.array([[50, 2, 3, 1], [4, 20, 6, 0], [5, 5, 10, 2], [1, 0, 4, 15]])
ORACLE_5 = np.array([[50, 2, 3, 0], [4, 20, 6, 0], [5, 5, 10, 0], [0, 0, 0, 0]])
J9 = np.array([[80, 10, 10], [5, 40, 5], [6, 14, 20]])
RULES = get_args(AbsentRule)

matrices = arrays(np.int64, (4, 4), elements=st.integers(0, 1000))
pixels = st.integers(0, 300).flatmap(
    lambda n: st.tuples(
        arrays(np.uint8, n, elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
        arrays(np.uint8, n, elements=st.integers(0, 4)),
    )
)


@pytest.mark.parametrize(
    ("figure", "value"),
    {
        "pixel_accuracy": 0.7421875,
        "pixel_accuracy_seen": 0.813953488,
        "pixel_accuracy_unseen": 0.595238095,
        "mean_accuracy": 0.691017316,
        "mean_accuracy_seen": 0.779761905,
        "mean_accuracy_unseen": 0.602272727,
        "miou": 0.559001124,
        # The spec prints 0.649049158: two digits swapped, as its own IoUs, mIoU and hIoU show.
        "miou_seen": 0.649058149,
        "miou_unseen": 0.468944099,
        "hiou": 0.544492624,
        "fwiou": 0.609137900,
        "fwiou_seen": 0.458128583,
        "fwiou_unseen": 0.151009317,
    }.items(),
)
@pytest.mark.parametrize("absent", RULES)
def test_zs3net_oracle_4_all_figures(figure: str, value: float, absent: str) -> None:
    result = scores(ORACLE_4, seen=(0, 1), unseen=(2, 3), absent=absent)
    assert result[figure] == pytest.approx(value, abs=1e-8)


def test_zs3net_oracle_4_class_iou() -> None:
    expected = [0.757575758, 0.540540541, 0.285714286, 0.652173913]
    np.testing.assert_allclose(class_iou(ORACLE_4), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ("zero", (0.416654532, 0.440596847, 0.344827586, 0.386873494)),
        ("skip", (0.555539376, 0.660895270, 0.344827586, 0.453196264)),
    ],
)
def test_zs3net_oracle_5_absent_class(absent: str, expected: tuple[float, ...]) -> None:
    result = scores(ORACLE_5, seen=(0, 1, 3), unseen=(2,), absent=absent)
    found = [result[key] for key in ("miou", "miou_seen", "miou_unseen", "hiou")]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_zs3net_oracle_5_void() -> None:
    labels = np.array([[0, 0, 1, 255], [1, 2, 2, 255]], np.uint8)
    predictions = np.array([[0, 1, 1, 2], [1, 2, 0, 0]], np.uint8)
    matrix = confusion_matrix(labels, predictions, 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 2, 0], [1, 0, 1]])
    np.testing.assert_allclose(class_iou(matrix), [1 / 3, 2 / 3, 1 / 2])


def test_spnet_s10_figures_of_joem_j9() -> None:
    result = scores(J9, seen=(0, 1), unseen=(2,))
    np.testing.assert_allclose(class_iou(J9), [0.720721, 0.540541, 0.363636], atol=1e-6)
    expected = {
        "miou_seen": 0.630631,
        "miou_unseen": 0.363636,
        "hiou": 0.461285,
        "pixel_accuracy_seen": 0.8,
        "pixel_accuracy_unseen": 0.5,
        "pixel_accuracy": 0.736842,
    }
    for figure, value in expected.items():
        assert result[figure] == pytest.approx(value, abs=1e-6), figure


@pytest.mark.parametrize(
    ("predicted", "absent", "expected"),
    [(0, "skip", 0.630631), (0, "zero", 0.420420), (1, "skip", 0.417417), (1, "zero", 0.417417)],
)
def test_spnet_s10_class_without_ground_truth(predicted: int, absent: str, expected: float) -> None:
    matrix = np.zeros((4, 4), np.int64)
    matrix[:3, :3] = J9
    matrix[0, 0] -= predicted
    matrix[0, 3] += predicted
    result = scores(matrix, seen=(0, 1, 3), unseen=(2,), absent=absent)
    assert result["miou_seen"] == pytest.approx(expected, abs=1e-6)


UNLABELLED = confusion_matrix(
    np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 255, 255, 1], np.uint8),
    np.array([0, 0, 1, 2, 1, 1, 2, 2, 3, 3, 0, 0], np.uint8),
    4,
)
"""Class 3 is predicted, and no pixel has it."""


def test_simbaseline_check_4_counts() -> None:
    correct, labelled, predicted = marginals(UNLABELLED)
    assert labelled.tolist() == [4, 3, 3, 0]
    assert predicted.tolist() == [3, 3, 3, 1], "what is predicted on void costs nothing"
    assert (correct / (labelled + predicted - correct)).tolist() == [0.4, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    ("absent", "miou", "unseen", "hiou"),
    [
        ("skip", 0.35, 0.25, 0.32142857),
        ("zero", 0.35, 0.25, 0.32142857),
        ("skip_unlabelled", 0.46666667, 0.5, 0.47368421),
    ],
)
def test_simbaseline_check_4_metrics(absent: str, miou: float, unseen: float, hiou: float) -> None:
    found = scores(UNLABELLED, seen=(0, 1), unseen=(2, 3), absent=absent)
    expected = {"miou": miou, "miou_seen": 0.45, "miou_unseen": unseen, "hiou": hiou}
    expected |= {"pixel_accuracy": 0.6}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-8)


@settings(deadline=None)
@given(pixels)
def test_confusion_matrix_equals_sklearns_and_torchmetrics(
    maps: tuple[np.ndarray, np.ndarray],
) -> None:
    labels, predictions = maps
    matrix = confusion_matrix(labels, predictions, 5)
    kept = labels != 255
    if kept.any():
        expected = sklearn.metrics.confusion_matrix(
            labels[kept], predictions[kept], labels=range(5)
        )
        np.testing.assert_array_equal(matrix, expected)
        others = torchmetrics.multiclass_confusion_matrix(
            torch.from_numpy(predictions).long(),
            torch.from_numpy(labels).long(),
            num_classes=5,
            ignore_index=255,
        )
        np.testing.assert_array_equal(matrix, others.numpy())
    else:
        assert not matrix.any()


def test_confusion_matrix_counts_beyond_the_range_of_float32() -> None:
    labels = np.zeros(2**24 + 3, np.uint8)
    assert confusion_matrix(labels, labels, 2)[0, 0] == 2**24 + 3


@pytest.mark.parametrize("label", [3, 4, 254])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    labels = np.array([0, 1, label], np.uint8)
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        confusion_matrix(labels, np.zeros(3, np.uint8), 3)


@pytest.mark.parametrize("prediction", [3, 255])
@pytest.mark.parametrize("label", [0, 2, 255])
def test_a_prediction_that_is_no_class_is_refused(prediction: int, label: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        confusion_matrix(np.array([label], np.uint8), np.array([prediction], np.uint8), 3)


@settings(deadline=None)
@given(matrices, st.sampled_from(RULES))
def test_hiou_lies_between_the_two_means_and_every_figure_is_a_fraction(
    matrix: np.ndarray, absent: str
) -> None:
    result = scores(matrix, seen=(0, 1), unseen=(2, 3), absent=absent)
    low, high = sorted((result["miou_seen"], result["miou_unseen"]))
    assert low - 1e-12 <= result["hiou"] <= high + 1e-12
    assert all(0 <= value <= 1 + 1e-12 for value in result.values())
    assert result["fwiou_seen"] + result["fwiou_unseen"] == pytest.approx(result["fwiou"])
    json.dumps(result, allow_nan=False)


def test_harmonic_mean_of_nothing_is_nothing() -> None:
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(0.5, 0) == 0


def test_nothing_at_all_scores_zero() -> None:
    result = scores(np.zeros((3, 3), np.int64), seen=(0, 1), unseen=())
    assert set(result.values()) == {0.0}


def test_background_free_scoring_drops_ground_truth_rows_and_keeps_false_positives() -> None:
    matrix = without_rows(J9, [0])
    np.testing.assert_array_equal(matrix, [[0, 0, 0], [5, 40, 5], [6, 14, 20]])
    assert J9[0, 0] == 80, "the stored matrix must not change"


def test_bootstrap_intervals_hold_the_score_and_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    per_image = np.stack([marginals(rng.integers(1, 50, (4, 4))) for _ in range(40)])
    groups = {"seen": (0, 1), "unseen": (2, 3)}
    intervals = bootstrap_intervals(per_image, **groups, samples=200, seed=1)
    again = bootstrap_intervals(per_image, **groups, samples=200, seed=1)
    assert intervals == again
    assert intervals != bootstrap_intervals(per_image, **groups, samples=200, seed=2)
    correct, labelled, predicted = per_image.sum(0)
    iou = correct / (labelled + predicted - correct)
    low, high = intervals["miou"]
    assert low < iou.mean() < high


def test_bootstrap_of_equal_images_has_no_width() -> None:
    per_image = np.stack([marginals(ORACLE_4)] * 10)
    intervals = bootstrap_intervals(per_image, seen=(0, 1), unseen=(2, 3), samples=50, seed=0)
    for figure, value in {"miou": 0.559001124, "hiou": 0.544492624}.items():
        assert intervals[figure] == pytest.approx((value, value), abs=1e-8)


@pytest.mark.parametrize("matrix", [ORACLE_5, UNLABELLED], ids=["absent", "unlabelled"])
@pytest.mark.parametrize("absent", RULES)
def test_bootstrap_treats_absent_classes_as_the_scores_do(matrix: np.ndarray, absent: str) -> None:
    per_image = np.stack([marginals(matrix)] * 5)
    groups = {"seen": (0, 1, 3), "unseen": (2,)}
    intervals = bootstrap_intervals(per_image, **groups, absent=absent, samples=20, seed=0)
    expected = scores(matrix, **groups, absent=absent)
    for figure, (low, high) in intervals.items():
        assert (low, high) == pytest.approx((expected[figure],) * 2), figure


def test_bootstrap_counts_in_floats_as_exactly_as_in_integers() -> None:
    """Images of 2^40 pixels: their sums need more bits than float32 has, and fewer than 2^53."""
    rng = np.random.default_rng(0)
    per_image = rng.integers(2**30, 2**40, (40, 3, 4)).astype(np.int64)
    per_image[:, 1:] += per_image[:, :1]
    found = bootstrap_intervals(per_image, seen=(0, 1), unseen=(2, 3), samples=30, seed=0)
    draws = np.random.default_rng(0).multinomial(40, [1 / 40] * 40, size=30)
    sums = (draws[:, :, None, None] * per_image).sum(1).astype(float)
    iou = sums[:, 0] / (sums[:, 1] + sums[:, 2] - sums[:, 0])
    expected = [float(np.percentile(iou.mean(axis=1), tail)) for tail in (2.5, 97.5)]
    assert list(found["miou"]) == expected
