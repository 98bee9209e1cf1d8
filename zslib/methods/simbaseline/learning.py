"""How both networks of this method learn from label maps; only their losses differ (simbaseline §2.3)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from zslib.backbones.network import Normalise
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import BatchOrder
from zslib.fine_tuning import Run, learn
from zslib.methods.simbaseline.pixel_level import PixelLevelNetwork, Trained
from zslib.methods.simbaseline.views import ProposalViews
from zslib.params.simbaseline import PixelTraining
from zslib.training import Losses, Runtime, TrainState, build_optimiser

LossesOf = Callable[[Any, UInt8[Tensor, "b h w"]], Losses]
"""From what the network says of a batch, and its label maps; the total is called `loss`."""


def learn_from_labels(
    trained: Trained[Any],
    images: Sequence[ImageFile],
    label_maps: Sequence[np.ndarray],
    losses_of: LossesOf,
    params: PixelTraining,
    *,
    section: str,
    run: Run,
) -> None:
    """Train the network itself, further; `section` is where the parameters stand.

    Raises:
        InputError: fewer images than a batch, or a loss that is not finite.
    """
    views, order = _batches(images, label_maps, params, section=section, run=run)
    network, encoder, runtime = trained.network, trained.encoder, run.runtime
    optimiser = build_optimiser(params.optimiser, parameter_groups(network, params))
    normalised = nn.Sequential(Normalise(encoder.mean, encoder.std), network).to(runtime.device)
    step = _step(*runtime.prepare(normalised, optimiser), losses_of, params, runtime)
    state = TrainState({"network": network}, {"network": optimiser})
    learn(views, order, state, step, steps=params.steps, run=run)
    network.cpu().eval()


def _batches(
    images: Sequence[ImageFile],
    label_maps: Sequence[np.ndarray],
    params: PixelTraining,
    *,
    section: str,
    run: Run,
) -> tuple[ProposalViews, BatchOrder]:
    """Return views of images, and the order that this process's share of their batches comes in."""
    views = ProposalViews(
        images,
        label_maps,
        params.augmentation,
        seed=run.seed,
        cache_images=run.compute.cache_images,
    )
    order = BatchOrder(
        len(images),
        params.batch_size,
        section=section,
        seed=run.seed,
        rank=run.runtime.rank,
        world_size=run.runtime.world_size,
    )
    return views, order


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
        runtime.clip(network, optimiser, params.gradient_clip)
        optimiser.step()
        return {key: value.detach() for key, value in losses.items()}

    return step
