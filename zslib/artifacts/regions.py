"""Region embeddings: how a vision-language model sees each mask proposal (simbaseline §11).

One HDF5 file: `/embeddings` (I, Q, D) float16 unit vectors, `/valid` (I, Q) whether the query has a
region at all. They depend on proposals and model, not on text: prompts, class lists, temperatures and
ensemble weights are products over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import Room, open_arrays
from zslib.errors import ArtifactError

REGIONS = Schema("regions/1", "regions (simbaseline)")


@dataclass(frozen=True)
class Regions:
    """Region embeddings by position; `meta` says of which proposals, by which model, cut out how."""

    ids: tuple[str, ...]
    embeddings: np.ndarray
    valid: np.ndarray
    meta: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, *, proposals: str | None = None) -> "Regions":
        """Open and verify a file of regions.

        Raises:
            ArtifactError: it is damaged, or was made of other proposals than those of this key.
        """
        arrays, meta = open_arrays(path, schema=REGIONS)
        if proposals not in (None, meta["proposals"]):
            raise ArtifactError(f"{path}: was made of other proposals; {REGIONS.remedy}")
        return cls(tuple(meta["ids"]), arrays["embeddings"], arrays["valid"], meta)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[Float[Tensor, "q d"], Bool[Tensor, " q"]]:
        """Return the embeddings of an image's queries as float32, and which of them have a region."""
        embeddings = torch.from_numpy(np.array(self.embeddings[position], np.float32))
        return embeddings, torch.from_numpy(np.array(self.valid[position], bool))


class RegionWriter:
    """Fills a file image by image, in any order; a killed run goes on where it stopped."""

    def __init__(
        self, path: Path, *, images: int, queries: int, dimension: int, scratch: Path
    ) -> None:
        self._out = path
        arrays: dict[str, np.ndarray | Room] = {
            "embeddings": ((images, queries, dimension), np.dtype(np.float16)),
            "valid": ((images, queries), np.dtype(np.uint8)),
        }
        self._file = ResumableFile.begin(scratch / "regions.h5", arrays, items=images)

    def to_do(self) -> list[int]:
        """Return the positions of images that are not in the file yet."""
        return self._file.to_do

    def add(
        self, position: int, embeddings: Float[Tensor, "v d"], valid: Bool[Tensor, " q"]
    ) -> None:
        """Write an image's embeddings, of its valid queries alone."""
        rows = valid.cpu().numpy()
        self._file["embeddings"][position] = 0
        self._file["embeddings"][position, rows] = embeddings.half().cpu().numpy()
        self._file["valid"][position] = rows
        self._file.note_done(position)

    def publish(self, ids: Sequence[str], *, meta: Mapping[str, Any]) -> None:
        """Put the finished file in its place."""
        self._file.publish(self._out, schema=REGIONS, meta={**meta, "ids": list(ids)})
