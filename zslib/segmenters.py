"""What every way of segmenting cached images can do: whatever can is scored, fused and drawn alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from zslib.artifacts.features import DenseMaps
from zslib.benchmark import Split
from zslib.heads import Head


@runtime_checkable
class Segmenter(Protocol):
    """Segments images that it knows by their position."""

    @property
    def split(self) -> Split: ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """How its free choices were made."""

    @property
    def ids(self) -> Sequence[str]:
        """The images, by position."""

    def view(self, position: int) -> tuple[int, int]:
        """Return height and width of what the network saw of an image."""

    def predict(self, position: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
        """Return an image's label map among all seen and unseen classes, at a size."""

    def among_unseen(self) -> "Segmenter":
        """Return the same, choosing among the unseen classes only, without calibration."""


@dataclass(frozen=True)
class HeadSegmenter:
    """A classifier of pixel features over cached dense maps."""

    head: Head
    maps: DenseMaps

    @property
    def split(self) -> Split:
        return self.head.split

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.head.meta

    @property
    def ids(self) -> Sequence[str]:
        return self.maps.ids

    def view(self, position: int) -> tuple[int, int]:
        written_at = self.maps.meta["ids"].index(self.maps.ids[position])
        height, width = self.maps.meta["views"][written_at]
        return height, width

    def predict(self, position: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
        return self.head.predict(self.maps[position], size)

    def among_unseen(self) -> "HeadSegmenter":
        return replace(self, head=self.head.for_split(unseen_only(self.split)).uncalibrated())


def unseen_only(split: Split) -> Split:
    """Return the split in which seen classes are void: what the restricted protocol predicts among."""
    return Split.from_ids(split.name, split.classes, split.unseen, (*split.void, *split.seen))
