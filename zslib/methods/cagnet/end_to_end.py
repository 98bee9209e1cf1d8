"""CaGNet's first step with the backbone learning along, as published (cagnet §2, §4, §5).

Backbone and contextual module see each image at several scales; the classifier learns from all of
them and from their maximum, all else from the first. The backbone starts as the split's seen-only
one; its features are standardised by that one's statistics, so that both start where they fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.backbones.network import Normalise, SegmentationNetwork, resize
from zslib.backbones.trained import Backbone
from zslib.benchmark import IGNORE_INDEX
from zslib.fine_tuning import (
    LabelledImages,
    Run,
    augmented,
    groups_without_norm,
    learn,
)
from zslib.grids import LABEL_RULES
from zslib.methods.cagnet.networks import ContextualModule, gate, sample_latent
from zslib.methods.cagnet.objectives import kl_divergence, word_table
from zslib.methods.cagnet.players import Pixels, Players, View
from zslib.methods.cagnet.step1 import Step1, channel_statistics, joint_step
from zslib.params.cagnet import CagnetEndToEnd, CagnetStep1
from zslib.training import Losses, TrainState, build_optimiser


def fit(
    backbone: Backbone,
    images: LabelledImages,
    maps: DenseMaps,
    class_embeddings: Float[Tensor, "c e"],
    step1: CagnetStep1,
    params: CagnetEndToEnd,
    *,
    label_rule: str,
    run: Run,
) -> Step1:
    """Train all networks on images and seen labels; `backbone` itself learns.

    `maps` hold its features of training images as they were before; `step1` tells how the players
    learn, `params` all else.

    Raises:
        InputError: fewer images than a batch.
    """
    section = "cagnet.end_to_end"
    views, order = augmented(
        images, params.augmentation, params.batch_size, section=section, run=run
    )
    torch.manual_seed(run.seed)
    network, runtime = backbone.network, run.runtime
    network.to(runtime.device).to(memory_format=torch.channels_last)
    context = ContextualModule(maps.dimension, step1.networks)
    context.centre, context.scale = channel_statistics(maps)
    sizes = (class_embeddings.shape[1], maps.dimension, len(backbone.split.classes))
    players = Players(*sizes, step1.networks).to(runtime.device)
    context.to(runtime.device)
    optimisers = {
        "context": build_optimiser(params.optimiser, parameter_groups(network, context, params)),
        **players.optimisers(step1),
    }
    encoder = backbone.params.encoder
    pyramid = Pyramid(
        network,
        context,
        Normalise(encoder.mean, encoder.std).to(runtime.device),
        word_table(class_embeddings).to(runtime.device),
        scales=params.scales,
        rows=step1.rows,
        label_rule=label_rule,
    )

    def step(batch: Sequence[Tensor]) -> Losses:
        with runtime.autocast():
            found = pyramid(batch[0].to(runtime.device), batch[1].numpy())
        return {} if found is None else joint_step(players, *found, step1, optimisers)

    modules = {"network": network, "context": context, "players": players}
    learn(views, order, TrainState(modules, optimisers), step, steps=params.steps, run=run)
    return Step1(context.cpu(), players.cpu(), backbone.split)


def parameter_groups(
    network: SegmentationNetwork, context: ContextualModule, params: CagnetEndToEnd
) -> list[dict[str, object]]:
    """Return what learns: the network without its batch norm, and the contextual module (cagnet §2)."""
    groups = groups_without_norm(
        network, head_lr_factor=params.head_lr_factor, bias_lr_factor=params.bias_lr_factor
    )
    return [*groups, {"params": list(context.parameters()), "lr_factor": params.context_lr_factor}]


@dataclass(frozen=True)
class CodedMap:
    """What networks make of a batch of images at one scale."""

    squashed: Float[Tensor, "b d h w"]
    """Sigmoid of the gated feature."""
    latent: Float[Tensor, "b d h w"]
    mean: Float[Tensor, "b d h w"]
    log_variance: Float[Tensor, "b d h w"]


class Pyramid:
    """A batch of images at several scales, as labelled pixels."""

    def __init__(
        self,
        network: SegmentationNetwork,
        context: ContextualModule,
        normalise: Normalise,
        words: Float[Tensor, "256 e"],
        *,
        scales: Sequence[float],
        rows: int | None,
        label_rule: str,
    ) -> None:
        self._network, self._context, self._normalise = network, context, normalise
        self._words, self._scales, self._rows = words, scales, rows
        self._to_grid = LABEL_RULES[label_rule]

    def __call__(
        self, images: UInt8[Tensor, "b 3 H W"], label_maps: UInt8[np.ndarray, "b H W"]
    ) -> tuple[Pixels, Float[Tensor, ""]] | None:
        """Return the labelled pixels of the first scale, with the others' for the classifier, and
        the KL term; None where a grid shows none: such a batch is left out (cagnet O4)."""
        self._network.eval()
        pictures = self._normalise(images)
        first, *others = (self._coded(pictures, scale) for scale in self._scales)
        squashed = [first.squashed, *(other.squashed for other in others)]
        size = first.squashed.shape[-2:]
        squashed.append(torch.stack([resize(one, size) for one in squashed]).amax(0))
        chosen = [self._labelled(label_maps, one.shape[-2:]) for one in squashed]
        if not all(len(labels) for _, labels in chosen):
            return None
        view, *more = (
            View(_rows(one, cells), labels)
            for one, (cells, labels) in zip(squashed, chosen, strict=True)
        )
        moments = (first.latent, first.mean, first.log_variance)
        latent, mean, log_variance = (_rows(moment, chosen[0][0]) for moment in moments)
        words = self._words.index_select(0, view.labels)
        pixels = Pixels(view.squashed, latent, words, view.labels, tuple(more))
        return pixels, kl_divergence(mean, log_variance)

    def _coded(self, pictures: Float[Tensor, "b 3 H W"], scale: float) -> CodedMap:
        """Code a batch at one scale, with noise of its own (cagnet O2)."""
        size = [round(side * scale) for side in pictures.shape[-2:]]
        features = self._network.features(resize(pictures, size)).permute(0, 2, 3, 1)
        standardised = self._context.standardise(features).permute(0, 3, 1, 2)
        mean, log_variance = self._context(standardised)
        latent = sample_latent(mean, log_variance)
        return CodedMap(gate(standardised, latent).sigmoid(), latent, mean, log_variance)

    def _labelled(
        self, label_maps: UInt8[np.ndarray, "b H W"], grid: Sequence[int]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """Choose labelled cells of a grid, in raster order; return them and their labels."""
        height, width = grid
        labels = np.stack([self._to_grid(one, (height, width)) for one in label_maps]).reshape(-1)
        cells = torch.from_numpy(np.flatnonzero(labels != IGNORE_INDEX))
        kept = torch.randperm(len(cells))[: self._rows].sort().values
        cells = cells.index_select(0, kept)
        found = torch.from_numpy(labels.astype(np.int64)).index_select(0, cells)
        device = self._words.device
        return cells.to(device), found.to(device)


def _rows(maps: Float[Tensor, "b d h w"], cells: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
    return maps.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, cells).float()
