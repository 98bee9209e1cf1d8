"""ZS3Net with graph context (zs3net §5): features of segments, generated from those they touch.

A graph convolution network turns the class embeddings of an image's segments, and noise, into one
feature per segment. Segments of unseen classes stand in graphs of seen images: one seen segment is
given an unseen class, and what the network makes of it there trains the classifier in a branch of
its own, beside the pixels of plain ZS3Net. At test time there is no graph.

As released the network learns from all segments of one image at once, classes mixed, void included
(`official_graph.py`). Such a loss is blind to which segment got which feature, void may hide unseen
objects, and an image has a handful of segments to compare. Here each step compares many segments of
one class, each among its own neighbours, as the pixel generator does with pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from zslib.artifacts.graphs import GraphBatch, ImageGraphs
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.graphs import propagation
from zslib.held_out import draw_held_out
from zslib.losses import weighted_cross_entropy
from zslib.methods.zs3net.classifier import Branches
from zslib.methods.zs3net.generator import Generators, Gmmn, match_features
from zslib.params.evaluation import SelectionParams
from zslib.params.zs3net import Convolution, GeneratorParams, GraphBranchParams
from zslib.training import Curves


class GraphGenerator(Gmmn):
    """Class embeddings and noise of a graph's nodes -> their features: P f(P X W1 + b1) W2 + b2.

    P is the matrix of `propagation`, f is LeakyReLU and dropout: each layer mixes a node with its
    neighbours. There are as many parameters as in the generator of pixel features.
    """

    def forward(
        self,
        class_embeddings: Float[Tensor, "n e"],
        noise: Float[Tensor, "n z"],
        matrix: Float[Tensor, "n n"],
    ) -> Float[Tensor, "n d"]:
        inputs = torch.cat([class_embeddings, noise], dim=1)
        hidden = self.layers[:-1](matrix @ inputs)
        return self.layers[-1](matrix @ hidden)

    def sample(
        self, class_embeddings: Float[Tensor, "n e"], matrix: Float[Tensor, "n n"]
    ) -> Float[Tensor, "n d"]:
        """Generate one feature per node, each with noise of its own."""
        noise = self.noise(len(class_embeddings), class_embeddings.device)
        return self(class_embeddings, noise, matrix)


def fit_graph_generator(
    graphs: ImageGraphs,
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: GeneratorParams,
    *,
    convolution: Convolution,
    seed: int,
    curves: Curves | None = None,
) -> GraphGenerator:
    """Train on graphs of the split's seen classes; nodes of one class per step, all classes alike.

    Raises:
        InputError: there is no graph, or the loss is not finite.
    """
    if not len(graphs):
        raise InputError(
            f"features.train_maps: no map of split '{split.name}' is left to learn from that shows two "
            "segments of seen classes; raise it, or lower features.tuning_images"
        )
    torch.manual_seed(seed)
    generator = GraphGenerator(class_embeddings.shape[1], graphs.dimension, params)
    nodes_of = [np.flatnonzero(graphs.labels == label) for label in np.unique(graphs.labels)]

    def draw(rng: np.random.Generator) -> tuple[GraphBatch, Int64[Tensor, " k"]]:
        nodes = nodes_of[rng.integers(len(nodes_of))]
        return graphs.around(nodes[rng.integers(0, len(nodes), params.rows)])

    def pair(drawn: tuple[GraphBatch, Int64[Tensor, " k"]]) -> tuple[Tensor, Tensor]:
        graph, wanted = drawn
        matrix = propagation(graph.edges, count=len(graph.labels), convolution=convolution)
        generated = generator.sample(class_embeddings.index_select(0, graph.labels), matrix)
        return generated.index_select(0, wanted), graph.features.index_select(0, wanted)

    name = f"graph generator {split.name}"
    match_features(generator, params, draw, pair, seed=seed, name=name, curves=curves)
    return generator


def fit_graph_generators(
    graphs: ImageGraphs,
    class_embeddings: Float[Tensor, "c e"],
    params: GeneratorParams,
    selection: SelectionParams,
    *,
    convolution: Convolution,
    tuning_ids: Sequence[str],
    seed: int,
    curves: Curves | None = None,
) -> Generators[GraphGenerator]:
    """Train the final generator, and those that choices are made with."""
    draws = draw_held_out(graphs.split, selection, seed=seed)
    held_out = tuple(
        fit_graph_generator(
            graphs.only(draw.seen, without=tuning_ids),
            class_embeddings,
            draw,
            params,
            convolution=convolution,
            seed=seed,
        )
        for draw in draws
    )
    final = fit_graph_generator(
        graphs.only(graphs.split.seen),
        class_embeddings,
        graphs.split,
        params,
        convolution=convolution,
        seed=seed,
        curves=curves,
    )
    return Generators(final, held_out, tuple(draws))


class GraphBranch:
    """Weighted cross-entropy on nodes: real features of seen, generated ones of unseen classes."""

    def __init__(
        self,
        graphs: ImageGraphs,
        generator: GraphGenerator,
        class_embeddings: Float[Tensor, "c e"],
        unseen: Sequence[int],
        params: GraphBranchParams,
        *,
        convolution: Convolution,
        dropout: bool,
    ) -> None:
        self._graphs, self._generator = graphs, generator.train(dropout)
        self._embeddings, self._unseen = class_embeddings, np.array(unseen)
        self._params, self._convolution = params, convolution

    def __call__(
        self, head: nn.Linear, weights: Float[Tensor, " c"], rng: np.random.Generator
    ) -> Float[Tensor, ""]:
        features, labels = self.draw(rng)
        total, weight = weighted_cross_entropy(head(features), labels, weights)
        return self._params.weight * total / weight

    def draw(self, rng: np.random.Generator) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]]:
        """Return features and labels of the nodes of some graphs, a node swapped in a share of them."""
        count = self._params.graphs
        graph = self._graphs.gather(rng.integers(0, len(self._graphs), count))
        altered = max(round(count * self._params.swapped_share), 1)
        sizes = np.diff(graph.offsets)[:altered]
        swapped = torch.from_numpy(graph.offsets[:altered] + rng.integers(0, sizes))
        unseen = torch.from_numpy(rng.choice(self._unseen, altered))
        labels = graph.labels.index_copy(0, swapped, unseen)
        matrix = propagation(graph.edges, count=len(labels), convolution=self._convolution)
        with torch.no_grad():
            generated = self._generator.sample(self._embeddings.index_select(0, labels), matrix)
        fake = generated.index_select(0, swapped)
        return graph.features.index_copy(0, swapped, fake), labels


def graph_branches(
    graphs: ImageGraphs,
    generators: Generators[GraphGenerator],
    class_embeddings: Float[Tensor, "c e"],
    params: GraphBranchParams,
    *,
    convolution: Convolution,
    dropout: bool,
    tuning_ids: Sequence[str],
) -> Branches:
    """Return the branch of a split, and those that choices are made with."""

    def branch(generator: GraphGenerator, split: Split, without: Sequence[str]) -> GraphBranch:
        return GraphBranch(
            graphs.only(split.seen, without=without),
            generator,
            class_embeddings,
            split.unseen,
            params,
            convolution=convolution,
            dropout=dropout,
        )

    pairs = zip(generators.held_out, generators.draws, strict=True)
    held_out = tuple(branch(generator, draw, tuning_ids) for generator, draw in pairs)
    return Branches(branch(generators.final, graphs.split, ()), held_out)
