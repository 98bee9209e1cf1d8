"""Training of the proposal network on label maps (simbaseline §2)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from zslib.artifacts.proposals import STRIDE
from zslib.backbones.network import Normalise
from zslib.datasets.views import BatchOrder, loader
from zslib.errors import InputError
from zslib.methods.simbaseline.criterion import Criterion, Labels, Masks, targets
from zslib.methods.simbaseline.network import MaskFormer, Predictions, Proposer
from zslib.methods.simbaseline.views import ProposalViews
from zslib.params import ComputeParams, ProposalTraining
from zslib.training import (
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    build_optimiser,
    train,
)


def fit(
    proposer: Proposer,
    images: Sequence[Path],
    label_maps: Sequence[np.ndarray],
    classes: Sequence[int],
    params: ProposalTraining,
    *,
    seed: int,
    compute: ComputeParams,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> None:
    """Train the proposer itself, further, on label maps of `classes` and void.

    `classes` are in the order of the text that its head compares with.

    Raises:
        InputError: fewer images than a batch, or predictions that are not finite.
    """
    if len(images) < params.batch_size:
        raise InputError(
            f"simbaseline.proposals.training.batch_size: {params.batch_size} is more than the "
            f"{len(images)} training images there are"
        )
    network, encoder = proposer.network, proposer.encoder
    views = ProposalViews(
        images, label_maps, params.augmentation, seed=seed, cache_images=compute.cache_images
    )
    order = BatchOrder(
        len(images), params.batch_size, seed=seed, rank=runtime.rank, world_size=runtime.world_size
    )
    optimiser = build_optimiser(params.optimiser, parameter_groups(network, params))
    training = _WithNormalisation(network, encoder.mean, encoder.std).to(runtime.device)
    prepared, stepping = runtime.prepare(training, optimiser)
    criterion = Criterion(len(classes), runtime).to(runtime.device)
    train(
        TrainState({"network": network}, {"network": optimiser}),
        _step(prepared, stepping, criterion, classes, params, runtime),
        lambda start: iter(loader(views, order, start, params.steps, workers=compute.workers)),
        steps=params.steps,
        seed=seed,
        name=f"proposals {proposer.split.name}",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    network.cpu().eval()


def parameter_groups(network: MaskFormer, params: ProposalTraining) -> list[dict[str, object]]:
    """Return the encoder, which learns more slowly, and the rest; norms and embeddings do not decay.

    The no-object vector is a plain parameter, and decays (simbaseline O10).
    """
    inside = set(map(id, network.encoder.parameters()))
    unweighted = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)
    spared = {id(p) for m in network.modules() if isinstance(m, unweighted) for p in m.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        key = (id(parameter) in inside, id(parameter) in spared)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": members,
            "lr_factor": params.encoder_lr_factor if slow else 1.0,
            "weight_decay": 0.0 if spare else params.optimiser.weight_decay,
        }
        for (slow, spare), members in groups.items()
    ]


class _WithNormalisation(nn.Module):
    """uint8 images in, the predictions of every decoder layer out."""

    def __init__(self, network: MaskFormer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network, self.normalise = network, Normalise(mean, std)

    def forward(self, images: Tensor) -> list[Predictions]:
        return self.network(self.normalise(images))


def _step(
    network: nn.Module,
    optimiser: Optimizer,
    criterion: Criterion,
    classes: Sequence[int],
    params: ProposalTraining,
    runtime: Runtime,
) -> Callable[[Sequence[Tensor]], Losses]:
    """Return one step: the losses of every decoder layer, the whole gradient clipped."""

    def step(batch: Sequence[Tensor]) -> Losses:
        pictures, labels = (t.to(runtime.device, non_blocking=True) for t in batch)
        masks, positions = _targets(labels, classes, params)
        network.train()
        with runtime.autocast():
            layers = network(pictures)
        losses = criterion.total([_as_float32(layer) for layer in layers], masks, positions)
        optimiser.zero_grad(set_to_none=True)
        runtime.backward(losses["loss"])
        nn.utils.clip_grad_norm_(network.parameters(), params.gradient_clip)
        optimiser.step()
        return {key: value.detach() for key, value in losses.items()}

    return step


def _targets(
    labels: UInt8[Tensor, "b h w"], classes: Sequence[int], params: ProposalTraining
) -> tuple[list[Masks], list[Labels]]:
    """Return the masks of each image, and where in `classes` theirs stand."""
    if params.loss_resolution == "grid":
        labels = labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    ignore = params.void_in_masks == "ignored"
    wanted = [targets(label_map, classes, ignore_void=ignore) for label_map in labels]
    masks, positions = zip(*wanted, strict=True)
    return list(masks), list(positions)


def _as_float32(predictions: Predictions) -> Predictions:
    return Predictions(predictions.masks.float(), predictions.classes.float())
