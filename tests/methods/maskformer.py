"""A small MaskFormer, and how it is trained in tests."""

import torch
from torch import Tensor

from tests import tiny
from zslib.methods.simbaseline.network import (
    MaskFormer,
    Proposer,
)
from zslib.params import (
    MaskFormerParams,
    OptimiserParams,
    ProposalAugmentation,
    ProposalEncoder,
    ProposalTraining,
)

SEEN = tiny.SPLIT.seen
SMALL = MaskFormerParams(
    queries=6, channels=32, layers=2, heads=2, feedforward=64, class_hidden=32, dropout=0.0
)
ENCODER = ProposalEncoder(name="test_resnet", output_stride=16, multi_grid=None)
TRAINING = ProposalTraining(
    augmentation=ProposalAugmentation(
        short_sides=[32], long_side=64, crop_size=32, colour_jitter=False
    ),
    loss_resolution="grid",
    optimiser=OptimiserParams(name="adamw", lr=0.003, weight_decay=1e-4),
    encoder_lr_factor=1.0,
    gradient_clip=1.0,
    steps=30,
    batch_size=4,
)


def proposer(params: MaskFormerParams = SMALL, *, seed: int = 0) -> Proposer:
    torch.manual_seed(seed)
    network = MaskFormer(params, ENCODER, tiny.EMBEDDINGS[list(SEEN)])
    _wake(network)
    return Proposer(network, params, ENCODER, tiny.SPLIT)


def _wake(network: MaskFormer) -> None:
    """timm begins each residual branch at zero, and frozen batch norm would keep it there."""
    for name, tensor in network.encoder.state_dict().items():
        if name.endswith("weight") and tensor.ndim == 1:
            tensor.fill_(1.0)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))
