"""The first blocks of a timm ViT as a map of pixel features at half the patch size (sazs §2.2).

What DPT makes of one level: each token joined with the class token, projected, and doubled in size.
Blocks after the one that is read would run without gradient or use, and are not built.
"""

from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.backbones.encoder import load_encoder_weights
from zslib.errors import InputError
from zslib.params.backbone import EncoderParams

BLOCKS = 12


class ReadoutViT(nn.Module):
    """Patches and class token through twelve blocks, then the readout; no activation at the end.

    Raises:
        InputError: timm has no such ViT, or its weights cannot be had.
    """

    def __init__(self, params: EncoderParams, width: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.encoder = Trunk(params, pretrained=pretrained)
        channels = self.encoder.patches.out_channels
        self.project = nn.Sequential(nn.Linear(2 * channels, channels), nn.GELU())
        self.reduce = nn.Conv2d(channels, width, 1)
        self.enlarge = nn.ConvTranspose2d(width, width, 2, stride=2)

    def grid(self, view: tuple[int, int]) -> tuple[int, int]:
        """Return the (h, w) of a (height, width) view's map: twice as many as whole patches."""
        patch = self.encoder.patches.kernel_size[0]
        return view[0] // patch * 2, view[1] // patch * 2

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        tokens, grid = self.encoder(images)
        first, rest = tokens[:, :1], tokens[:, 1:]
        joined = self.project(torch.cat([rest, first.expand_as(rest)], dim=2))
        return self.enlarge(self.reduce(joined.transpose(1, 2).unflatten(2, grid)))


class Trunk(nn.Module):
    """Patch embedding, class token, positions resized bilinearly to the grid, and the blocks."""

    patches: nn.Conv2d
    class_token: nn.Parameter
    positions: nn.Parameter

    def __init__(self, params: EncoderParams, *, pretrained: bool) -> None:
        super().__init__()
        whole = _build(params, pretrained=pretrained)
        self.patches, self.blocks = whole.patch_embed.proj, whole.blocks[:BLOCKS]
        self.class_token, self.positions = whole.cls_token, whole.pos_embed
        self._trained_grid = whole.patch_embed.grid_size

    def forward(
        self, images: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b tokens c"], tuple[int, int]]:
        """Return the class token with those of the grid (h, w), row by row; and the grid."""
        patches = self.patches(images)
        height, width = patches.shape[-2:]
        tokens = torch.cat(
            [self.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)],
            dim=1,
        )
        return self.blocks(tokens + self._positions_on((height, width))), (height, width)

    def _positions_on(self, grid: tuple[int, int]) -> Float[Tensor, "1 tokens c"]:
        first, rest = self.positions[:, :1], self.positions[:, 1:]
        plane = rest.transpose(1, 2).unflatten(2, self._trained_grid)
        plane = F.interpolate(plane, grid, mode="bilinear", align_corners=False)
        return torch.cat([first, plane.flatten(2).transpose(1, 2)], dim=1)


def _build(params: EncoderParams, *, pretrained: bool) -> Any:
    try:
        whole = timm.create_model(
            params.name,
            pretrained=pretrained and params.weights == "hub",
            num_classes=0,
            **params.args,
        )
    except (OSError, RuntimeError, TypeError) as error:
        raise InputError(
            f"sazs.model.encoder: timm cannot give '{params.name}' ({error}); check its name, or list "
            "local safetensors files under `weights`"
        ) from error
    if getattr(whole, "cls_token", None) is None or len(getattr(whole, "blocks", ())) < BLOCKS:
        raise InputError(
            f"sazs.model.encoder.name: '{params.name}' is no ViT with a class token and {BLOCKS} "
            "blocks; choose one, or another architecture"
        )
    if pretrained and isinstance(params.weights, list):
        load_encoder_weights(whole, params)
    return whole
