"""Cached pixel features of a frozen backbone (DESIGN §3): the pixel bank and dense maps.

Both hold float16 rows in one contiguous array that readers memory-map; a random gather from it runs
at the speed of memory, where a chunked or per-image layout is a hundred times slower.

Pixel bank (schema BANK): `/features` (N, D), `/labels` (N,), `/pixels` (N,) how many pixels of its
map each row stands for, `/offsets` (I + 1,) first row of each image.
Dense maps (schema DENSE): `/features` (P, D) all maps, row by row, `/grids` (I, 2) their sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor

from zslib.artifacts.schemas import BANK, DENSE
from zslib.artifacts.store import open_arrays
from zslib.benchmark import Split


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
        # numpy's take: torch's gathers in threads, which costs more than it saves on a busy machine.
        return torch.from_numpy(np.asarray(self.features).take(rows, axis=0)).float()


@dataclass(frozen=True)
class DenseMaps:
    """Whole feature maps of some images."""

    features: Float16[np.ndarray, "p d"]
    grids: np.ndarray
    ids: tuple[str, ...]
    meta: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "DenseMaps":
        """Open and verify dense maps. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=DENSE)
        return cls(arrays["features"], np.asarray(arrays["grids"]), tuple(meta["ids"]), meta)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Float16[Tensor, "h w d"]]:
        """Yield the map of each image in order."""
        start = 0
        for height, width in self.grids.tolist():
            rows = np.array(self.features[start : start + height * width])
            yield torch.from_numpy(rows).reshape(height, width, -1)
            start += height * width
