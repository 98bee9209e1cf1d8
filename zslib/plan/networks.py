"""The networks that a benchmark trains, with random weights: what a measurement sets to work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zslib.backbones.drn import PooledDrn
from zslib.backbones.network import SegmentationNetwork, resize
from zslib.backbones.trained import Backbone, build_network
from zslib.backbones.vit import ReadoutViT
from zslib.benchmark import Split
from zslib.methods.sazs.networks import Projected, ShapeAware
from zslib.methods.simbaseline.fcn import FCN, cross_entropy
from zslib.methods.simbaseline.network import MaskFormer
from zslib.methods.simbaseline.pixel_level import starting_encoder
from zslib.params import Params
from zslib.params.simbaseline import ProposalEncoder
from zslib.params.training import OptimiserParams
from zslib.plan.clip import shared_dimension

WORDS = 300
"""Of class vectors that nobody has made yet; next to an encoder, whatever reads them is small."""

_SMALL, _LARGE = 96, 224
"""Sides of the views that tell the pace. Convolutions cost what their pixels cost; of a ViT-L, a pixel
costs half as much again at 96 as at 512, of a MaskFormer twice as much; at 224, a quarter at most."""

Images = Float[Tensor, "b 3 s s"]


@dataclass(frozen=True)
class Workload:
    """A network, and what is asked of it; `build` makes it anew, on whatever device is the default."""

    build: Callable[[], nn.Module]
    train: Callable[[Any, Images], Tensor]
    """What the losses read of a batch, or a loss; most are left out, a seventh of MaskFormer's step."""
    look: Callable[[Any, Images], object]
    """What is asked of it in eval mode."""
    optimiser: OptimiserParams
    batch_size: int
    """Of its training."""
    crop_size: int
    looks_at: int
    """Images at a time, in eval mode."""
    largest_view: int

    @property
    def view(self) -> int:
        """Side of the views that tell its pace."""
        return min(self.crop_size, self.largest_view)


def workloads(params: Params) -> Mapping[str, Workload]:
    """Return the networks that the splits in force ask for.

    Raises:
        InputError: a network cannot be built.
    """
    found = {"backbone": of_backbone(params)}
    if params.sazs.splits:
        found["sazs"] = of_sazs(params)
    if params.simbaseline.proposal_splits or params.benchmark.source_splits:
        found["simbaseline"] = of_maskformer(params)
    if params.simbaseline.fcn.splits:
        found["fcn"] = of_fcn(params)
    return found


def of_backbone(params: Params) -> Workload:
    """Return the segmentation network of all methods."""
    backbone, classes = params.backbone, len(params.benchmark.classes)

    def logits(network: SegmentationNetwork, images: Images) -> Tensor:
        found = network.classifier(network.features(images))
        return found if backbone.loss_resolution == "grid" else resize(found, images.shape[-2:])

    return Workload(
        lambda: build_network(backbone.model, classes, pretrained=False),
        logits,
        lambda network, images: network.features(images),
        backbone.optimiser,
        backbone.batch_size,
        backbone.augmentation.crop_size,
        params.features.batch_size,
        _SMALL,
    )


def of_sazs(params: Params) -> Workload:
    """Return what embeds pixels beside class vectors (sazs §2)."""
    training, form = params.sazs.training, params.sazs.objectives.form
    own = params.sazs.model.architecture == "seen_only"

    def build() -> nn.Module:
        vectors = torch.ones(len(params.benchmark.classes), WORDS)
        return ShapeAware(_embedder(params), vectors, vectors[0], form)

    def margins(network: ShapeAware, images: Images) -> Tensor:
        return network(images)[0]

    return Workload(
        build,
        margins,
        margins,
        training.optimiser,
        training.batch_size,
        training.augmentation.crop_size,
        params.features.batch_size,
        _SMALL if own else _LARGE,
    )


def _embedder(params: Params) -> nn.Module:
    model, backbone = params.sazs.model, params.backbone.model
    if model.architecture == "seen_only":
        return Projected(build_network(backbone, 1, pretrained=False), backbone, WORDS)
    assert model.encoder is not None, "params refuse a published network without an encoder"
    if model.architecture == "drn":
        return PooledDrn(model.encoder, WORDS, dropout=model.dropout, pretrained=False)
    return ReadoutViT(model.encoder, WORDS, pretrained=False)


def of_maskformer(params: Params) -> Workload:
    """Return the network that proposes masks (simbaseline §2.1)."""
    settings, training = params.simbaseline.proposals, params.simbaseline.proposals.training
    encoder = _proposal_encoder(params)

    def build() -> nn.Module:
        text = torch.ones(len(params.benchmark.classes), WORDS)
        return MaskFormer(settings.network, encoder, text)

    def outputs(network: MaskFormer, images: Images) -> Tensor:
        layers = network(images)
        return torch.cat([part.flatten() for layer in layers for part in layer])

    return Workload(
        build,
        outputs,
        lambda network, images: network.propose(images),
        training.optimiser,
        training.batch_size,
        training.augmentation.crop_size,
        params.simbaseline.batch_size,
        _LARGE,
    )


def of_fcn(params: Params) -> Workload:
    """Return the per-pixel network (simbaseline §6), its loss included.

    That keeps a number per pixel and seen class, which may be as much as all maps of the network.
    """
    settings, training = params.simbaseline.proposals, params.simbaseline.fcn.training
    encoder, dimension = _proposal_encoder(params), shared_dimension(params)
    classes = max(seen_classes(params, split) for split in params.simbaseline.fcn.splits)

    def loss(network: FCN, images: Images) -> Tensor:
        labels = torch.zeros_like(images[:, 0], dtype=torch.uint8)
        text = torch.ones(classes, dimension, device=images.device)
        total, count = cross_entropy(network(images).float(), labels, text)
        return total / count

    return Workload(
        lambda: FCN(settings.network, encoder, dimension),
        loss,
        lambda network, images: network(images),
        training.optimiser,
        training.batch_size,
        training.augmentation.crop_size,
        1,
        _SMALL,
    )


def seen_classes(params: Params, split: str) -> int:
    """Return how many classes a split trains on."""
    benchmark = params.benchmark
    return len(benchmark.classes) - len(benchmark.void) - len(benchmark.unseen_in(split))


def _proposal_encoder(params: Params) -> ProposalEncoder:
    """Return the encoder of both networks of SimBaseline, which may be the backbone's."""
    if params.simbaseline.proposals.encoder is not None:
        return params.simbaseline.proposals.encoder
    split = Split.named("all", params.benchmark.classes, unseen=[], void=[])
    with torch.device("meta"):
        network = build_network(params.backbone.model, len(split.classes), pretrained=False)
    encoder, _ = starting_encoder(None, Backbone(network, params.backbone.model, split), split)
    return encoder
