"""Component graphs of label maps: which segments of an image touch which (zs3net §5).

A node is an 8-connected component of equal label, nodes are numbered in raster order of their first
cells, and an edge joins two components that touch, corners included.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.graphs import ImageGraphs
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.grids import LABEL_RULES
from zslib.params.zs3net import Convolution, NodeFeatures


@dataclass(frozen=True)
class ComponentGraph:
    """The components of one label map and how they touch."""

    labels: UInt8[np.ndarray, " n"]
    seeds: Int64[np.ndarray, " n"]
    """Each component's first cell in raster order: row * width + column."""
    edges: Int64[np.ndarray, "e 2"]
    """Pairs of touching components in ascending order, each once, the smaller number first."""
    nodes: Int64[np.ndarray, "h w"]
    """The component of each cell; -1 where void is left out."""

    def __len__(self) -> int:
        return len(self.labels)


def component_graph(label_map: UInt8[np.ndarray, "h w"], *, void: bool) -> ComponentGraph:
    """Return the graph of a label map; with `void`, components of void are nodes like all others.

    Works on the runs of equal labels within rows, of which there are far fewer than cells.
    """
    starts, runs = _runs(label_map)
    touching = _touching(runs, len(starts))
    labels = label_map.reshape(-1)[starts]
    alike = labels[touching[0]] == labels[touching[1]]
    first_runs, nodes = _components(touching[:, alike], len(starts))
    if not void:
        first_runs, nodes = _without(labels[first_runs] == IGNORE_INDEX, first_runs, nodes)
    one, other = nodes[touching[:, ~alike]]
    lower, upper = np.minimum(one, other), np.maximum(one, other)
    codes = np.unique((lower * len(starts) + upper)[lower >= 0])
    edges = np.stack(np.divmod(codes, len(starts)), axis=1)
    return ComponentGraph(labels[first_runs], starts[first_runs], edges, nodes[runs])


def image_graphs(
    maps: DenseMaps,
    label_maps: LabelMaps,
    *,
    label_rule: Literal["floor", "corners"],
    node_features: NodeFeatures,
) -> ImageGraphs:
    """Return the component graph of each map's labels; void, which may hide anything, is left out."""
    position = {image_id: index for index, image_id in enumerate(label_maps.ids)}
    labels, features, edges, offsets = [], [], [], [0]
    for image_id, feature_map in zip(maps.ids, maps, strict=True):
        cells = feature_map.numpy()
        small = LABEL_RULES[label_rule](label_maps[position[image_id]], cells.shape[:2])
        graph = component_graph(small, void=False)
        if node_features == "mean":
            rows = component_means(graph.nodes, cells, count=len(graph))
        else:
            rows = cells.reshape(-1, cells.shape[2])[graph.seeds]
        labels.append(graph.labels)
        features.append(rows.astype(np.float16))
        edges.append(graph.edges + offsets[-1])
        offsets.append(offsets[-1] + len(graph))
    return ImageGraphs(
        np.concatenate(labels),
        np.concatenate(features),
        np.concatenate(edges),
        np.array(offsets),
        maps.ids,
        Split.described(label_maps.meta),
    )


def component_means(
    nodes: Int64[np.ndarray, "h w"], features: Shaped[np.ndarray, "h w d"], *, count: int
) -> Float[np.ndarray, "n d"]:
    """Return the mean feature of each of `count` components as float32."""
    rows = features.reshape(-1, features.shape[-1])
    inside = np.flatnonzero(nodes.reshape(-1) >= 0)
    members = nodes.reshape(-1)[inside]
    shares = (1 / np.bincount(members, minlength=count)).astype(np.float32)
    shape = (count, len(rows))
    return csr_array((shares[members], (members, inside)), shape) @ rows.astype(np.float32)


def propagation(
    edges: Int64[np.ndarray, "e 2"], *, count: int, convolution: Convolution
) -> Float[Tensor, "n n"]:
    """Return the sparse matrix of a graph convolution over binary, symmetric A without self-loops.

    "sum" is A, as released: magnitudes grow with degree, and a node hears of itself only through its
    neighbours. "mean" is D^-1 (A + I): nodes that all touch each other become the same. "lazy" is
    (3 I + D^-1 A) / 4, the random walk that stays where it is three times out of four: a node remains
    itself, with a trace of its neighbours.
    """
    degree = np.bincount(edges.reshape(-1), minlength=count)
    own, other = {
        "sum": (np.zeros(count), np.ones(count)),
        "mean": (1 / (degree + 1), 1 / (degree + 1)),
        "lazy": (np.where(degree > 0, 0.75, 1.0), 0.25 / np.maximum(degree, 1)),
    }[convolution]
    one, two = edges.T
    loops = np.arange(count)
    rows, columns = np.concatenate([loops, one, two]), np.concatenate([loops, two, one])
    values = np.concatenate([own, other[one], other[two]])
    order = np.lexsort((columns, rows))
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([rows, columns])[:, order]),
        torch.from_numpy(values[order]).float(),
        (count, count),
        is_coalesced=True,
        check_invariants=False,
    )


def _runs(
    label_map: UInt8[np.ndarray, "h w"],
) -> tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, "h w"]]:
    """Return the first cell of each run of equal labels in a row, and the run of each cell."""
    begins = np.ones(label_map.shape, bool)
    begins[:, 1:] = label_map[:, 1:] != label_map[:, :-1]
    runs = np.cumsum(begins.reshape(-1)) - 1
    return np.flatnonzero(begins), runs.reshape(label_map.shape)


def _touching(runs: Int64[np.ndarray, "h w"], count: int) -> Int64[np.ndarray, "2 t"]:
    """Return the pairs of runs that share a side or a corner; some pairs more than once."""
    codes = runs * count
    pairs = [
        codes[:, :-1] + runs[:, 1:],
        codes[:-1] + runs[1:],
        codes[:-1, :-1] + runs[1:, 1:],
        codes[:-1, 1:] + runs[1:, :-1],
    ]
    found = np.concatenate([pair.reshape(-1) for pair in pairs])
    fresh = np.append(True, found[1:] != found[:-1])[: len(found)]
    first, second = np.divmod(found[fresh], count)
    return np.stack([first, second])[:, first != second]


def _components(
    links: Int64[np.ndarray, "2 k"], count: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " r"]]:
    """Return the first run of each component of linked runs, ascending, and each run's component."""
    matrix = coo_array((np.ones(links.shape[1], np.int8), tuple(links)), (count, count))
    found = connected_components(matrix, directed=False)[1]
    _, first, component = np.unique(found, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[component]


def _without(
    dropped: Bool[np.ndarray, " n"],
    first_runs: Int64[np.ndarray, " n"],
    nodes: Int64[np.ndarray, " r"],
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " r"]]:
    """Leave some components out; their runs belong to -1."""
    number = np.where(dropped, -1, np.cumsum(~dropped) - 1)
    return first_runs[~dropped], number[nodes]
