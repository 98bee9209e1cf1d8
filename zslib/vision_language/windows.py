"""What CLIP sees of an image through square windows that slide over it (simbaseline §6).

A window overlaps the next by two thirds, and the last of a row or column ends where the image does. An
image smaller than a window is filled up with CLIP's mean colour.
"""

from fractions import Fraction
from itertools import product
from math import ceil

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from zslib.params.simbaseline import WindowParams
from zslib.vision_language.model import VisionLanguageModel, normalise

OVERLAP = Fraction(2, 3)

Size = tuple[int, int]


def stride_of(tile: int) -> int:
    """Return how far a window moves at a time, in pixels."""
    return ceil(tile * (1 - OVERLAP))


def starts(length: int, tile: int) -> list[int]:
    """Return where windows begin along a side of the image."""
    beyond, stride = max(length - tile, 0), stride_of(tile)
    return [min(start, beyond) for start in range(0, beyond + stride, stride)]


def corners(size: Size, tile: int) -> list[tuple[int, int]]:
    """Return the top and left of each window, row by row."""
    height, width = size
    return list(product(starts(height, tile), starts(width, tile)))


@torch.no_grad()
def embed_windows(
    model: VisionLanguageModel, picture: UInt8[Tensor, "3 h w"], tile: int, params: WindowParams
) -> Float[Tensor, "n d g g"]:
    """Return the unit vector of each window, or one for each of its patches, in the order of `corners`."""
    height, width = picture.shape[1:]
    missing = (0, max(tile - width, 0), 0, max(tile - height, 0))
    colours = F.pad(normalise(picture.float()), missing)
    cut = [colours[:, y : y + tile, x : x + tile] for y, x in corners((height, width), tile)]
    embed = _embed_patches if params.tokens == "dense" else _embed_whole
    return torch.cat([embed(model, some) for some in torch.stack(cut).split(params.batch_size)])


def averaged(maps: Float[Tensor, "n k g g"], size: Size, tile: int) -> Float[Tensor, "k h w"]:
    """Return, for an image of a size, the mean of what its windows say of each pixel."""
    whole = [max(side, tile) for side in size]
    total, count = maps.new_zeros(maps.shape[1], *whole), maps.new_zeros(whole)
    for (y, x), found in zip(corners(size, tile), maps, strict=True):
        large = F.interpolate(found[None], (tile, tile), mode="bilinear", align_corners=False)
        total[:, y : y + tile, x : x + tile] += large[0]
        count[y : y + tile, x : x + tile] += 1
    return (total / count)[:, : size[0], : size[1]]


def _embed_whole(
    model: VisionLanguageModel, windows: Float[Tensor, "n 3 t t"]
) -> Float[Tensor, "n d 1 1"]:
    return model.embed_images(windows)[:, :, None, None]


def _embed_patches(
    model: VisionLanguageModel, windows: Float[Tensor, "n 3 t t"]
) -> Float[Tensor, "n d g g"]:
    """Take what becomes of the class token to all patches: the last norm, and the projection."""
    vision = model.clip.vision_model
    square = windows.shape[-1] == model.image_size
    states = vision(windows, interpolate_pos_encoding=not square).last_hidden_state[:, 1:]
    vectors = model.clip.visual_projection(vision.post_layernorm(states))
    side = windows.shape[-1] // model.clip.config.vision_config.patch_size
    return F.normalize(vectors, dim=-1).mT.unflatten(2, (side, side))
