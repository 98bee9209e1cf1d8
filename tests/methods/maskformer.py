"""A small MaskFormer and a small FCN, and what they are trained and tried on in tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests import tiny
from zslib.datasets.decode import checksum
from zslib.datasets.index import ImageEntry, ImageIndex
from zslib.methods.simbaseline.fcn import FCN, PixelEmbedder
from zslib.methods.simbaseline.network import MaskFormer, Proposer
from zslib.methods.simbaseline.pixel_level import PixelLevelNetwork
from zslib.params.simbaseline import (
    MaskFormerParams,
    ProposalAugmentation,
    ProposalEncoder,
    ProposalTraining,
)
from zslib.params.training import OptimiserParams

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


def embedder() -> PixelEmbedder:
    torch.manual_seed(0)
    network = FCN(SMALL, ENCODER, tiny.EMBEDDINGS.shape[1])
    _wake(network)
    return PixelEmbedder(network, SMALL, ENCODER, tiny.SPLIT)


def _wake(network: PixelLevelNetwork) -> None:
    """timm begins each residual branch at zero, and frozen batch norm would keep it there."""
    for name, tensor in network.encoder.state_dict().items():
        if name.endswith("weight") and tensor.ndim == 1:
            tensor.fill_(1.0)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def index_of(folder: Path, maps: Sequence[np.ndarray], *, role: str = "val") -> ImageIndex:
    """Draw label maps as photographs of a role."""
    paths = tiny.write_images(folder, maps)
    entries = tuple(
        ImageEntry(
            id=f"{role}{position:02}",
            role=role,
            path=path.name,
            width=known.shape[1],
            height=known.shape[0],
            xxh3=checksum(path.read_bytes()),
        )
        for position, (path, known) in enumerate(zip(paths, maps, strict=True))
    )
    return ImageIndex(root=str(folder), images=entries)


def upsampled(grid: np.ndarray, factor: int = 4) -> np.ndarray:
    """Resize the last two axes by hand: bilinear, corners not aligned."""
    for axis in (-1, -2):
        cells = np.arange(grid.shape[axis])
        at = (np.arange(len(cells) * factor) + 0.5) / factor - 0.5
        rows = np.moveaxis(grid, axis, -1).reshape(-1, len(cells))
        large = np.stack([np.interp(at, cells, row) for row in rows])
        shape = (*np.delete(grid.shape, axis), len(at))
        grid = np.moveaxis(large.reshape(shape), -1, axis)
    return grid
