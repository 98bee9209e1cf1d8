"""Calibration: which two classes a pixel is decided between, and how far to lean (spnet §4, joem §4).

Calibrated stacking and Apollonius calibration each weigh one class against one other. Four values per
pixel settle the outcome for every strength of either, so one pass over feature maps is enough for a
whole sweep (spnet §10, joem §10).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from zslib.benchmark import Split


@dataclass(frozen=True)
class Competitors:
    """The two classes that each pixel is decided between, and their values."""

    first: UInt8[np.ndarray, "*p"]
    """Of stacking the best seen class, of Apollonius the nearest."""
    second: UInt8[np.ndarray, "*p"]
    """Of stacking the best unseen class, of Apollonius the second nearest."""
    first_value: Float32[np.ndarray, "*p"]
    """Of stacking a probability, of Apollonius a squared distance."""
    second_value: Float32[np.ndarray, "*p"]

    def at(self, pixels: np.ndarray) -> "Competitors":
        """Return those of some pixels."""
        arrays = (self.first, self.second, self.first_value, self.second_value)
        return Competitors(*(array[pixels] for array in arrays))


@runtime_checkable
class Calibrated(Protocol):
    """A classifier with a calibration."""

    @property
    def split(self) -> Split: ...

    def competitors(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> Competitors:
        """Return the competitors (H, W) on a grid of `size`."""

    def decide(self, competitors: Competitors, strength: float) -> UInt8[np.ndarray, "*p"]:
        """Return the classes that win at a strength of the calibration."""


def stacking(competitors: Competitors, gamma: float) -> UInt8[np.ndarray, "*p"]:
    """Return the unseen class where p_unseen > p_seen - gamma, else the seen one (spnet §4.2)."""
    unseen = competitors.second_value > competitors.first_value - np.float32(gamma)
    return np.where(unseen, competitors.second, competitors.first)


def apollonius(
    competitors: Competitors, sigma: float, unseen: Sequence[int]
) -> UInt8[np.ndarray, "*p"]:
    """Return the nearer of the two once squared distances of unseen classes are weighed by sigma.

    The weight is 1 for seen classes, and equals keep the nearest (joem §4.3). A class ranked third
    is never chosen, however near its weighted distance (joem §4.4).
    """
    weight = np.ones(256, np.float32)
    weight[list(unseen)] = sigma
    first = weight[competitors.first] * competitors.first_value
    second = weight[competitors.second] * competitors.second_value
    return np.where(second < first, competitors.second, competitors.first)
