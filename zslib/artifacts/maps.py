"""Label maps of many images, of any sizes, in one file: seen labels, validation labels, predictions.

`/pixels` holds the maps one after another as uint8; `/sizes` (I, 2) are their heights and widths.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zslib.artifacts.schemas import LABELS
from zslib.artifacts.store import open_arrays, write_arrays


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
    schema: str,
    meta: Mapping[str, Any],
) -> None:
    """Publish `label_maps`, each (H, W) uint8, under their image ids."""
    sizes = np.array([m.shape for m in label_maps], np.int32).reshape(-1, 2)
    pixels = np.concatenate([m.reshape(-1) for m in label_maps] or [np.empty(0, np.uint8)])
    arrays = {"sizes": sizes, "pixels": pixels}
    write_arrays(path, arrays, schema=schema, meta={**meta, "ids": list(ids)})


def open_label_maps(path: Path, *, schema: str) -> LabelMaps:
    """Open and verify a file of `write_label_maps`. Raises ArtifactError."""
    arrays, meta = open_arrays(path, schema=schema)
    return LabelMaps(tuple(meta["ids"]), arrays["sizes"], arrays["pixels"], meta)


def open_labels(path: Path) -> LabelMaps:
    """Open and verify the labels of a split, or of validation. Raises ArtifactError."""
    return open_label_maps(path, schema=LABELS)
