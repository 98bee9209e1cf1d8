"""Plain supervised segmentation: the seen-only backbone (zs3net §2), and the ceiling.

Trained on seen labels this is stage 1 of every method that follows; trained on all labels, with
nothing unseen, it is the row `supervised` that no zero-shot method is expected to reach.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zslib.backbones.network import Normalise, SegmentationNetwork, resize
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import BatchOrder, TrainingViews, loader
from zslib.grids import corner_indices
from zslib.losses import weighted_cross_entropy
from zslib.params.backbone import BackboneParams
from zslib.params.training import ComputeParams
from zslib.training import (
    BatchNorm,
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    build_optimiser,
    mean_over_processes,
    train,
)


def fit(
    images: Sequence[ImageFile],
    label_maps: Sequence[np.ndarray],
    split: Split,
    params: BackboneParams,
    *,
    seed: int,
    compute: ComputeParams,
    runtime: Runtime,
    initial: SegmentationNetwork | None = None,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> Backbone:
    """Train a network, or train `initial` further, on label maps of the split's classes and void.

    Raises:
        InputError: fewer images than a batch, or encoder weights that do not fit.
    """
    order = BatchOrder(
        len(images),
        params.batch_size,
        section="backbone",
        of=f"training images of split '{split.name}'",
        seed=seed,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
    steps = params.epochs * order.steps_per_epoch
    torch.manual_seed(seed)
    network = initial or build_network(params.model, len(split.classes))
    network = network.to(memory_format=torch.channels_last)
    if params.frozen_batch_norm:
        for module in _batch_norms(network):
            module.requires_grad_(False)
    views = TrainingViews(
        images, label_maps, params.augmentation, seed=seed, cache_images=compute.cache_images
    )
    optimiser = build_optimiser(
        params.optimiser,
        [
            {"params": list(network.encoder.parameters())},
            {"params": network.head_parameters(), "lr_factor": params.head_lr_factor},
        ],
    )
    encoder = params.model.encoder
    prepared, stepping = runtime.prepare(
        _WithNormalisation(network, encoder.mean, encoder.std), optimiser
    )
    train(
        TrainState({"network": network}, {"network": optimiser}),
        _step(prepared, stepping, params, runtime),
        lambda start: iter(loader(views, order, start, steps, workers=compute.workers)),
        steps=steps,
        seed=seed,
        name=f"backbone {split.name}",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    return Backbone(network, params.model, split)


def own_classifier(backbone: Backbone) -> PixelClassifier:
    """Return a network's own last layer."""
    last = backbone.network.classifier
    assert last.bias is not None
    weight, bias = last.weight.detach().cpu()[:, :, 0, 0], last.bias.detach().cpu()
    return PixelClassifier(backbone.split, weight, bias)


class _WithNormalisation(nn.Module):
    """uint8 images in, logits out: on the label grid of the images, or on the feature grid."""

    def __init__(
        self, network: SegmentationNetwork, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network, self.normalise = network, Normalise(mean, std)

    def forward(self, images: Tensor, *, full_resolution: bool) -> Tensor:
        logits = self.network.classifier(self.network.features(self.normalise(images)))
        return resize(logits, images.shape[-2:]) if full_resolution else logits


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, params: BackboneParams, runtime: Runtime
) -> Callable[[Any], Losses]:
    """Return one step: cross-entropy over labelled pixels."""
    full = params.loss_resolution == "image"
    divisor = params.batch_size if params.divide_loss_by_batch else 1

    def step(batch: Sequence[Tensor]) -> Losses:
        images, labels = (t.to(runtime.device, non_blocking=True) for t in batch)
        _set_mode(network, frozen_batch_norm=params.frozen_batch_norm)
        with runtime.autocast():
            logits = network(images, full_resolution=full)
        if not full:
            labels = _on_grid(labels, logits.shape[-2:])
        rows = logits.float().permute(0, 2, 3, 1).flatten(0, 2)
        total, count = weighted_cross_entropy(rows, labels.flatten().long())
        loss = mean_over_processes(runtime, total, count)
        optimiser.zero_grad(set_to_none=True)
        runtime.backward(loss / divisor)
        optimiser.step()
        return {"loss": runtime.total(loss.detach()) / runtime.world_size}

    return step


def _set_mode(network: nn.Module, *, frozen_batch_norm: bool) -> None:
    network.train()
    if frozen_batch_norm:
        for module in _batch_norms(network):
            module.eval()


def _batch_norms(network: nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def _on_grid(labels: Tensor, grid: Sequence[int]) -> Tensor:
    """Resize labels (b, h, w) to the pixels that corners-aligned upsampling puts the cells on."""
    for axis, cells in enumerate(grid, start=1):
        indices = torch.from_numpy(corner_indices(labels.shape[axis], cells))
        labels = labels.index_select(axis, indices.to(labels.device))
    return labels
