"""Which rows of a pixel bank a training step sees."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from zslib.artifacts.features import PixelBank
from zslib.errors import InputError


class NaturalRows:
    """Rows in the frequency in which their classes fill the images: each row by the pixels it stands for."""

    def __init__(self, bank: PixelBank, allowed: Bool[np.ndarray, " n"]) -> None:
        self._rows = _some_rows(allowed)
        self._cumulative = np.cumsum(bank.pixels[self._rows], dtype=np.float64)

    def draw(self, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Draw row numbers with replacement."""
        points = rng.random(count) * self._cumulative[-1]
        return self._rows[np.searchsorted(self._cumulative, points, side="right")]


class ClassRows:
    """Rows of one class at a time."""

    def __init__(
        self, bank: PixelBank, allowed: Bool[np.ndarray, " n"], classes: Sequence[int]
    ) -> None:
        rows = _some_rows(allowed)
        order = np.argsort(bank.labels[rows], kind="stable")
        sorted_rows, labels = rows[order], bank.labels[rows][order]
        ids = np.asarray(classes)
        bounds = np.searchsorted(labels, np.stack([ids, ids + 1]))
        self._by_class = {
            c: sorted_rows[start:stop]
            for c, start, stop in zip(classes, *bounds.tolist(), strict=True)
            if stop > start
        }
        self.classes = tuple(self._by_class)
        """The classes that have rows."""

    def draw(self, label: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Draw row numbers of one class with replacement."""
        rows = self._by_class[label]
        return rows[rng.integers(0, len(rows), count)]


def _some_rows(allowed: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
    rows = np.flatnonzero(allowed)
    if not rows.size:
        raise InputError(
            "features.tuning_images: no row of the pixel bank is left to train on when these images "
            "are kept out; lower it, or choose a split with more training images"
        )
    return rows
