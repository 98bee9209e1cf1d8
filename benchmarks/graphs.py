"""Component graphs against labelling one class at a time, and against visiting cells in Python."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from benchmarks.measure import Goal, Result, time_side_by_side
from zslib.benchmark import IGNORE_INDEX
from zslib.graphs import component_graph

Graph = tuple[np.ndarray, set[tuple[int, int]]]
"""Labels of the nodes in raster order, and pairs of nodes that touch."""

OURS, BY_CLASS = "zslib", "scipy.ndimage.label, class by class"


def measure(*, side: int = 78, objects: int = 6, repeats: int = 30) -> list[Result]:
    """Time one label map of side x side cells, drawn like those of Pascal VOC at stride 4."""
    rng = np.random.default_rng(0)

    def draw() -> np.ndarray:
        return draw_map(side, objects, rng)

    contestants: dict[str, Callable[[np.ndarray], Graph]] = {
        OURS: ours,
        BY_CLASS: by_class,
        "Python, cell by cell": by_cell,
    }
    refuse_disagreement(contestants, draw())
    return [
        Result(
            f"graphs: the component graph of a label map of {side}x{side} cells",
            {"objects": objects, "repeats": repeats},
            time_side_by_side(contestants, draw, repeats=repeats),
            reference=BY_CLASS,
            amount=1,
            unit="maps",
            goal=Goal(OURS, 1.0, "no slower than one call of scipy.ndimage.label per class"),
        )
    ]


def draw_map(side: int, objects: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ellipses of some classes, each with a border of void, on background."""
    rows, columns = np.mgrid[:side, :side]
    label_map = np.zeros((side, side), np.uint8)
    for _ in range(objects):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(side / 12, side / 3, 2)
        distance = np.hypot((rows - centre[0]) / radius[0], (columns - centre[1]) / radius[1])
        label_map[distance < 1.1] = IGNORE_INDEX
        label_map[distance < 1] = rng.integers(1, 21)
    return label_map


def ours(label_map: np.ndarray) -> Graph:
    """Link runs of equal labels, all classes at once."""
    graph = component_graph(label_map, void=True)
    return graph.labels, set(map(tuple, graph.edges.tolist()))


def by_class(label_map: np.ndarray) -> Graph:
    """Label the components of each class by itself, then shift the map to see who touches."""
    nodes, count = np.zeros(label_map.shape, np.int64), 0
    for label in np.unique(label_map):
        found, more = ndimage.label(label_map == label, np.ones((3, 3)))
        nodes += np.where(found > 0, found + count, 0)
        count += more
    _, first, inverse = np.unique(nodes, return_index=True, return_inverse=True)
    nodes = np.argsort(np.argsort(first))[inverse].reshape(nodes.shape)
    pairs = [
        (nodes[:, :-1], nodes[:, 1:]),
        (nodes[:-1], nodes[1:]),
        (nodes[:-1, :-1], nodes[1:, 1:]),
        (nodes[:-1, 1:], nodes[1:, :-1]),
    ]
    ends = np.concatenate([np.stack(p, axis=-1).reshape(-1, 2) for p in pairs])
    ends = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
    return label_map.reshape(-1)[np.sort(first)], set(map(tuple, ends.tolist()))


def by_cell(label_map: np.ndarray) -> Graph:
    """Flood each component from its first cell; a cell of another one is an edge."""
    height, width = label_map.shape
    values, nodes = label_map.tolist(), [[-1] * width for _ in range(height)]
    labels: list[int] = []
    for row, column in np.ndindex(height, width):
        if nodes[row][column] < 0:
            nodes[row][column] = len(labels)
            labels.append(values[row][column])
            waiting = [(row, column)]
            while waiting:
                here = waiting.pop()
                for r, c in around(*here, height, width):
                    if nodes[r][c] < 0 and values[r][c] == values[row][column]:
                        nodes[r][c] = nodes[row][column]
                        waiting.append((r, c))
    edges = set()
    for row, column in np.ndindex(height, width):
        node = nodes[row][column]
        edges |= {(node, nodes[r][c]) for r, c in around(row, column, height, width)}
    return np.array(labels), {(a, b) for a, b in edges if a < b}


def around(row: int, column: int, height: int, width: int) -> list[tuple[int, int]]:
    """Return a cell and its up to eight neighbours."""
    rows = range(max(row - 1, 0), min(row + 2, height))
    columns = range(max(column - 1, 0), min(column + 2, width))
    return [(r, c) for r in rows for c in columns]


def refuse_disagreement(
    contestants: dict[str, Callable[[np.ndarray], Graph]], label_map: np.ndarray
) -> None:
    """Make sure that all contestants find the same graph."""
    (labels, edges), *others = (find(label_map) for find in contestants.values())
    assert all(np.array_equal(labels, other) and edges == found for other, found in others)
