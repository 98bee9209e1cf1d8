"""Boxes of masks, and crops of an image resized all at once (simbaseline §3).

Resizing along an axis is linear: one matrix per crop and axis says which pixels make up each pixel
of the result. So all crops of an image are two batched products, with the same numbers as cutting
and resizing them one by one.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Resize = Literal["bicubic", "bicubic_aa"]

Boxes = Int64[Tensor, "n 4"]
"""x1, y1, x2, y2 in pixels; the last two are past the end."""


def boxes_of(masks: Bool[Tensor, "n h w"]) -> tuple[Boxes, Bool[Tensor, " n"]]:
    """Return the tight box of each mask, and whether it has any pixel; else its box is empty."""
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    (x1, x2), (y1, y2) = _extent(columns), _extent(rows)
    return torch.stack([x1, y1, x2, y2], dim=1), rows.any(dim=1)


def _extent(lines: Bool[Tensor, "n l"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    found = lines.long()
    first, from_end = found.argmax(1), found.flip(1).argmax(1)
    return first, torch.where(lines.any(1), lines.shape[1] - from_end, first)


def expand(boxes: Boxes, ratio: float, size: tuple[int, int]) -> Boxes:
    """Scale boxes about their centres, truncate toward zero, clip to an image of (height, width)."""
    if ratio == 1.0:
        return boxes
    near, far = boxes[:, :2].double(), boxes[:, 2:].double()
    centre, half = (near + far) / 2, (far - near) * ratio / 2
    limits = torch.tensor([size[1], size[0]], device=boxes.device)
    corners = [(centre - half).trunc().long(), (centre + half).trunc().long()]
    return torch.cat([corner.clamp(min=0).minimum(limits) for corner in corners], dim=1)


def crop_and_resize(
    images: Float[Tensor, "n c h w"], boxes: Boxes, size: tuple[int, int], *, resize: Resize
) -> Float[Tensor, "n c H W"]:
    """Cut each image's box out and resize it, without keeping its shape or bounding its values.

    As F.interpolate, corners not aligned: the kernel's coefficient is -0.75, or -0.5 with
    antialiasing (simbaseline E3).
    """
    matrix = {"bicubic": _bicubic, "bicubic_aa": _antialiased}[resize]
    height, width = images.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(1)
    rows = matrix(y1, y2, length=height, out=size[0])
    columns = matrix(x1, x2, length=width, out=size[1])
    return rows[:, None] @ (images @ columns[:, None].mT)


def _bicubic(
    start: Int64[Tensor, " n"], stop: Int64[Tensor, " n"], *, length: int, out: int
) -> Float[Tensor, "n o l"]:
    """Four neighbours make up a pixel; beyond the box its edge is repeated."""
    sides = stop - start
    centres = _centres(sides, out)
    left = centres.floor()
    matrix = torch.zeros(len(sides), out, length, device=start.device)
    for tap in range(-1, 3):
        weight = _cubic((centres - left - tap).abs(), -0.75)
        inside = (left.long() + tap).clamp(min=0).minimum(sides[:, None] - 1)
        matrix.scatter_add_(2, (start[:, None] + inside)[..., None], weight[..., None].float())
    return matrix


def _antialiased(
    start: Int64[Tensor, " n"], stop: Int64[Tensor, " n"], *, length: int, out: int
) -> Float[Tensor, "n o l"]:
    """All pixels of the box under the kernel, which is as wide as the box is shrunk."""
    sides = stop - start
    shrunk = (sides / out).clamp(min=1.0)[:, None, None].double()
    pixels = torch.arange(length, device=start.device) - start[:, None]
    apart = (pixels[:, None, :] - _centres(sides, out)[..., None]).abs() / shrunk
    inside = (pixels >= 0) & (pixels < sides[:, None])
    weights = _cubic(apart, -0.5) * inside[:, None, :]
    return (weights / weights.sum(-1, keepdim=True)).float()


def _centres(sides: Int64[Tensor, " n"], out: int) -> Float[Tensor, "n o"]:
    """Return where in the box each pixel of the result has its centre, in pixels of the box."""
    steps = torch.arange(out, device=sides.device, dtype=torch.float64) + 0.5
    return sides[:, None] / out * steps - 0.5


def _cubic(apart: Float[Tensor, "*n"], a: float) -> Float[Tensor, "*n"]:
    """Return the cubic convolution kernel with coefficient `a` at distances of 0 and more."""
    near = ((a + 2) * apart - (a + 3)) * apart * apart + 1
    far = ((a * apart - 5 * a) * apart + 8 * a) * apart - 4 * a
    return torch.where(apart <= 1, near, torch.where(apart < 2, far, 0.0))
