"""Cached pixel features of a frozen backbone (DESIGN §3): the pixel bank and dense maps.

Both hold float16 rows in one contiguous array that readers memory-map; a random gather from it runs
at the speed of memory, where a chunked or per-image layout is a hundred times slower.

Pixel bank (schema BANK): `/features` (N, D), `/labels` (N,), `/pixels` (N,) how many pixels of its
map each row stands for, `/offsets` (I + 1,) first row of each image.
Dense maps (schema DENSE): `/features` (P, D) all maps, row by row, `/grids` (I, 2) their sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor

from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import open_arrays
from zslib.benchmark import Split

DENSE = Schema("dense/1", "train_features, val_maps or unlabelled_maps")
BANK = Schema("bank/1", "train_features")

_UNTHREADED = 1 << 15
"""So many elements torch converts in the calling thread."""


@dataclass(frozen=True)
class PixelBank:
    """Sampled pixel features of training images, with seen labels."""

    features: Float16[np.ndarray, "n d"]
    labels: np.ndarray
    pixels: np.ndarray
    offsets: np.ndarray
    ids: tuple[str, ...]
    split: Split

    @classmethod
    def open(cls, path: Path) -> "PixelBank":
        """Open and verify a bank. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=BANK)
        return cls(
            arrays["features"],
            np.asarray(arrays["labels"]),
            np.asarray(arrays["pixels"]),
            np.asarray(arrays["offsets"]),
            tuple(meta["ids"]),
            Split.described(meta["labels"]),
        )

    @property
    def dimension(self) -> int:
        return self.features.shape[1]

    def rows_outside(self, image_ids: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Return which rows do not come from these images."""
        inside = np.isin(np.array(self.ids), np.array(image_ids, dtype=str))
        return ~np.repeat(inside, np.diff(self.offsets))

    def rows_of_classes(self, ids: Sequence[int]) -> Bool[np.ndarray, " n"]:
        """Return which rows have one of these labels."""
        return np.isin(self.labels, ids)

    def gather(self, rows: Int64[np.ndarray, " k"]) -> Float[Tensor, "k d"]:
        """Return the features of some rows as float32, read through the memory map."""
        features, found = np.asarray(self.features), torch.empty(len(rows), self.dimension)
        # numpy gathers, and in blocks that torch converts without threads: those save little here,
        # and cost a multiple of the whole where others keep the cores busy.
        block = max(1, _UNTHREADED // self.dimension)
        for start in range(0, len(rows), block):
            chosen = features.take(rows[start : start + block], axis=0)
            found[start : start + block] = torch.from_numpy(chosen)
        return found


@dataclass(frozen=True)
class DenseMaps:
    """Whole feature maps of some images."""

    features: Float16[np.ndarray, "p d"]
    grids: np.ndarray
    ids: tuple[str, ...]
    meta: dict[str, Any]

    starts: np.ndarray
    """First cell of each map in `features`."""

    @classmethod
    def open(cls, path: Path) -> "DenseMaps":
        """Open and verify dense maps. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=DENSE)
        grids = np.asarray(arrays["grids"])
        starts = np.cumsum([0, *grids.astype(np.int64).prod(axis=1)])[:-1]
        return cls(arrays["features"], grids, tuple(meta["ids"]), meta, starts)

    def only(self, ids: Sequence[str]) -> "DenseMaps":
        """Return the maps of some images, in the order given."""
        position = {image_id: index for index, image_id in enumerate(self.ids)}
        chosen = [position[image_id] for image_id in ids]
        return replace(self, grids=self.grids[chosen], ids=tuple(ids), starts=self.starts[chosen])

    @property
    def tuning(self) -> "DenseMaps":
        """The maps of the training images that free choices are scored on (DESIGN §10)."""
        return self.only(self.meta["tuning"])

    @property
    def dimension(self) -> int:
        return self.features.shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Float16[Tensor, "h w d"]:
        """Return the map of the image at a position."""
        start, (height, width) = self.starts[position], self.grids[position].tolist()
        rows = np.array(self.features[start : start + height * width])
        return torch.from_numpy(rows).reshape(height, width, -1)

    def __iter__(self) -> Iterator[Float16[Tensor, "h w d"]]:
        """Yield the map of each image in order."""
        return (self[position] for position in range(len(self)))
