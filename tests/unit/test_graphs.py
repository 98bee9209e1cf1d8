"""Component graphs (zs3net §5, §11.8)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from tests import tiny
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.graphs import ImageGraphs
from zslib.artifacts.maps import open_labels
from zslib.benchmark import IGNORE_INDEX
from zslib.errors import ArtifactError
from zslib.graphs import component_graph, component_means, image_graphs, propagation

ORACLE = np.array([[0, 0, 5, 5], [0, 255, 5, 0], [7, 7, 0, 0]], np.uint8)
ADJACENCY = [
    [0, 1, 1, 0, 1],
    [1, 0, 1, 1, 1],
    [1, 1, 0, 1, 1],
    [0, 1, 1, 0, 1],
    [1, 1, 1, 1, 0],
]

label_maps = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0, 1, 2, IGNORE_INDEX]),
)


def adjacency(edges: np.ndarray, count: int) -> np.ndarray:
    return propagation(edges, count=count, convolution="sum").to_dense().numpy()


# --- one graph -----------------------------------------------------------------------------------


def test_zs3net_oracle_8_components_and_adjacency() -> None:
    graph = component_graph(ORACLE, void=True)
    assert graph.labels.tolist() == [0, 5, 255, 0, 7]
    assert list(zip(*np.divmod(graph.seeds, 4), strict=True)) == [
        (0, 0),
        (0, 2),
        (1, 1),
        (1, 3),
        (2, 0),
    ]
    np.testing.assert_array_equal(adjacency(graph.edges, len(graph)), ADJACENCY)


def test_without_void_the_other_components_keep_their_order() -> None:
    graph = component_graph(ORACLE, void=False)
    assert graph.labels.tolist() == [0, 5, 0, 7]
    assert graph.seeds.tolist() == [0, 2, 7, 8]
    np.testing.assert_array_equal(graph.nodes, [[0, 0, 1, 1], [0, -1, 1, 2], [3, 3, 2, 2]])
    rest = np.delete(np.delete(ADJACENCY, 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(adjacency(graph.edges, len(graph)), rest)


@pytest.mark.parametrize("side", [1, 3])
def test_a_map_of_void_has_no_node(side: int) -> None:
    graph = component_graph(np.full((side, side), IGNORE_INDEX, np.uint8), void=False)
    assert len(graph) == 0
    assert graph.edges.shape == (0, 2)
    assert (graph.nodes == -1).all()


@given(label_maps)
@settings(deadline=None)
def test_components_are_those_of_each_label_by_itself(label_map: np.ndarray) -> None:
    graph = component_graph(label_map, void=True)
    assert len(graph) == graph.nodes.max() + 1
    found = 0
    for label in np.unique(label_map):
        components, count = ndimage.label(label_map == label, np.ones((3, 3)))
        for number in range(1, count + 1):
            cells = components == number
            (node,) = np.unique(graph.nodes[cells])
            assert (graph.nodes == node).sum() == cells.sum()
            assert graph.labels[node] == label
            assert graph.seeds[node] == np.flatnonzero(cells)[0]
        found += count
    assert found == len(graph)
    assert (np.diff(graph.seeds) > 0).all(), "raster order"


@given(label_maps)
@settings(deadline=None)
def test_edges_join_components_that_touch(label_map: np.ndarray) -> None:
    graph = component_graph(label_map, void=True)
    wanted = set()
    padded = np.pad(graph.nodes, 1, constant_values=-1)
    for row, column in np.ndindex(*label_map.shape):
        around = padded[row : row + 3, column : column + 3]
        node = int(graph.nodes[row, column])
        wanted |= {(node, int(other)) for other in around.flat if other > node}
    assert [tuple(edge) for edge in graph.edges.tolist()] == sorted(wanted)


@given(label_maps, st.permutations([0, 1, 2, IGNORE_INDEX]))
@settings(deadline=None)
def test_only_equality_of_labels_matters(label_map: np.ndarray, names: Sequence[int]) -> None:
    table = np.zeros(256, np.uint8)
    table[[0, 1, 2, IGNORE_INDEX]] = names
    one, other = component_graph(label_map, void=True), component_graph(table[label_map], void=True)
    np.testing.assert_array_equal(one.nodes, other.nodes)
    np.testing.assert_array_equal(one.edges, other.edges)
    np.testing.assert_array_equal(table[one.labels], other.labels)


@given(label_maps)
@settings(deadline=None)
def test_a_mirrored_map_has_as_many_nodes_and_edges(label_map: np.ndarray) -> None:
    for void in (True, False):
        one, other = (component_graph(m, void=void) for m in (label_map, label_map[::-1, ::-1]))
        assert (len(one), len(one.edges)) == (len(other), len(other.edges))


@given(label_maps)
@settings(deadline=None)
def test_mean_features_of_components(label_map: np.ndarray) -> None:
    graph = component_graph(label_map, void=False)
    features = np.random.default_rng(0).random((*label_map.shape, 3)).astype(np.float16)
    means = component_means(graph.nodes, features, count=len(graph))
    assert means.shape == (len(graph), 3)
    for node, mean in enumerate(means):
        cells = features[graph.nodes == node].astype(np.float64)
        np.testing.assert_allclose(mean, cells.mean(axis=0), rtol=1e-5)


def test_rows_of_the_mean_convolution_sum_to_one() -> None:
    graph = component_graph(ORACLE, void=True)
    matrix = propagation(graph.edges, count=5, convolution="mean").to_dense()
    torch.testing.assert_close(matrix.sum(1), torch.ones(5))
    expected = torch.tensor(ADJACENCY) + torch.eye(5)
    torch.testing.assert_close(matrix, expected / expected.sum(1, keepdim=True))


def test_a_lazy_walk_stays_three_times_out_of_four() -> None:
    graph = component_graph(ORACLE, void=True)
    matrix = propagation(graph.edges, count=6, convolution="lazy").to_dense()
    adjacent = torch.tensor(ADJACENCY).float()
    expected = torch.block_diag(
        0.75 * torch.eye(5) + 0.25 * adjacent / adjacent.sum(1, keepdim=True), torch.ones(1, 1)
    )
    torch.testing.assert_close(matrix, expected, msg="a node without neighbours is all its own")


# --- graphs of many images -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    return [ORACLE, np.zeros((2, 2), np.uint8), np.array([[1, 0], [2, 2]], np.uint8)]


def build(maps: Sequence[np.ndarray], folder: Path, *, node_features: str = "mean") -> ImageGraphs:
    return image_graphs(
        DenseMaps.open(tiny.write_maps(folder / "maps.h5", maps)),
        open_labels(tiny.write_labels(folder / "labels.h5", maps)),
        label_rule="floor",
        node_features=node_features,
    )


@pytest.fixture
def graphs(maps: list[np.ndarray], tmp_path: Path) -> ImageGraphs:
    return build(maps, tmp_path)


def test_graphs_of_images_stand_one_after_another(graphs: ImageGraphs) -> None:
    assert graphs.labels.tolist() == [0, 5, 0, 7, 0, 1, 0, 2]
    assert graphs.offsets.tolist() == [0, 4, 5, 8]
    assert graphs.edges.tolist() == [[0, 1], [0, 3], [1, 2], [1, 3], [2, 3], [5, 6], [5, 7], [6, 7]]


def test_nodes_have_the_mean_or_the_first_feature_of_their_cells(
    maps: list[np.ndarray], tmp_path: Path
) -> None:
    cells = tiny.features(ORACLE, seed=5).astype(np.float32)
    mean, seed = (build(maps, tmp_path, node_features=kind).features for kind in ("mean", "seed"))
    np.testing.assert_allclose(mean[1], cells[[0, 0, 1], [2, 3, 2]].mean(axis=0), rtol=1e-3)
    np.testing.assert_array_equal(seed[:4], cells[[0, 0, 1, 2], [0, 2, 3, 0]])


def test_graphs_come_back_as_they_went(graphs: ImageGraphs, tmp_path: Path) -> None:
    graphs.save(tmp_path / "one.h5")
    found = ImageGraphs.open(tmp_path / "one.h5")
    found.save(tmp_path / "two.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    assert (found.ids, found.split) == (graphs.ids, graphs.split)
    with pytest.raises(ArtifactError, match="not 'graphs/1'"):
        ImageGraphs.open(tmp_path / "maps.h5")


def test_hidden_classes_leave_with_their_edges(graphs: ImageGraphs) -> None:
    rest = graphs.only([0, 7])
    assert rest.labels.tolist() == [0, 0, 7], "a graph with one node left goes too"
    assert rest.edges.tolist() == [[0, 2], [1, 2]]
    assert rest.ids == ("image00",)
    np.testing.assert_array_equal(rest.features, graphs.features[[0, 2, 3]])


def test_images_can_be_left_out(graphs: ImageGraphs) -> None:
    rest = graphs.only(range(9), without=["image00"])
    assert rest.ids == ("image02",)
    assert rest.edges.tolist() == [[0, 1], [0, 2], [1, 2]]


def test_a_batch_keeps_graphs_apart(graphs: ImageGraphs) -> None:
    batch = graphs.gather(np.array([2, 0, 2]))
    assert batch.labels.tolist() == [1, 0, 2, 0, 5, 0, 7, 1, 0, 2]
    assert batch.offsets.tolist() == [0, 3, 7, 10]
    blocks = [graphs.gather(np.array([position])) for position in (2, 0, 2)]
    matrices = [torch.from_numpy(adjacency(b.edges, len(b.labels))) for b in blocks]
    expected = torch.block_diag(*matrices)
    np.testing.assert_array_equal(adjacency(batch.edges, 10), expected)
    torch.testing.assert_close(batch.features, torch.cat([b.features for b in blocks]))


def test_nodes_are_found_in_their_graphs(graphs: ImageGraphs) -> None:
    nodes = np.array([6, 1, 6])
    batch, wanted = graphs.around(nodes)
    assert batch.labels[wanted].tolist() == graphs.labels[nodes].tolist()
    expected = torch.from_numpy(graphs.features[nodes]).float()
    torch.testing.assert_close(batch.features[wanted], expected)
    assert wanted.tolist() == [1, 4, 8]
