"""How both networks of this method learn from label maps; only their losses differ (simbaseline §2.3)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from zslib.backbones.network import Normalise
from zslib.datasets.views import BatchOrder, loader
from zslib.errors import InputError
from zslib.methods.simbaseline.pixel_level import PixelLevelNetwork
from zslib.methods.simbaseline.views import ProposalViews
from zslib.params import ComputeParams, PixelTraining, ProposalEncoder
from zslib.training import (
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    build_optimiser,
    train,
)

LossesOf = Callable[[Any, UInt8[Tensor, "b h w"]], Losses]
"""From what the network says of a batch, and its label maps; the total is called `loss`."""


def learn(
    network: PixelLevelNetwork,
    encoder: ProposalEncoder,
    losses_of: LossesOf,
    images: Sequence[Path],
    label_maps: Sequence[np.ndarray],
    params: PixelTraining,
    *,
    name: str,
    section: str,
    seed: int,
    compute: ComputeParams,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> None:
    """Train the network itself; `section` is where the parameters stand.

    Raises:
        InputError: fewer images than a batch.
    """
    if len(images) < params.batch_size:
        raise InputError(
            f"{section}.batch_size: {params.batch_size} is more than the "
            f"{len(images)} training images there are"
        )
    views = ProposalViews(
        images, label_maps, params.augmentation, seed=seed, cache_images=compute.cache_images
    )
    order = BatchOrder(
        len(images), params.batch_size, seed=seed, rank=runtime.rank, world_size=runtime.world_size
    )
    optimiser = build_optimiser(params.optimiser, parameter_groups(network, params))
    training = _WithNormalisation(network, encoder.mean, encoder.std).to(runtime.device)
    prepared, stepping = runtime.prepare(training, optimiser)
    train(
        TrainState({"network": network}, {"network": optimiser}),
        _step(prepared, stepping, losses_of, params, runtime),
        lambda start: iter(loader(views, order, start, params.steps, workers=compute.workers)),
        steps=params.steps,
        seed=seed,
        name=name,
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    network.cpu().eval()


def parameter_groups(network: PixelLevelNetwork, params: PixelTraining) -> list[dict[str, object]]:
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
    """uint8 images in, what the network says of them out."""

    def __init__(
        self, network: PixelLevelNetwork, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network, self.normalise = network, Normalise(mean, std)

    def forward(self, images: Tensor) -> Any:
        return self.network(self.normalise(images))


def _step(
    network: nn.Module,
    optimiser: Optimizer,
    losses_of: LossesOf,
    params: PixelTraining,
    runtime: Runtime,
) -> Callable[[Sequence[Tensor]], Losses]:
    """Return one step: the losses of a batch, the whole gradient clipped."""

    def step(batch: Sequence[Tensor]) -> Losses:
        pictures, labels = (t.to(runtime.device, non_blocking=True) for t in batch)
        network.train()
        with runtime.autocast():
            found = network(pictures)
        losses = losses_of(found, labels)
        optimiser.zero_grad(set_to_none=True)
        runtime.backward(losses["loss"])
        nn.utils.clip_grad_norm_(network.parameters(), params.gradient_clip)
        optimiser.step()
        return {key: value.detach() for key, value in losses.items()}

    return step
