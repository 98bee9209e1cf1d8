"""ZS3Net with graph context: oracle numbers (zs3net §11.8), the clean form, and the released one."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods import test_zs3net, test_zs3net_official
from tests.methods.tester import World, ZeroShotMethodTester
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.graphs import ImageGraphs
from zslib.artifacts.maps import open_labels
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.graphs import component_graph, image_graphs, propagation
from zslib.held_out import draw_held_out
from zslib.methods.zs3net import classifier as zs3net_classifier
from zslib.methods.zs3net import official
from zslib.methods.zs3net.generator import Generator, Generators, load_generators, save_generators
from zslib.methods.zs3net.graph import (
    GraphBranch,
    GraphGenerator,
    fit_graph_generators,
    graph_branches,
)
from zslib.methods.zs3net.official_graph import OfficialGraphBranch
from zslib.params.zs3net import GmmnParams, GraphBranchParams
from zslib.training import SingleProcess

BRANCH = GraphBranchParams(graphs=8, swapped_share=0.5, weight=0.1)


@cache
def seen_graphs() -> ImageGraphs:
    """Graphs of a few segments side by side, of as many images as there are in the tiny world."""
    rng = np.random.default_rng(0)
    stripes = [rng.permutation(tiny.SPLIT.seen)[:5].astype(np.uint8) for _ in range(16)]
    maps = [np.tile(stripe.repeat(2), (3, 1)) for stripe in stripes]
    with TemporaryDirectory() as folder:
        return image_graphs(
            DenseMaps.open(tiny.write_maps(Path(folder) / "maps.h5", maps)),
            open_labels(tiny.write_labels(Path(folder) / "labels.h5", maps)),
            label_rule="floor",
            node_features="mean",
        )


def graph_generators(
    world: World, graphs: ImageGraphs, *, seed: int, curves: tiny.RecordedCurves | None = None
) -> Generators[GraphGenerator]:
    return fit_graph_generators(
        graphs,
        world.class_embeddings,
        test_zs3net.GENERATOR.model_copy(update={"rows": 16}),
        world.selection,
        convolution="lazy",
        tuning_ids=world.tuning.ids,
        seed=seed,
        curves=curves,
    )


class TestZs3netGraph(ZeroShotMethodTester):
    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PixelClassifier:
        graphs = seen_graphs()
        branches = graph_branches(
            graphs,
            graph_generators(world, graphs, seed=seed),
            world.class_embeddings,
            BRANCH,
            convolution="lazy",
            dropout=True,
            tuning_ids=world.tuning.ids,
        )
        return zs3net_classifier.fit(
            world.bank,
            world.tuning,
            world.labels,
            test_zs3net.generators(world, seed=seed),
            world.class_embeddings,
            test_zs3net.CLASSIFIER,
            branches=branches,
            seed=seed,
            curves=curves,
        ).final


def test_no_graph_outside_the_tuning_images_is_an_error_that_says_what_to_do(world: World) -> None:
    graphs = seen_graphs()
    with pytest.raises(
        InputError, match=r"features\.train_maps: no map of split 'tiny.*features\.tuning_images"
    ):
        fit_graph_generators(
            graphs,
            world.class_embeddings,
            test_zs3net.GENERATOR,
            world.selection,
            convolution="lazy",
            tuning_ids=graphs.ids,
            seed=0,
        )


# --- the network ---------------------------------------------------------------------------------

ORACLE = np.array([[0, 0, 5, 5], [0, 255, 5, 0], [7, 7, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    ("convolution", "expected"),
    [
        ("sum", (-13.978, -16.774, -17.174, -13.978, -17.974)),
        ("mean", (-1.161, -1.206, -1.206, -1.236, -1.206)),
    ],
)
def test_zs3net_oracle_8_forward(convolution: str, expected: tuple[float, ...]) -> None:
    params = GmmnParams(hidden=1, noise_dimension=1, dropout=0.0)
    network = GraphGenerator(1, 1, params).double()
    network.layers[0].weight.data = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
    network.layers[3].weight.data = torch.tensor([[2.0]], dtype=torch.float64)
    edges = component_graph(ORACLE, void=True).edges
    matrix = propagation(edges, count=5, convolution=convolution).double()
    inputs = torch.arange(1.0, 6, dtype=torch.float64)[:, None]
    found = network(inputs, torch.zeros_like(inputs), matrix)[:, 0]
    # The rows of D^-1 are rounded to single precision.
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_zs3net_section_5_parameters() -> None:
    network = GraphGenerator(300, 256, GmmnParams())
    assert sum(p.numel() for p in network.parameters()) == 219_648


def test_graphs_of_a_batch_do_not_hear_of_each_other() -> None:
    graphs = seen_graphs()
    network = GraphGenerator(6, tiny.DIMENSION, GmmnParams(hidden=8, noise_dimension=2, dropout=0))
    batch = graphs.gather(np.array([0, 1]))
    size = int(batch.offsets[1])
    alone = graphs.gather(np.array([0]))
    noise = torch.rand(len(batch.labels), 2)

    def run(labels: Tensor, edges: np.ndarray) -> Tensor:
        matrix = propagation(edges, count=len(labels), convolution="lazy")
        return network(tiny.EMBEDDINGS[labels], noise[: len(labels)], matrix)

    torch.testing.assert_close(
        run(batch.labels, batch.edges)[:size], run(alone.labels, alone.edges)
    )


# --- its training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs() -> ImageGraphs:
    return seen_graphs()


@pytest.fixture(scope="module")
def curves() -> tiny.RecordedCurves:
    return tiny.RecordedCurves()


@pytest.fixture(scope="module")
def trained(
    world: World, graphs: ImageGraphs, curves: tiny.RecordedCurves
) -> Generators[GraphGenerator]:
    return graph_generators(world, graphs, seed=0, curves=curves)


def test_the_loss_of_the_graph_generator_decreases(
    trained: Generators[GraphGenerator], curves: tiny.RecordedCurves
) -> None:
    losses = curves.series("mmd")
    assert len(losses) == test_zs3net.GENERATOR.steps
    assert np.mean(losses[-25:]) < 0.7 * np.mean(losses[:25])


def recognised(features: Tensor, labels: Tensor) -> float:
    """Return the share of features that lie nearest to the mean feature of their own class."""
    means = tiny.features(np.arange(9).repeat(64), seed=8).astype(np.float32).reshape(9, 64, -1)
    nearest = torch.cdist(features, torch.from_numpy(means.mean(axis=1))).argmin(1)
    return (nearest == labels).float().mean().item()


def test_generated_nodes_resemble_their_class(
    trained: Generators[GraphGenerator], graphs: ImageGraphs
) -> None:
    torch.manual_seed(0)
    batch = graphs.gather(np.arange(len(graphs)))
    matrix = propagation(batch.edges, count=len(batch.labels), convolution="lazy")
    with torch.no_grad():
        generated = trained.final.sample(tiny.EMBEDDINGS[batch.labels], matrix)
    assert recognised(generated, batch.labels) > 0.8


def test_swapped_nodes_resemble_an_unseen_class_far_above_chance(
    trained: Generators[GraphGenerator], graphs: ImageGraphs
) -> None:
    torch.manual_seed(0)
    branch = make_branch(graphs, trained.final, graphs_per_step=64, swapped_share=1.0)
    features, labels = branch.draw(np.random.default_rng(0))
    swapped = torch.isin(labels, torch.tensor(tiny.UNSEEN))
    assert recognised(features[swapped], labels[swapped]) > 0.3


def test_held_out_graph_generators_share_the_draws_of_the_pixel_generators(
    trained: Generators[GraphGenerator], world: World
) -> None:
    assert trained.draws == tuple(draw_held_out(world.bank.split, world.selection, seed=0))


def test_graph_generators_come_back_as_they_went(
    trained: Generators[GraphGenerator], tmp_path: Path
) -> None:
    save_generators(tmp_path / "g.safetensors", trained)
    found = load_generators(tmp_path / "g.safetensors", GraphGenerator)
    assert isinstance(found.final, GraphGenerator)
    assert found.draws == trained.draws
    for name, tensor in trained.held_out[1].state_dict().items():
        assert torch.equal(found.held_out[1].state_dict()[name], tensor), name


# --- the branch of the classifier ----------------------------------------------------------------


def make_branch(
    graphs: ImageGraphs, generator: nn.Module, *, graphs_per_step: int = 8, **change: float
) -> GraphBranch:
    params = BRANCH.model_copy(update={"graphs": graphs_per_step} | change)
    return GraphBranch(
        graphs.only(tiny.SPLIT.seen),
        generator,
        tiny.EMBEDDINGS,
        tiny.UNSEEN,
        params,
        convolution="lazy",
        dropout=False,
    )


def test_one_node_of_a_share_of_the_graphs_is_swapped(
    graphs: ImageGraphs, trained: Generators[GraphGenerator]
) -> None:
    branch = make_branch(graphs, trained.final, graphs_per_step=10, swapped_share=0.3)
    features, labels = branch.draw(np.random.default_rng(3))
    assert np.isin(labels, tiny.UNSEEN).sum() == 3
    chosen = np.random.default_rng(3).integers(0, len(graphs), 10)
    given = graphs.gather(chosen)
    kept = torch.from_numpy(~np.isin(labels, tiny.UNSEEN))
    assert torch.equal(features[kept], given.features[kept]), "seen nodes have their real features"
    assert torch.equal(labels[kept], given.labels[kept])
    assert not features.requires_grad


def test_the_term_is_a_weighted_mean(
    graphs: ImageGraphs, trained: Generators[GraphGenerator]
) -> None:
    torch.manual_seed(0)
    head, weights = nn.Linear(tiny.DIMENSION, 9), torch.ones(9)
    weights[list(tiny.UNSEEN)] = 7.0
    branch = make_branch(graphs, trained.final, weight=0.3)
    torch.manual_seed(1)
    term = branch(head, weights, np.random.default_rng(0))
    torch.manual_seed(1)
    features, labels = branch.draw(np.random.default_rng(0))
    expected = 0.3 * nn.functional.cross_entropy(head(features), labels, weights)
    torch.testing.assert_close(term, expected)


def test_the_branch_teaches_the_classifier(
    graphs: ImageGraphs, trained: Generators[GraphGenerator], world: World
) -> None:
    torch.manual_seed(0)
    pixels = Generator(6, tiny.DIMENSION, test_zs3net.GENERATOR)
    fitted = [
        zs3net_classifier.fit_classifier(
            world.bank,
            pixels,
            world.class_embeddings,
            tiny.SPLIT,
            test_zs3net.CLASSIFIER,
            unseen_weight=1.0,
            allowed=None,
            branch=make_branch(graphs, trained.final, weight=weight),
            seed=0,
        )
        for weight in (0.0, 3.0)
    ]
    features, labels = make_branch(graphs, trained.final).draw(np.random.default_rng(1))
    losses = [nn.functional.cross_entropy(c.scores(features), labels).item() for c in fitted]
    assert losses[1] < 0.5 * losses[0]


def test_branches_of_draws_see_neither_held_out_classes_nor_tuning_images(
    graphs: ImageGraphs, trained: Generators[GraphGenerator], world: World
) -> None:
    branches = graph_branches(
        graphs,
        trained,
        world.class_embeddings,
        BRANCH.model_copy(update={"graphs": 200}),
        convolution="lazy",
        dropout=True,
        tuning_ids=world.tuning.ids,
    )
    others = sorted(set(graphs.ids) - set(world.tuning.ids))
    tuning = graphs.only(range(9), without=others).features
    for branch, draw in zip(branches.held_out, trained.draws, strict=True):
        features, labels = branch.draw(np.random.default_rng(0))
        assert set(labels.tolist()) == set(draw.seen + draw.unseen)
        hidden = np.isin(graphs.labels, draw.unseen)
        found = {tuple(row) for row in features.half().tolist()}
        assert not found & {tuple(row) for row in graphs.features[hidden].tolist()}
        assert not found & {tuple(row) for row in tuning.tolist()}


# --- as released ---------------------------------------------------------------------------------

SPLIT = test_zs3net_official.SPLIT
GRID = np.array([[[0, 0], [1, 255]], [[2, 2], [2, 1]], [[1, 1], [1, 1]]], np.uint8)


class Echo(GraphGenerator):
    """Generates what its neighbours' embeddings add up to, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(3, 3, GmmnParams(hidden=2, noise_dimension=1))
        self.given: list[Tensor] = []

    def sample(self, class_embeddings: Tensor, matrix: Tensor) -> Tensor:
        self.given.append(class_embeddings)
        return matrix @ class_embeddings + 0 * self.layers[3].bias.sum()


def run_branch(
    real: Tensor, label_maps: np.ndarray
) -> tuple[Tensor, Echo, test_zs3net_official.Stepped]:
    generator = Echo()
    optimiser = test_zs3net_official.Stepped(generator.parameters(), lr=1.0)
    head = nn.Conv2d(3, 3, 1)
    head.weight.data = torch.eye(3)[:, :, None, None]
    head.bias.data.zero_()
    branch = OfficialGraphBranch(
        generator, test_zs3net_official.EMBEDDINGS, SPLIT, GmmnParams(noise_dimension=1)
    )
    weights = torch.tensor([1.0, 1.0, 100.0])
    return branch.term(real, label_maps, head, weights, optimiser), generator, optimiser


def test_zs3net_section_5_real_first_cells_without_unseen_classes_generated_nodes_with_them() -> (
    None
):
    torch.manual_seed(0)
    real = torch.rand(3, 3, 2, 2)
    term, generator, optimiser = run_branch(real, GRID)
    embeddings = test_zs3net_official.EMBEDDINGS
    cross_entropy = nn.functional.cross_entropy
    first = cross_entropy(real[0, :, [0, 1], [0, 0]].T, torch.tensor([0, 1]))
    # Two nodes that touch each other: each hears of the other only.
    weights = torch.tensor([1.0, 1.0, 100.0])
    second = cross_entropy(embeddings[[1, 2]], torch.tensor([2, 1]), weights)
    torch.testing.assert_close(term, 0.1 * (first + second))
    assert optimiser.steps == 1, "an image with unseen classes teaches the generator nothing"
    assert len(generator.given) == 2, "an image with a single component is left out"


def test_zs3net_section_5_void_is_a_node_with_the_embedding_of_background() -> None:
    _, generator, _ = run_branch(torch.rand(1, 3, 2, 2), GRID[:1])
    torch.testing.assert_close(generator.given[0], test_zs3net_official.EMBEDDINGS[[0, 1, 0]])


def test_a_batch_without_graphs_adds_nothing() -> None:
    term, _, optimiser = run_branch(torch.rand(1, 3, 2, 2), GRID[2:])
    assert term.item() == 0
    assert optimiser.steps == 0


def test_the_released_loop_trains_both_generators(world: World) -> None:
    def fit(*, graph: bool) -> PixelClassifier:
        torch.manual_seed(0)
        network = DeepLabV3Plus(tiny.deeplab(), len(tiny.CLASSES))
        return official.fit(
            network,
            test_zs3net_official.ENCODER,
            images=world.images,
            label_maps=world.image_labels,
            class_embeddings=world.class_embeddings,
            split=tiny.SPLIT,
            params=test_zs3net_official.PARAMS.model_copy(update={"epochs": 1}),
            graph=graph,
            seed=0,
            compute=tiny.CPU,
            runtime=SingleProcess(),
        )

    one, again, plain = fit(graph=True), fit(graph=True), fit(graph=False)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, plain.weight)
    assert torch.isfinite(one.weight).all()
