"""Eigenvectors of many images in one file (sazs §10).

Schema EIGENVECTORS: `/vectors` (P, K - 1) float16, a row per node and a column per vector, image by
image; the constant first vector is left out. `/eigenvalues` (I, K); `/offsets` (I + 1,) first node of
each image; `/grids` (I, 2); `/covered` (I, 2), the share of an image's height and width under its grid.
Each vector is scaled to a largest entry of 1 before it is rounded: half the bytes of float32, an error
of at most 0.0005, and no sign lost (unscaled ones are of the size at which float16 begins to fail).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int32, Int64

from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import open_arrays

EIGENVECTORS = Schema("eigenvectors/1", "eigenvectors")


@dataclass(frozen=True)
class Eigenvectors:
    """The eigenvectors of each image, by its id."""

    vectors: Float16[np.ndarray, "p v"]
    eigenvalues: Float64[np.ndarray, "i k"]
    offsets: Int64[np.ndarray, " bounds"]
    grids: Int32[np.ndarray, "i 2"]
    covered: Float64[np.ndarray, "i 2"]
    ids: tuple[str, ...]
    meta: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Eigenvectors":
        """Open and verify a file. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=EIGENVECTORS)
        return cls(
            arrays["vectors"],
            np.asarray(arrays["eigenvalues"]),
            np.asarray(arrays["offsets"]),
            np.asarray(arrays["grids"]),
            np.asarray(arrays["covered"]),
            tuple(meta["ids"]),
            meta,
        )

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._positions

    def eigenvalues_of(self, image_id: str) -> Float64[np.ndarray, " k"]:
        """Return all eigenvalues of an image, ascending."""
        return self.eigenvalues[self._positions[image_id]]

    def on_grid(self, image_id: str) -> Float32[np.ndarray, "v h w"]:
        """Return an image's vectors on their own grid."""
        position = self._positions[image_id]
        rows = self.vectors[self.offsets[position] : self.offsets[position + 1]]
        height, width = self.grids[position].tolist()
        return np.asarray(rows, np.float32).T.reshape(-1, height, width)

    def at(self, image_id: str, size: tuple[int, int]) -> Float32[np.ndarray, "v H W"]:
        """Return an image's vectors at a size, bilinearly; what no cell covers repeats the last ones.

        As sazs §4.5 has it where cells are patches; corners aligned where features are resized so.
        """
        covered = self.covered[self._positions[image_id]]
        vectors = self.on_grid(image_id)
        for axis, pixels in enumerate(size, start=1):
            places = self._places(pixels, vectors.shape[axis], covered[axis - 1])
            vectors = _interpolated(vectors, places, axis)
        return vectors

    def _places(self, pixels: int, cells: int, covered: float) -> Float64[np.ndarray, " p"]:
        """Return where on the grid each pixel of one axis lies."""
        if self.meta["aligned"] == "corners":
            return np.linspace(0, cells - 1, pixels)
        places = (np.arange(pixels) + 0.5) / pixels / covered * cells - 0.5
        return places.clip(0, cells - 1)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.ids)}


def scaled_to_one(vectors: Float[np.ndarray, "v n"]) -> Float16[np.ndarray, "v n"]:
    """Return each vector divided by its largest magnitude; zero stays zero."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    return (vectors / np.where(largest > 0, largest, 1)).astype(np.float16)


def starts_of(grids: Sequence[tuple[int, int]]) -> Int64[np.ndarray, " bounds"]:
    """Return the first node of each image, and the number of all nodes."""
    return np.cumsum([0, *(height * width for height, width in grids)])


def _interpolated(
    values: Float32[np.ndarray, "v a b"], places: Float64[np.ndarray, " p"], axis: int
) -> Float32[np.ndarray, "v c d"]:
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    shares = (places - below).astype(np.float32)
    shares = shares[:, None] if axis == 1 else shares
    return values.take(below, axis) * (1 - shares) + values.take(above, axis) * shares
