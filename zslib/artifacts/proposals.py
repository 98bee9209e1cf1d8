"""Mask proposals of many images: what MaskFormer's queries make of each (simbaseline §11).

One HDF5 file: `/logits` (P,) all mask logits at stride 4, image after image; `/vectors` (I, Q, D) query
vectors before normalising, both float16; `/no_object` (D,) the vector that stands for no class;
`/views` (I, 2) and `/padded` (I, 2) heights and widths of the test image and of what the network saw.
Logits are kept rather than their sigmoid, which must follow the upsampling (simbaseline O14).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import Room, open_arrays
from zslib.benchmark import Split

PROPOSALS = Schema("proposals/1", "proposals (simbaseline)")
STRIDE = 4
"""Image pixels per cell of the mask logits."""


@dataclass(frozen=True)
class Proposal:
    """The queries of one image."""

    logits: Float[Tensor, "q h w"]
    vectors: Float[Tensor, "q d"]
    """Before normalising."""
    view: tuple[int, int]
    """(H, W) of the resized test image."""
    padded: tuple[int, int]
    """(H, W) that the logits cover: the test image, padded right and below."""

    def soft_masks(self) -> Float[Tensor, "q H W"]:
        """Return the masks in [0, 1] at the size of the test image: sigmoid after upsampling."""
        large = F.interpolate(self.logits[None], self.padded, mode="bilinear", align_corners=False)
        return large[0, :, : self.view[0], : self.view[1]].sigmoid()


@dataclass(frozen=True)
class Proposals:
    """Proposals by position; `meta` says whose they are."""

    ids: tuple[str, ...]
    logits: np.ndarray
    vectors: np.ndarray
    no_object: np.ndarray
    views: np.ndarray
    padded: np.ndarray
    meta: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Proposals":
        """Open and verify a file of proposals. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=PROPOSALS)
        return cls(tuple(meta["ids"]), **arrays, meta=meta)

    @property
    def split(self) -> Split:
        """The split whose seen classes the network was trained on."""
        return Split.described(self.meta)

    @cached_property
    def key(self) -> str:
        """A digest that tells these proposals from any others: caches made of them carry it."""
        digest = xxhash.xxh3_128(json.dumps(self.meta, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.vectors).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Proposal:
        """Return the proposals of the image at a position, as float32."""
        queries = self.vectors.shape[1]
        start, stop = self._starts[position : position + 2] * queries
        padded = _pair(self.padded[position])
        logits = torch.from_numpy(np.array(self.logits[start:stop], np.float32))
        vectors = torch.from_numpy(np.array(self.vectors[position], np.float32))
        grid = [side // STRIDE for side in padded]
        return Proposal(
            logits.reshape(queries, *grid), vectors, _pair(self.views[position]), padded
        )

    @cached_property
    def _starts(self) -> np.ndarray:
        """First cell of each image, counted for a single query."""
        return _starts(self.padded)


class ProposalWriter:
    """Fills a file image by image, in the order of the ids; a killed run goes on where it stopped."""

    def __init__(
        self,
        path: Path,
        views: Sequence[tuple[int, int]],
        padded: Sequence[tuple[int, int]],
        *,
        queries: int,
        no_object: Float[Tensor, " d"],
        scratch: Path,
    ) -> None:
        self._out, self._queries = path, queries
        self._starts = _starts(np.array(padded, np.int64).reshape(-1, 2))
        half = np.dtype(np.float16)
        arrays: dict[str, np.ndarray | Room] = {
            "logits": ((int(self._starts[-1]) * queries,), half),
            "vectors": ((len(views), queries, len(no_object)), half),
            "no_object": no_object.cpu().numpy().astype(np.float32),
            "views": np.array(views, np.int32),
            "padded": np.array(padded, np.int32),
        }
        self._file = ResumableFile.begin(scratch / "proposals.h5", arrays, items=len(views))
        self.written = len(views) - len(self._file.to_do)
        """So many images are in the file."""

    def add(self, logits: Float[Tensor, "q h w"], vectors: Float[Tensor, "q d"]) -> None:
        """Write the proposals of the next image."""
        start, stop = self._starts[self.written : self.written + 2] * self._queries
        self._file["logits"][start:stop] = logits.half().cpu().numpy().reshape(-1)
        self._file["vectors"][self.written] = vectors.half().cpu().numpy()
        self._file.note_done(self.written)
        self.written += 1

    def publish(self, ids: Sequence[str], *, meta: Mapping[str, Any]) -> None:
        """Put the finished file in its place."""
        self._file.publish(self._out, schema=PROPOSALS, meta={**meta, "ids": list(ids)})


def _starts(padded: np.ndarray) -> np.ndarray:
    cells = (padded.astype(np.int64) // STRIDE).prod(axis=1)
    return np.concatenate([[0], np.cumsum(cells)])


def _pair(row: np.ndarray) -> tuple[int, int]:
    height, width = row.tolist()
    return height, width
