"""From one confusion matrix to every published figure (zs3net §7, spnet §7). numpy only.

A confusion matrix has ground truth in rows and predictions in columns. False positives of a class
come from the whole column, so a seen pixel predicted as unseen lowers the unseen mean IoU.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

from zslib.artifacts.schemas import Schema
from zslib.benchmark import IGNORE_INDEX

CONFUSION = Schema("confusion/1", "evaluate")

AbsentRule = Literal["skip", "zero", "skip_unlabelled"]
"""A class with nothing to count leaves the mean (SPNet, CaGNet, SimBaseline) or counts as 0 (ZS3Net,
JoEm); or every class without ground truth leaves it, predicted or not (simbaseline §10.6: gt)."""

BOOTSTRAPPED = ("miou_seen", "miou_unseen", "hiou", "miou")


def confusion_matrix(
    labels: UInt8[np.ndarray, "*p"], predictions: UInt8[np.ndarray, "*p"], num_classes: int
) -> Int64[np.ndarray, "c c"]:
    """Count (label, prediction) pairs; pixels labelled IGNORE_INDEX are left out.

    Void is folded into an extra row instead of being masked out: one pass, no copies.

    Raises:
        ValueError: a label is neither a class nor IGNORE_INDEX, or a prediction is not a class.
    """
    row = np.arange(256, dtype=np.int32)
    row[num_classes:] = num_classes + 1
    row[IGNORE_INDEX] = num_classes
    codes = row[labels.reshape(-1)] * np.int32(num_classes) + predictions.reshape(-1)
    size = (num_classes + 1) * num_classes
    counts = np.bincount(codes, minlength=size)
    if counts.size > size or (predictions.size and int(predictions.max()) >= num_classes):
        raise ValueError(f"a label or prediction is outside 0..{num_classes - 1}")
    return counts.reshape(num_classes + 1, num_classes)[:num_classes]


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b), and 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def class_iou(matrix: Integer[np.ndarray, "c c"]) -> Float[np.ndarray, " c"]:
    """Return the IoU of each class; NaN where neither a label nor a prediction has it."""
    return _ratio(np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix))


def scores(
    matrix: Integer[np.ndarray, "c c"],
    *,
    seen: Sequence[int],
    unseen: Sequence[int],
    absent: AbsentRule = "skip",
) -> dict[str, float]:
    """Return all figures of zs3net §7 as fractions; means over no class at all are 0.

    Keys: miou, mean_accuracy, pixel_accuracy, fwiou, each also with _seen and _unseen, and hiou.
    The frequency-weighted parts are partial sums (fwiou_seen + fwiou_unseen = fwiou).
    """
    correct, labelled = np.diag(matrix).astype(float), matrix.sum(1).astype(float)
    iou, accuracy = class_iou(matrix), _ratio(correct, labelled)
    weighted = np.nan_to_num(iou) * labelled / max(labelled.sum(), 1)
    averaged_iou, averaged_accuracy = (_averaged(v, labelled, absent) for v in (iou, accuracy))
    groups = {"": [*seen, *unseen], "_seen": list(seen), "_unseen": list(unseen)}
    result = {}
    for suffix, ids in groups.items():
        result[f"miou{suffix}"] = _mean(averaged_iou[ids])
        result[f"mean_accuracy{suffix}"] = _mean(averaged_accuracy[ids])
        result[f"pixel_accuracy{suffix}"] = float(correct[ids].sum() / max(labelled[ids].sum(), 1))
        result[f"fwiou{suffix}"] = float(weighted[ids].sum())
    result["hiou"] = harmonic_mean(result["miou_seen"], result["miou_unseen"])
    return result


def without_rows(
    matrix: Integer[np.ndarray, "c c"], ids: Sequence[int]
) -> Integer[np.ndarray, "c c"]:
    """Return the matrix as if pixels of these classes were void (background-free scoring)."""
    kept = matrix.copy()
    kept[list(ids)] = 0
    return kept


def bootstrap_intervals(
    per_image: Integer[np.ndarray, "i 3 c"],
    *,
    seen: Sequence[int],
    unseen: Sequence[int],
    absent: AbsentRule = "skip",
    samples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of the mean IoUs over resampled images.

    `per_image` holds, for each image and class, correct pixels, labelled pixels, predicted pixels:
    all that an IoU needs, so that no matrix is built per sample.
    """
    images = len(per_image)
    draws = np.random.default_rng(seed).multinomial(images, [1 / images] * images, size=samples)
    # Floats are exact here, below 2^53 pixels, and BLAS multiplies nothing else.
    sums = np.einsum("si,ikc->skc", draws.astype(float), per_image.astype(float), optimize=True)
    correct, labelled, predicted = sums[:, 0], sums[:, 1], sums[:, 2]
    iou = _averaged(_ratio(correct, labelled + predicted - correct), labelled, absent)
    means = {
        "miou_seen": _nanmean(iou[:, list(seen)]),
        "miou_unseen": _nanmean(iou[:, list(unseen)]),
        "miou": _nanmean(iou[:, [*seen, *unseen]]),
    }
    s, u = means["miou_seen"], means["miou_unseen"]
    means["hiou"] = 2 * s * u / np.where(s + u > 0, s + u, 1)
    tail = (1 - level) / 2 * 100
    return {
        name: (float(np.percentile(m, tail)), float(np.percentile(m, 100 - tail)))
        for name, m in means.items()
    }


def marginals(matrix: Integer[np.ndarray, "c c"]) -> Integer[np.ndarray, "3 c"]:
    """Return correct, labelled and predicted pixels of each class."""
    return np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)])


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _averaged(values: np.ndarray, labelled: np.ndarray, absent: AbsentRule) -> np.ndarray:
    """Return the figures of classes, with NaN for those that the rule leaves out of a mean."""
    match absent:
        case "skip":
            return values
        case "zero":
            return np.nan_to_num(values)
        case "skip_unlabelled":
            return np.where(labelled > 0, values, np.nan)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else 0.0


def _nanmean(values: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(values)).sum(1)
    return np.nansum(values, axis=1) / np.maximum(counts, 1)
