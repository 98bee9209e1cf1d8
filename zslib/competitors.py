"""The competitors of every validation pixel, in one file: what any strength of a calibration needs.

Calibrated stacking and Apollonius calibration decide each pixel between two classes, whatever their
strength (spnet §10, joem §10). `/first`, `/second` (uint8) and `/first_value`, `/second_value`
(float32) hold the maps of all images one after another, ten bytes a pixel; `/sizes` (I, 2) are their
heights and widths.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import allocate, finish, map_array, open_arrays
from zslib.benchmark import Split
from zslib.calibration import Competitors, apollonius, stacking
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.prototypes import PrototypeClassifier

COMPETITORS = Schema("competitors/1", "competitors")

Rule = Literal["stacking", "apollonius"]

_DTYPES = {"first": "u1", "second": "u1", "first_value": "f4", "second_value": "f4"}


@dataclass(frozen=True)
class CompetitorMaps:
    """The competitors of some images, and how one of the two is taken."""

    split: Split
    rule: Rule
    chosen: float
    """The strength that the method itself chose, on held-out seen classes."""
    ids: tuple[str, ...]
    sizes: Int32[np.ndarray, "i 2"]
    values: Mapping[str, np.ndarray]
    """The four arrays, of all images."""

    @classmethod
    def open(cls, path: Path) -> "CompetitorMaps":
        """Open and verify a file of `write_competitors`. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=COMPETITORS)
        split, sizes = Split.described(meta), np.asarray(arrays.pop("sizes"))
        return cls(split, meta["rule"], meta["chosen"], tuple(meta["ids"]), sizes, arrays)

    def __iter__(self) -> Iterator[Competitors]:
        """Yield the competitors (H W,) of each image in order, row by row."""
        ends = np.cumsum(self.sizes.astype(np.int64).prod(axis=1)).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield Competitors(**{name: self.values[name][start:end] for name in _DTYPES})

    def decide(self, competitors: Competitors, strength: float) -> UInt8[np.ndarray, "*p"]:
        """Return the classes that win at a strength of the calibration."""
        if self.rule == "stacking":
            return stacking(competitors, strength)
        return apollonius(competitors, strength, self.split.unseen)


def write_competitors(
    path: Path,
    classifier: PixelClassifier | PrototypeClassifier,
    maps: DenseMaps,
    labels: LabelMaps,
) -> None:
    """Publish the competitors of every image of `maps` at the size of its label map.

    One pass over the features, an image at a time.

    Raises:
        InputError: an image has no label map.
    """
    rule, chosen = _calibration(classifier)
    meta = {**classifier.split.describe(), "rule": rule, "chosen": chosen, "ids": list(maps.ids)}
    sizes = label_sizes(maps.ids, labels)
    pixels = int(sizes.astype(np.int64).prod(axis=1).sum())
    rooms = {name: ((pixels,), np.dtype(dtype)) for name, dtype in _DTYPES.items()}
    with publish(path) as temporary:
        allocate(temporary, {"sizes": sizes, **rooms})
        stored = {name: map_array(temporary, name, mode="r+") for name in _DTYPES}
        start = 0
        for features, (height, width) in zip(maps, sizes.tolist(), strict=True):
            found, end = classifier.competitors(features, (height, width)), start + height * width
            for name, array in stored.items():
                array[start:end] = getattr(found, name).reshape(-1)
            start = end
        finish(temporary, schema=COMPETITORS, meta=meta)


def label_sizes(ids: Sequence[str], labels: LabelMaps) -> Int32[np.ndarray, "i 2"]:
    """Return height and width of the label map of each image.

    Raises:
        InputError: an image has none.
    """
    if missing := sorted(set(ids) - set(labels.ids)):
        raise InputError(
            f"{missing[0]}: has a feature map and no validation label ({len(missing)} images do); "
            "rerun the stages val_labels and val_maps"
        )
    return np.array([labels.of(image_id).shape for image_id in ids], np.int32).reshape(-1, 2)


def _calibration(classifier: PixelClassifier | PrototypeClassifier) -> tuple[Rule, float]:
    """Return the rule of a classifier, and the strength it was given."""
    if isinstance(classifier, PrototypeClassifier):
        return "apollonius", classifier.sigma
    return "stacking", classifier.gamma
