"""The confusion matrix against torchmetrics and scikit-learn."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.measure import Result, time_side_by_side
from zslib.benchmark import IGNORE_INDEX
from zslib.metrics import confusion_matrix

Maps = tuple[np.ndarray, np.ndarray]
OURS = "zslib"


def measure(
    *, side: int = 512, class_counts: tuple[int, ...] = (21, 182), repeats: int = 15
) -> list[Result]:
    """Time one map of side x side pixels, 5 % of them void, for each number of classes."""
    return [_measure(side, classes, repeats) for classes in class_counts]


def _measure(side: int, classes: int, repeats: int) -> Result:
    rng = np.random.default_rng(classes)

    def draw() -> Maps:
        return draw_maps(side, classes, rng)

    contestants = ways_to_count(classes)
    maps = draw()
    expected, *others = (np.asarray(count(maps)) for count in contestants.values())
    assert all(np.array_equal(expected, other) for other in others)
    return Result(
        f"confusion: {classes} classes, one map of {side}x{side} pixels",
        {"repeats": repeats},
        time_side_by_side(contestants, draw, repeats=repeats),
        reference=OURS,
        amount=side * side,
        unit="pixels",
    )


def draw_maps(side: int, classes: int, rng: np.random.Generator) -> Maps:
    """Draw labels and predictions in blocks of 16 pixels, as neighbours agree in real ones."""
    blocks = rng.integers(0, classes, (2, -(-side // 16), -(-side // 16)), dtype=np.uint8)
    labels, predictions = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :side, :side].copy()
    labels[rng.random((side, side)) < 0.05] = IGNORE_INDEX
    return labels, predictions


def ways_to_count(classes: int) -> dict[str, Callable[[Maps], object]]:
    """Return the contestants: functions of (labels, predictions), uint8 as they are stored."""

    def torchmetrics(maps: Maps, *, validate: bool) -> object:
        labels, predictions = map(torch.from_numpy, maps)
        return multiclass_confusion_matrix(
            predictions, labels, classes, ignore_index=IGNORE_INDEX, validate_args=validate
        )

    def sklearn(maps: Maps) -> object:
        labels, predictions = (flat.reshape(-1) for flat in maps)
        return sklearn_confusion_matrix(labels, predictions, labels=np.arange(classes))

    return {
        OURS: lambda maps: confusion_matrix(*maps, classes),
        "torchmetrics": lambda maps: torchmetrics(maps, validate=True),
        "torchmetrics, unchecked input": lambda maps: torchmetrics(maps, validate=False),
        "scikit-learn": sklearn,
    }
