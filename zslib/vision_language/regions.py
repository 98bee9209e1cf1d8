"""What CLIP sees of each mask proposal: cut out, filled, resized, embedded (simbaseline §3).

Crops of one image are made all at once, and embedded together with those of the next ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from zslib.artifacts.proposals import Proposals
from zslib.artifacts.regions import RegionWriter
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import read_view
from zslib.params.vision_language import RegionParams
from zslib.training import Runtime, progress
from zslib.vision_language.crops import boxes_of, crop_and_resize, expand
from zslib.vision_language.model import VisionLanguageModel, normalise

_CUT_AT_ONCE = 16
"""Copies of the whole image that are held at a time."""


def cut_out(
    picture: UInt8[Tensor, "3 h w"],
    soft_masks: Float[Tensor, "q h w"],
    size: int,
    params: RegionParams,
) -> tuple[Float[Tensor, "v 3 s s"], Bool[Tensor, " q"]]:
    """Return a normalised square of every region, and which masks have a region at all.

    A mask of which no pixel exceeds the threshold (one that equals it does not) has none.
    """
    masks = soft_masks > params.threshold
    boxes, valid = boxes_of(masks)
    boxes = expand(boxes, params.expansion, (masks.shape[1], masks.shape[2]))[valid]
    colours = normalise(picture.float())
    fill = _fill(colours, params.fill)
    crops = [
        crop_and_resize(
            torch.where(some[:, None], colours, fill), within, (size, size), resize=params.resize
        )
        for some, within in zip(
            masks[valid].split(_CUT_AT_ONCE), boxes.split(_CUT_AT_ONCE), strict=True
        )
        if len(some)
    ]
    return torch.cat(crops) if crops else colours.new_empty(0, 3, size, size), valid


def embed_regions(
    model: VisionLanguageModel,
    proposals: Proposals,
    images: Sequence[ImageFile],
    out: Path,
    params: RegionParams,
    *,
    runtime: Runtime,
    scratch: Path,
) -> None:
    """Publish the embeddings of all proposals, whose images are given in the same order."""
    model.clip.to(runtime.device)
    queries = proposals.vectors.shape[1]
    writer = RegionWriter(
        out, images=len(images), queries=queries, dimension=model.dimension, scratch=scratch
    )
    waiting: list[tuple[int, Tensor, Tensor]] = []
    to_do = writer.to_do()
    for position in progress(to_do, name=f"regions {out.stem}"):
        proposal = proposals[position]
        picture = read_view(images[position], proposal.view).to(runtime.device)
        logits = proposal.logits.to(runtime.device)  # before they grow to the size of the image
        masks = replace(proposal, logits=logits).soft_masks()
        waiting.append((position, *cut_out(picture, masks, model.image_size, params)))
        enough = sum(len(crops) for _, crops, _ in waiting) >= params.batch_size
        if enough or position == to_do[-1]:
            _embed(model, waiting, writer, params.batch_size)
            waiting = []
    made = params.model_dump(mode="json", exclude={"batch_size"})
    meta = {"proposals": proposals.key, "model": model.key, "precision": "float32", **made}
    writer.publish(proposals.ids, meta=meta)


def _fill(colours: Float[Tensor, "3 h w"], kind: str) -> Float[Tensor, "3 _h _w"]:
    """Return what stands outside of masks, normalised; the mean colour is 0 then."""
    if kind == "none":
        return colours
    black = normalise(torch.zeros(3, 1, 1, device=colours.device))
    return black if kind == "zero" else torch.zeros_like(black)


def _embed(
    model: VisionLanguageModel,
    waiting: Sequence[tuple[int, Tensor, Tensor]],
    writer: RegionWriter,
    batch_size: int,
) -> None:
    """Embed the crops of some images together, and write each image's own."""
    every = torch.cat([crops for _, crops, _ in waiting])
    found = [model.embed_images(some) for some in every.split(batch_size) if len(some)]
    rows = torch.cat(found) if found else every.new_empty(0, model.dimension)
    counts = [len(crops) for _, crops, _ in waiting]
    for (position, _, valid), own in zip(waiting, rows.split(counts), strict=True):
        writer.add(position, own, valid)
