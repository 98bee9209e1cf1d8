"""Component graphs of many images, with the features of their nodes (zs3net §5, §10).

Schema GRAPHS: `/labels` (N,) and `/features` (N, D) float16 of all nodes, image by image; `/edges`
(E, 2) pairs of touching nodes, by their numbers, ascending; `/offsets` (I + 1,) first node of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor

from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import open_arrays, write_arrays
from zslib.benchmark import Split

GRAPHS = Schema("graphs/1", "graphs")


@dataclass(frozen=True)
class GraphBatch:
    """Some graphs side by side: one graph without edges between them."""

    labels: Int64[Tensor, " n"]
    features: Float[Tensor, "n d"]
    edges: Int64[np.ndarray, "e 2"]
    offsets: Int64[np.ndarray, " bounds"]
    """First node of each graph."""


@dataclass(frozen=True)
class ImageGraphs:
    """One component graph per image; nodes have features and a label of the split."""

    labels: UInt8[np.ndarray, " n"]
    features: Float16[np.ndarray, "n d"]
    edges: Int64[np.ndarray, "e 2"]
    offsets: Int64[np.ndarray, " bounds"]
    ids: tuple[str, ...]
    split: Split

    @classmethod
    def open(cls, path: Path) -> "ImageGraphs":
        """Open and verify graphs. Raises ArtifactError."""
        arrays, meta = open_arrays(path, schema=GRAPHS)
        return cls(
            np.asarray(arrays["labels"]),
            arrays["features"],
            np.asarray(arrays["edges"]),
            np.asarray(arrays["offsets"]),
            tuple(meta["ids"]),
            Split.described(meta["labels"]),
        )

    def save(self, path: Path) -> None:
        """Publish the graphs."""
        arrays = {
            "labels": self.labels,
            "features": self.features,
            "edges": self.edges,
            "offsets": self.offsets,
        }
        meta = {"ids": list(self.ids), "labels": self.split.describe()}
        write_arrays(path, arrays, schema=GRAPHS, meta=meta)

    @property
    def dimension(self) -> int:
        return self.features.shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, classes: Sequence[int], *, without: Sequence[str] = ()) -> "ImageGraphs":
        """Return the nodes of some classes in images that are not `without`.

        A graph of which a single node is left goes too: it has no context (zs3net §5).
        """
        wanted = ~np.isin(np.array(self.ids), np.array(without, dtype=str))
        kept = np.isin(self.labels, classes) & wanted[self._images]
        sizes = np.bincount(self._images[kept], minlength=len(self))
        kept &= (sizes > 1)[self._images]
        number = np.cumsum(kept) - 1
        return ImageGraphs(
            self.labels[kept],
            self.features[kept],
            number[self.edges[kept[self.edges].all(axis=1)]],
            np.cumsum([0, *sizes[sizes > 1]]),
            tuple(np.array(self.ids)[sizes > 1].tolist()),
            self.split,
        )

    def around(self, nodes: Int64[np.ndarray, " k"]) -> tuple[GraphBatch, Int64[Tensor, " k"]]:
        """Return the graph of each node, as often as it is named, and where the nodes are in them."""
        images = self._images[nodes]
        graphs = self.gather(images)
        return graphs, torch.from_numpy(graphs.offsets[:-1] + nodes - self.offsets[images])

    def gather(self, positions: Int64[np.ndarray, " g"]) -> GraphBatch:
        """Return the graphs at these positions, as often as they are named."""
        first, last = self.offsets[positions], self.offsets[positions + 1]
        nodes, offsets = _ranges(first, last)
        pairs, pair_offsets = _ranges(
            self._edge_offsets[positions], self._edge_offsets[positions + 1]
        )
        shift = np.repeat(offsets[:-1] - first, np.diff(pair_offsets))
        features = np.asarray(self.features).take(nodes, axis=0)
        return GraphBatch(
            torch.from_numpy(self.labels[nodes].astype(np.int64)),
            torch.from_numpy(features).float(),
            self.edges[pairs] + shift[:, None],
            offsets,
        )

    @cached_property
    def _images(self) -> Int64[np.ndarray, " n"]:
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def _edge_offsets(self) -> Int64[np.ndarray, " bounds"]:
        return np.searchsorted(self.edges[:, 0], self.offsets)


def _ranges(
    starts: Int64[np.ndarray, " g"], stops: Int64[np.ndarray, " g"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " g+1"]]:
    """Return all numbers of some ranges, one range after another, and where each begins."""
    offsets = np.cumsum([0, *(stops - starts)])
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], stops - starts), offsets
