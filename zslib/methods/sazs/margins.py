"""Maps of margins: for every class by how much a pixel is it rather than "others".

They are stored as any feature maps are. A margin above 0 is the class in the binary evaluation; the
greatest of all is the class in the generalised one, where the background, whose vector is that of
"others", wins if no class has a margin above 0. So one pass of the network serves both, and fp16 keeps
a sign that the difference of two stored scores could lose.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import size_with_short_side
from zslib.features import Photographs, extract, plan_dense
from zslib.methods.sazs.networks import Trained
from zslib.training import Runtime


def cache_margins(
    trained: Trained,
    ids: Sequence[str],
    paths: Sequence[ImageFile],
    sizes: Sequence[tuple[int, int]],
    *,
    input_size: int | str,
    short_side: int,
    batch_size: int,
    out: Path,
    runtime: Runtime,
    scratch: Path,
) -> None:
    """Publish the maps of images of these (width, height), with the split; see `extract`."""
    views = [view_of(size, input_size, short_side) for size in sizes]
    photographs = Photographs(paths, views, [trained.grid(view) for view in views])
    meta = {**trained.split.describe(), "corners": trained.corners}
    extract(
        trained.margins_of(runtime),
        photographs,
        {out: plan_dense(photographs, ids, meta=meta)},
        dimension=len(trained.split.classes),
        batch_size=batch_size,
        runtime=runtime,
        scratch=scratch,
    )


def view_of(size: tuple[int, int], input_size: int | str, short_side: int) -> tuple[int, int]:
    """Return the (height, width) that a photograph of this (width, height) is resized to (sazs §1.4)."""
    if isinstance(input_size, int):
        return input_size, input_size
    width, height = size if input_size == "native" else size_with_short_side(size, short_side)
    return height, width


def upsampled(
    margins: Float[Tensor, "h w"], size: tuple[int, int], *, corners: bool
) -> Float[Tensor, "H W"]:
    """Return a map at the size of its image; see `Trained.corners`."""
    plane = margins.float()[None, None]
    return F.interpolate(plane, size, mode="bilinear", align_corners=corners)[0, 0]


def of_margins(split: Split, *, corners: bool) -> PixelClassifier:
    """Return the classifier of maps that hold margins of all classes already; see `Trained.corners`."""
    size = len(split.classes)
    return PixelClassifier(split, torch.eye(size), torch.zeros(size), corners=corners)
