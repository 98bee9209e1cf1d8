"""A short measurement of this machine, and what the configured networks take: seconds and bytes.

Seconds come from steps on small views. Bytes come from a step in full size on torch's `meta` device,
which computes shapes alone.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from zslib.methods.zs3net.generator import Generator, mmd_loss
from zslib.params import GeneratorParams, Params
from zslib.plan.networks import Workload, workloads
from zslib.training import Runtime, build_optimiser, start_runtime

_ENOUGH = 0.3
"""Seconds: a step that takes as long is measured well enough."""
_SETS_UP = 64
"""Side of views that are not timed: the first pass also sets things up."""
_MMD_STEPS = 5
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimiser keeps per parameter."""


@dataclass(frozen=True)
class NetworkPace:
    """What a network takes on this machine."""

    training: float
    """Seconds per image pixel: forward, backward, step."""
    forward: float
    """Seconds per image pixel, in eval mode."""
    training_memory: int
    """Bytes of parameters, gradients, optimiser and activations of one batch."""
    size: int
    """Bytes of parameters and buffers: those of its artifact."""


@dataclass(frozen=True)
class Pace:
    """What one unit of work takes on this machine."""

    device: str
    networks: Mapping[str, NetworkPace]
    """`backbone`, and those of `sazs` and `simbaseline` where a split asks for them."""
    generator: float
    """Seconds per step of a generator."""

    @property
    def backbone(self) -> NetworkPace:
        return self.networks["backbone"]


def measure(params: Params) -> Pace:
    """Take the measurement: seconds on small networks, a minute on those of the papers.

    Raises:
        InputError: a network cannot be built, or the device of `compute` is not there.
    """
    runtime, dimension = start_runtime(params.compute), params.backbone.model.feature_channels
    return Pace(
        str(runtime.device),
        {name: measure_network(work, runtime) for name, work in workloads(params).items()},
        _generator_seconds(params.zs3net.generator, dimension),
    )


def measure_network(work: Workload, runtime: Runtime) -> NetworkPace:
    """Measure training steps and passes in eval mode."""
    network = work.build().to(runtime.device).to(memory_format=torch.channels_last)
    optimiser = build_optimiser(work.optimiser, network.parameters())

    def train(images: Float[Tensor, "b 3 s s"]) -> None:
        with runtime.autocast():
            loss = work.train(network.train(), images).float().square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    @torch.inference_mode()
    def look(images: Float[Tensor, "b 3 s s"]) -> None:
        with runtime.autocast():
            work.look(network.eval(), images)

    return NetworkPace(
        forward=_seconds_per_pixel(look, work.view, work.looks_at, runtime),
        training=_seconds_per_pixel(train, work.view, work.batch_size, runtime),
        training_memory=training_memory(work),
        size=sum(t.nbytes for t in network.state_dict().values()),
    )


def training_memory(work: Workload) -> int:
    """Return the bytes that a training step holds at its height, by shapes alone.

    Weights, gradients and the optimiser's state, and all that the backward pass keeps of a batch.
    """
    with torch.device("meta"):
        network = work.build().train()
        images = torch.empty(work.batch_size, 3, work.crop_size, work.crop_size)
        weights = {id(p) for p in network.parameters()}
        kept = _kept_for_backward(lambda: work.train(network, images), weights)
    numbers = sum(p.numel() for p in network.parameters())
    return kept + 4 * numbers * (2 + _STATES[work.optimiser.name])


def _kept_for_backward(forward: Callable[[], object], apart: set[int]) -> int:
    """Return the bytes of distinct tensors that a forward pass saves; some are counted `apart`."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if id(tensor) not in apart:
            kept[tensor.untyped_storage()._cdata] = tensor  # held, so that none takes its place
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _seconds_per_pixel(
    work: Callable[[Tensor], None], side: int, largest: int, runtime: Runtime
) -> float:
    """Return the seconds per image pixel, of a batch that is large enough, or the `largest`."""
    _seconds(work, min(side, _SETS_UP), 2, runtime)
    batch, seconds = 1, 0.0
    while seconds < _ENOUGH and batch < largest:
        batch = min(2 * batch, largest)
        seconds = _seconds(work, side, batch, runtime)
    return seconds / (batch * side**2)


def _seconds(work: Callable[[Tensor], None], side: int, batch: int, runtime: Runtime) -> float:
    images = torch.rand(batch, 3, side, side, device=runtime.device)
    images = images.contiguous(memory_format=torch.channels_last)
    started = time.perf_counter()
    work(images)
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return time.perf_counter() - started


def _generator_seconds(params: GeneratorParams, dimension: int) -> float:
    """Return the seconds of a generator's step, on the CPU, where generators are trained."""
    generator = Generator(params.noise_dimension, dimension, params)
    optimiser = torch.optim.Adam(generator.parameters(), lr=params.lr)
    words = torch.rand(params.rows, params.noise_dimension)
    real = torch.rand(params.rows, dimension)
    for step in range(1 + _MMD_STEPS):
        if step == 1:  # the first one also sets things up
            started = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        mmd_loss(generator.sample(words), real, params).backward()
        optimiser.step()
    return (time.perf_counter() - started) / _MMD_STEPS
