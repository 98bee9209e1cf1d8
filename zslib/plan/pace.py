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

from zslib.params import Params
from zslib.plan.networks import Workload, workloads
from zslib.plan.pieces import Piece, pieces
from zslib.training import Runtime, build_optimiser, start_runtime

_ENOUGH = 0.3
"""Seconds: a step that takes as long is measured well enough."""
_SETS_UP = 64
"""Side of views that are not timed."""
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
    """`backbone`, and those of `sazs`, `simbaseline` and `fcn` where a split asks for them."""
    pieces: Mapping[str, float]
    """Seconds per unit of other work (`zslib.plan.pieces`)."""

    @property
    def backbone(self) -> NetworkPace:
        return self.networks["backbone"]


def measure(params: Params) -> Pace:
    """Take the measurement: seconds on small networks, a minute on those of the papers.

    Raises:
        InputError: a network cannot be built, or the device of `compute` is not there.
    """
    runtime = start_runtime(params.compute.on_one_device())
    return Pace(
        str(runtime.device),
        {name: measure_network(work, runtime) for name, work in workloads(params).items()},
        {name: measure_piece(piece, runtime) for name, piece in pieces(params, runtime.device)},
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

    def run(batch: int, side: int = side) -> None:
        images = torch.rand(batch, 3, side, side, device=runtime.device)
        work(images.contiguous(memory_format=torch.channels_last))

    run(2, min(side, _SETS_UP))  # the first pass also sets things up
    return _seconds_of_one(run, largest, runtime) / side**2


def measure_piece(piece: Piece, runtime: Runtime) -> float:
    """Measure a unit of a piece of work."""
    piece.run(1)  # likewise
    return _seconds_of_one(piece.run, piece.largest, runtime) / piece.units


def _seconds_of_one(run: Callable[[int], object], largest: int, runtime: Runtime) -> float:
    """Return the seconds of each of so many that they take long enough, or of the `largest` number."""
    count = min(2, largest)
    seconds = _seconds(run, count, runtime)
    while seconds < _ENOUGH and count < largest:
        count = min(2 * count, largest)
        seconds = _seconds(run, count, runtime)
    return seconds / count


def _seconds(run: Callable[[int], object], count: int, runtime: Runtime) -> float:
    _wait(runtime)
    started = time.perf_counter()
    run(count)
    _wait(runtime)
    return time.perf_counter() - started


def _wait(runtime: Runtime) -> None:
    """Wait for all that a GPU still has to do."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
