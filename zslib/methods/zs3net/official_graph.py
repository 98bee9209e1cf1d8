"""The graph branch of ZS3Net as released (zs3net §5), beside the pixels of `official.py`.

Segments of void are nodes like all others, with the embedding of class 0: they take part in message
passing and in the generator's loss, and only the classifier's ignores them. The loss compares all
nodes of one image with the features of their first cells, classes mixed.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zslib.benchmark import IGNORE_INDEX, Split
from zslib.graphs import ComponentGraph, component_graph, propagation
from zslib.grids import floor_nearest
from zslib.losses import weighted_cross_entropy
from zslib.methods.zs3net.generator import mmd_loss
from zslib.methods.zs3net.graph import GraphGenerator
from zslib.params.zs3net import GmmnParams

WEIGHT = 0.1
"""Of the branch in the classifier's loss."""


class OfficialGraphBranch:
    """A generator over the segments of images, and a term of the classifier's loss."""

    def __init__(
        self,
        generator: GraphGenerator,
        class_embeddings: Float[Tensor, "c e"],
        split: Split,
        params: GmmnParams,
    ) -> None:
        self._generator, self._embeddings = generator, class_embeddings
        self._split, self._params = split, params

    def term(
        self,
        real: Float[Tensor, "b d h w"],
        label_maps: UInt8[np.ndarray, "b H W"],
        head: nn.Conv2d,
        weights: Float[Tensor, " c"],
        optimiser: torch.optim.Optimizer,
    ) -> Float[Tensor, ""]:
        """Return 0.1 times the sum of the images' losses, after a generator's step for each.

        The generator learns from images without unseen classes, whose nodes have their real features
        in the loss; the nodes of the others have generated ones. Each image's loss is a weighted mean
        over its nodes. An image with a single component is left out.
        """
        total = torch.zeros((), device=real.device)
        for features, label_map in zip(real, label_maps, strict=True):
            grid = floor_nearest(label_map, tuple(features.shape[-2:]))
            graph = component_graph(grid, void=True)
            if len(graph) > 1:
                shows_unseen = self._split.shows_unseen(grid)
                seeds = torch.from_numpy(graph.seeds).to(real.device)
                nodes = features.flatten(1).T.index_select(0, seeds)
                fake = self._generate(graph, None if shows_unseen else nodes, optimiser)
                logits = _logits(head, fake if shows_unseen else nodes)
                labels = torch.from_numpy(graph.labels.astype(np.int64)).to(real.device)
                loss, weight = weighted_cross_entropy(logits, labels, weights)
                total = total + WEIGHT * loss / weight.clamp(min=1)
        return total

    def _generate(
        self,
        graph: ComponentGraph,
        real: Float[Tensor, "n d"] | None,
        optimiser: torch.optim.Optimizer,
    ) -> Float[Tensor, "n d"]:
        """Return synthetic features of all nodes; where real ones are given, take a step on them."""
        device = self._embeddings.device
        labels = np.where(graph.labels == IGNORE_INDEX, 0, graph.labels).astype(np.int64)
        rows = torch.from_numpy(labels).to(device)
        matrix = propagation(graph.edges, count=len(graph), convolution="sum").to(device)
        generated = self._generator.sample(self._embeddings.index_select(0, rows), matrix)
        if real is not None:
            optimiser.zero_grad(set_to_none=True)
            mmd_loss(generated, real, self._params).backward()
            optimiser.step()
        return generated.detach()


def _logits(head: nn.Conv2d, nodes: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    return head(nodes[:, :, None, None])[:, :, 0, 0]
