"""Label maps of many images, of any sizes, in one file: seen labels, validation labels, predictions.

`/pixels` holds the maps one after another as uint8; `/sizes` (I, 2) are their heights and widths.
Pseudo-labels have `/confidences` as well: for each pixel the probability of its label in 255ths.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import allocate, finish, map_array, open_arrays

PSEUDO = Schema("pseudo/1", "self_training")
PREDICTIONS = Schema("predictions/1", "evaluate")
LABELS = Schema("labels/2", "seen_labels, all_labels or val_labels")


@dataclass(frozen=True)
class LabelMaps(Sequence[np.ndarray]):
    """Label maps by position or by image id; `meta` says what they are."""

    ids: tuple[str, ...]
    sizes: np.ndarray
    pixels: np.ndarray
    meta: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> np.ndarray:  # type: ignore[override]
        """Return the label map (H, W) uint8 at a position."""
        position = range(len(self))[position]  # from the end too, as in any sequence
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

    def __getstate__(self) -> dict[str, Any]:
        """Pickle where the pixels are: a memory map itself is pickled as a copy of all its bytes, and
        each worker of a loader would hold one."""
        state = dict(vars(self))
        if isinstance(self.pixels, np.memmap):
            state["pixels"] = _Mapped.of(self.pixels)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        pixels = state["pixels"]
        vars(self).update(state, pixels=pixels.open() if isinstance(pixels, _Mapped) else pixels)


@dataclass(frozen=True)
class _Mapped:
    """A whole array in a file, to be memory-mapped once more."""

    path: str
    offset: int
    size: int

    @classmethod
    def of(cls, pixels: np.memmap) -> "_Mapped":
        assert isinstance(pixels.base, mmap), "a part of a map still tells the offset of the whole"
        return cls(str(pixels.filename), pixels.offset, pixels.size)

    def open(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, mode="r", offset=self.offset, shape=(self.size,))


@dataclass(frozen=True)
class MixedLabels(Sequence[np.ndarray]):
    """Label maps of a second training: pseudo-labels where an image has them, seen labels elsewhere."""

    ids: tuple[str, ...]
    seen: LabelMaps
    pseudo: LabelMaps

    @classmethod
    def of(cls, seen: LabelMaps, pseudo: LabelMaps) -> "MixedLabels":
        """Return all images of both."""
        given = set(pseudo.ids)
        rest = tuple(image_id for image_id in seen.ids if image_id not in given)
        return cls(rest + pseudo.ids, seen, pseudo)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> np.ndarray:  # type: ignore[override]
        position = range(len(self))[position]
        first_pseudo = len(self.ids) - len(self.pseudo)
        if position >= first_pseudo:
            return self.pseudo[position - first_pseudo]
        return self.seen.of(self.ids[position])


def write_label_maps(
    path: Path,
    ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    label_maps: Iterable[np.ndarray],
    *,
    schema: Schema,
    meta: Mapping[str, Any],
) -> None:
    """Publish label maps, each (H, W) uint8, as they come.

    `sizes`, their heights and widths, are told beforehand: no more than one map is ever held.
    """
    rows = ((labels,) for labels in label_maps)
    _write(path, ids, sizes, ("pixels",), rows, schema=schema, meta=meta)


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
    _write(path, ids, sizes, ("pixels", "confidences"), maps, schema=PSEUDO, meta=meta)


def open_pseudo_labels(path: Path) -> tuple[LabelMaps, LabelMaps]:
    """Open and verify pseudo-labels and their confidences. Raises ArtifactError."""
    arrays, meta = open_arrays(path, schema=PSEUDO)
    labels, confidences = (
        LabelMaps(tuple(meta["ids"]), arrays["sizes"], arrays[name], meta)
        for name in ("pixels", "confidences")
    )
    return labels, confidences


def _write(
    path: Path,
    ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    names: tuple[str, ...],
    maps: Iterable[tuple[np.ndarray, ...]],
    *,
    schema: Schema,
    meta: Mapping[str, Any],
) -> None:
    """Publish for each image as many maps as there are names, all of its size."""
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    room = ((int(starts[-1]),), np.dtype(np.uint8))
    with publish(path) as temporary:
        table = np.array(sizes, np.int32).reshape(-1, 2)
        allocate(temporary, {"sizes": table, **dict.fromkeys(names, room)})
        stored = {name: map_array(temporary, name, mode="r+") for name in names}
        for start, stop, row in zip(starts[:-1], starts[1:], maps, strict=True):
            for name, one in zip(names, row, strict=True):
                stored[name][start:stop] = one.reshape(-1)
        finish(temporary, schema=schema, meta={**meta, "ids": list(ids)})
