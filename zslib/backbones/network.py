"""What every segmentation network offers: pixel features, and a linear classifier of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F


def resize(x: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Resize bilinearly, corners aligned, as every resize of zs3net §2."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class SegmentationNetwork(nn.Module, ABC):
    """An encoder and a head make pixel features; a 1x1 classifier with bias reads them."""

    encoder: nn.Module
    classifier: nn.Conv2d

    @abstractmethod
    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """Return the pixel features; `zslib.grids.feature_grid` tells h and w."""

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c H W"]:
        """Return class logits at the size of the images."""
        return resize(self.classifier(self.features(images)), images.shape[-2:])

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the encoder, which learn faster (zs3net §2, cagnet §2)."""
        inside = set(map(id, self.encoder.parameters()))
        return [p for p in self.parameters() if id(p) not in inside]


class Normalise(nn.Module):
    """uint8 images to normalised float ones, on whatever device they are."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        images = images.float().contiguous(memory_format=torch.channels_last)
        return (images - self.mean) / self.std
