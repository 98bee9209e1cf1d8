"""Proposals of images at test size, into the cache (simbaseline §2.3, §11)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.proposals import ProposalWriter
from zslib.backbones.network import Normalise
from zslib.datasets.decode import ImageFile
from zslib.datasets.index import ImageIndex
from zslib.datasets.views import read_view
from zslib.errors import InputError
from zslib.methods.simbaseline.network import Proposer
from zslib.methods.simbaseline.views import resized
from zslib.params.simbaseline import ViewParams
from zslib.training import Runtime, progress

MULTIPLE = 32
"""Of which the sides of what the network sees must be, for its coarsest map to have whole cells."""

Size = tuple[int, int]


@dataclass(frozen=True)
class TestImages:
    """Images in the order of their ids, and (height, width) of their views."""

    __test__ = False  # no test class, whatever its name says to pytest

    ids: tuple[str, ...]
    paths: tuple[ImageFile, ...]
    views: tuple[Size, ...]

    @classmethod
    def of(cls, index: ImageIndex, ids: Sequence[str], params: ViewParams) -> "TestImages":
        """Return images resized to the short side for tests.

        Raises:
            InputError: there is more than one short side.
        """
        if len(params.short_sides) != 1:
            raise InputError("simbaseline.test.short_sides: give one, the size for tests")
        (short,) = params.short_sides
        sizes = [resized(index.size(image_id), short, params.long_side) for image_id in ids]
        paths = tuple(index.file(image_id) for image_id in ids)
        return cls(tuple(ids), paths, tuple((height, width) for width, height in sizes))


def extract(
    proposer: Proposer,
    images: TestImages,
    out: Path,
    *,
    batch_size: int,
    runtime: Runtime,
    scratch: Path,
) -> None:
    """Publish the proposals of images at `out`; a run that was killed resumes from `scratch`.

    Raises:
        InputError: a proposal is not finite in half precision.
    """
    network = proposer.network.to(runtime.device).eval()
    normalise = Normalise(proposer.encoder.mean, proposer.encoder.std).to(runtime.device)
    writer = ProposalWriter(
        out,
        images.views,
        [padded(view) for view in images.views],
        queries=proposer.params.queries,
        no_object=network.head.no_object.detach(),
        scratch=scratch,
    )
    batches = list(_runs_of_one_view(images.views, writer.written, batch_size))
    for positions in progress(batches, name=f"proposals {out.stem}"):
        views = [read_view(images.paths[p], images.views[p]) for p in positions]
        with torch.inference_mode():
            pictures = normalise(torch.stack(views).to(runtime.device))
            found = network.propose(pad(pictures))
        for position, logits, vectors in zip(positions, *found, strict=True):
            if not (logits.half().isfinite().all() and vectors.half().isfinite().all()):
                raise InputError(
                    f"{images.ids[position]}: its proposals are not finite; train anew"
                )
            writer.add(logits, vectors)
    writer.publish(images.ids, meta=proposer.split.describe())


def _runs_of_one_view(views: Sequence[Size], start: int, most: int) -> Iterator[list[int]]:
    """Yield positions from `start` on, neighbours of equal size together, at most so many."""
    for _, run in groupby(range(start, len(views)), key=lambda position: views[position]):
        members = list(run)
        for begin in range(0, len(members), most):
            yield members[begin : begin + most]


def padded(view: Size) -> Size:
    """Return the (height, width) that a view of an image is padded to."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in view)
    return height, width


def pad(pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
    """Pad normalised images below and to the right with the mean colour."""
    height, width = pictures.shape[-2:]
    below, right = (
        p - side for p, side in zip(padded((height, width)), (height, width), strict=True)
    )
    return F.pad(pictures, (0, right, 0, below))
