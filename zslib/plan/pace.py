"""A short measurement of this machine, and what the configured network takes: seconds and bytes.

Seconds come from steps on small views: convolutions cost what their pixels cost. Bytes come from a
step in full size on torch's `meta` device, which computes shapes alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from zslib.backbones.network import SegmentationNetwork, resize
from zslib.backbones.trained import build_network
from zslib.methods.zs3net.generator import Generator, mmd_loss
from zslib.params import BackboneParams, GeneratorParams, Params
from zslib.training import Runtime, build_optimiser, start_runtime

_SIDE = 96
_ENOUGH = 0.3
"""Seconds: a step that takes as long is measured well enough."""
_MMD_STEPS = 5
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimiser keeps per parameter."""


@dataclass(frozen=True)
class Pace:
    """What one unit of work takes on this machine."""

    device: str
    training: float
    """Seconds per image pixel: forward, backward, step."""
    forward: float
    """Seconds per image pixel, in eval mode."""
    generator: float
    """Seconds per step of a generator."""
    training_memory: int
    """Bytes of parameters, gradients, optimiser and activations of one batch."""
    network_bytes: int
    """Of parameters and buffers: the artifact network.safetensors."""


def measure(params: Params) -> Pace:
    """Take the measurement: a second or two on the small network, some ten on ResNet-101.

    Raises:
        InputError: the network cannot be built, or the device of `compute` is not there.
    """
    runtime, backbone = start_runtime(params.compute), params.backbone
    classes = len(params.benchmark.classes)
    network = build_network(backbone.model, classes, pretrained=False)
    network = network.to(runtime.device).to(memory_format=torch.channels_last)
    optimiser = build_optimiser(backbone.optimiser, network.parameters())

    def train(images: Float[Tensor, "b 3 s s"]) -> None:
        with runtime.autocast():
            loss = _logits(network.train(), images, backbone).float().square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    @torch.inference_mode()
    def look(images: Float[Tensor, "b 3 s s"]) -> None:
        with runtime.autocast():
            network.eval().features(images)

    return Pace(
        device=str(runtime.device),
        forward=_seconds_per_pixel(look, params.features.batch_size, runtime),
        training=_seconds_per_pixel(train, backbone.batch_size, runtime),
        generator=_generator_seconds(params.zs3net.generator, backbone.model.feature_channels),
        training_memory=training_memory(backbone, classes),
        network_bytes=sum(t.nbytes for t in network.state_dict().values()),
    )


def training_memory(params: BackboneParams, classes: int) -> int:
    """Return the bytes that a training step holds at its height, by shapes alone.

    Weights, gradients and the optimiser's state, and all that the backward pass keeps of a batch.
    """
    with torch.device("meta"):
        network = build_network(params.model, classes, pretrained=False).train()
        side = params.augmentation.crop_size
        images = torch.empty(params.batch_size, 3, side, side)
        kept = _kept_for_backward(network, images, params)
    numbers = sum(p.numel() for p in network.parameters())
    return kept + 4 * numbers * (2 + _STATES[params.optimiser.name])


def _kept_for_backward(
    network: SegmentationNetwork, images: Float[Tensor, "b 3 s s"], params: BackboneParams
) -> int:
    """Return the bytes of distinct tensors that the forward pass saves; weights are counted apart."""
    weights = {id(p) for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor  # held, so that none takes its place
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        _logits(network, images, params)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _logits(
    network: SegmentationNetwork, images: Float[Tensor, "b 3 s s"], params: BackboneParams
) -> Float[Tensor, "b c h w"]:
    """Return the logits that the loss reads: on the feature grid, or resized to the image."""
    logits = network.classifier(network.features(images))
    return logits if params.loss_resolution == "grid" else resize(logits, images.shape[-2:])


def _seconds_per_pixel(work: Callable[[Tensor], None], largest: int, runtime: Runtime) -> float:
    """Return the seconds per image pixel, of a batch that is large enough, or the `largest`."""
    _seconds(work, 2, runtime)  # the first pass also sets things up
    batch, seconds = 1, 0.0
    while seconds < _ENOUGH and batch < largest:
        batch = min(2 * batch, largest)
        seconds = _seconds(work, batch, runtime)
    return seconds / (batch * _SIDE**2)


def _seconds(work: Callable[[Tensor], None], batch: int, runtime: Runtime) -> float:
    images = torch.rand(batch, 3, _SIDE, _SIDE, device=runtime.device)
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
