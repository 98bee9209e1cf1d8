"""Label maps of many images, of any sizes, in one file: seen labels, validation labels, predictions.

`/pixels` holds the maps one after another as uint8; `/sizes` (I, 2) are their heights and widths.
Pseudo-labels have `/confidences` as well: for each pixel the probability of its label in 255ths.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import allocate, finish, map_array, open_arrays, write_arrays

PSEUDO = Schema("pseudo/1", "self_training")
PREDICTIONS = Schema("predictions/1", "evaluate")
LABELS = Schema("labels/1", "seen_labels, all_labels or val_labels")


@dataclass(frozen=True)
class LabelMaps:
    """Label maps by position or by image id; `meta` says what they are."""

    ids: tuple[str, ...]
    sizes: np.ndarray
    pixels: np.ndarray
    meta: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> np.ndarray:
        """Return the label map (H, W) uint8 at a position."""
        start = self._starts[position]
        height, width = self.sizes[position]
        return self.pixels[start : start + height * width].reshape(height, width)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[position] for position in range(len(self)))

    def of(self, image_id: str) -> np.ndarray:
        """Return the label map of an image."""
        return self[self._positions[image_id]]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.ids)}

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.meta["classes"])

    def __post_init__(self) -> None:
        areas = self.sizes.astype(np.int64).prod(axis=1)
        object.__setattr__(self, "_starts", np.concatenate([[0], np.cumsum(areas)]))

    _starts: np.ndarray = None  # type: ignore[assignment]


def write_label_maps(
    path: Path,
    ids: Sequence[str],
    label_maps: Sequence[np.ndarray],
    *,
    schema: Schema,
    meta: Mapping[str, Any],
) -> None:
    """Publish `label_maps`, each (H, W) uint8, under their image ids."""
    sizes = np.array([m.shape for m in label_maps], np.int32).reshape(-1, 2)
    pixels = np.concatenate([m.reshape(-1) for m in label_maps] or [np.empty(0, np.uint8)])
    arrays = {"sizes": sizes, "pixels": pixels}
    write_arrays(path, arrays, schema=schema, meta={**meta, "ids": list(ids)})


def open_label_maps(path: Path, *, schema: Schema) -> LabelMaps:
    """Open and verify a file of `write_label_maps`. Raises ArtifactError."""
    arrays, meta = open_arrays(path, schema=schema)
    return LabelMaps(tuple(meta["ids"]), arrays["sizes"], arrays["pixels"], meta)


def open_labels(path: Path) -> LabelMaps:
    """Open and verify the labels of a split, or of validation. Raises ArtifactError."""
    return open_label_maps(path, schema=LABELS)


def write_pseudo_labels(
    path: Path,
    ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    maps: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    meta: Mapping[str, Any],
) -> None:
    """Publish pairs of label map and confidences, each (H, W) uint8, as they come.

    `sizes`, their heights and widths, are told beforehand: no more than one pair is ever held.
    """
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "sizes": ((len(ids), 2), np.dtype(np.int32)),
        "pixels": ((int(starts[-1]),), np.dtype(np.uint8)),
        "confidences": ((int(starts[-1]),), np.dtype(np.uint8)),
    }
    with publish(path) as temporary:
        allocate(temporary, shapes)
        stored = {name: map_array(temporary, name, mode="r+") for name in shapes}
        stored["sizes"][...] = np.array(sizes, np.int32).reshape(-1, 2)
        for start, (labels, confidences) in zip(starts[:-1], maps, strict=True):
            stored["pixels"][start : start + labels.size] = labels.reshape(-1)
            stored["confidences"][start : start + labels.size] = confidences.reshape(-1)
        finish(temporary, schema=PSEUDO, meta={**meta, "ids": list(ids)})


def open_pseudo_labels(path: Path) -> tuple[LabelMaps, LabelMaps]:
    """Open and verify pseudo-labels and their confidences. Raises ArtifactError."""
    arrays, meta = open_arrays(path, schema=PSEUDO)
    labels, confidences = (
        LabelMaps(tuple(meta["ids"]), arrays["sizes"], arrays[name], meta)
        for name in ("pixels", "confidences")
    )
    return labels, confidences
