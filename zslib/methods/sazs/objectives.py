"""SAZS's scores and losses (sazs §2.5, §3), and the targets of its edge head.

Whether a pixel is the class is a matter of one number, the margin: the score of the class minus that
of "others". The 2-way log-softmax of the paper is the logistic loss of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.benchmark import IGNORE_INDEX
from zslib.grids import corner_indices
from zslib.losses import weighted_cross_entropy
from zslib.methods.sazs.shape import shape_loss
from zslib.params.sazs import SazsObjectives

Form = Literal["sazs", "lseg"]

LSEG_TEMPERATURE = 0.07
ATTENDED = 0.8
"""Edge logits above it draw attention; a logit, not a probability (sazs §3.4)."""

_NEIGHBOURS = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if 0 < dy * dy + dx * dx <= 4]


# --- scores --------------------------------------------------------------------------------------


def directions(
    classes: Float[Tensor, "k d"], others: Float[Tensor, " d"], form: Form
) -> Float[Tensor, "k d"]:
    """Return what a pixel's embedding is multiplied with for the margin of each class (sazs §2.5)."""
    if form == "sazs":
        return classes - others
    return (F.normalize(classes, dim=1) - F.normalize(others, dim=0)) / LSEG_TEMPERATURE


def comparable(embeddings: Float[Tensor, "b d h w"], form: Form) -> Float[Tensor, "b d h w"]:
    """Return embeddings as they are, or for cosines (LSeg, sazs §2.4) of unit length."""
    return embeddings if form == "sazs" else F.normalize(embeddings, dim=1)


# --- targets -------------------------------------------------------------------------------------


def subsample(
    maps: UInt8[Tensor, "b H W"], grid: tuple[int, int], *, corners: bool
) -> UInt8[Tensor, "b h w"]:
    """Return every n-th row and column, from the first (sazs §3.1); with `corners`, those under cells.

    Where margins are resized with corners aligned, every n-th pixel would drift from its cell, by
    n - 1 at the far edge: objects would be learned beside where they are looked for.
    """
    for axis, cells in enumerate(grid, start=1):
        pixels = maps.shape[axis]
        chosen = corner_indices(pixels, cells) if corners else np.arange(cells) * pixels // cells
        maps = maps.index_select(axis, torch.from_numpy(chosen).to(maps.device))
    return maps


def cells_with_any(
    marked: Bool[Tensor, "b H W"], grid: tuple[int, int], *, corners: bool
) -> Bool[Tensor, "b h w"]:
    """Return which cells hold a marked pixel: of their part of the map; or, with `corners`, nearest."""
    if not corners:
        return F.adaptive_max_pool2d(marked.float(), grid).bool()
    counts = marked.float()
    for axis, cells in enumerate(grid, start=1):
        nearest = torch.from_numpy(corner_indices(cells, counts.shape[axis])).to(counts.device)
        none = torch.zeros_like(counts.narrow(axis, 0, cells))
        counts = none.index_add(axis, nearest, counts)
    return counts > 0


def binary_targets(
    labels: UInt8[Tensor, "b H W"],
    classes: Int64[Tensor, " b"],
    *,
    void: Literal["ignore", "others"],
) -> UInt8[Tensor, "b H W"]:
    """Return 1 where an image has its class, 0 elsewhere; void stays void, or is 0 as well."""
    targets = (labels == classes[:, None, None]).to(torch.uint8)
    if void == "others":
        return targets
    return targets.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX)


def class_outline(shown: UInt8[Tensor, "b H W"]) -> Bool[Tensor, "b H W"]:
    """Return the pixels that have another value, 0 or 1, within two pixels of the same map."""
    return _unlike(shown, lambda own, other: (own < 2) & (other < 2))


def released_outlines(labels: UInt8[Tensor, "b H W"], channels: int) -> Bool[Tensor, "b H W"]:
    """Return the edges of the released code, by its fast equivalent (sazs §3.2, O3).

    Of two unlike neighbours one must have a channel: a value below `channels`. What lies outside of
    the map has none, and no likeness to what has: the frame is an edge.
    """
    return _unlike(labels, lambda own, other: (own < channels) | (other < channels))


def _unlike(
    values: UInt8[Tensor, "b H W"], counts: Callable[[Tensor, Tensor], Tensor]
) -> Bool[Tensor, "b H W"]:
    height, width = values.shape[1:]
    padded = F.pad(values, (2, 2, 2, 2), value=IGNORE_INDEX)
    edges = torch.zeros_like(values, dtype=torch.bool)
    for dy, dx in _NEIGHBOURS:
        other = padded[:, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
        edges |= (values != other) & counts(values, other)
    return edges


def edge_targets(
    labels: UInt8[Tensor, "b H W"],
    classes: Int64[Tensor, " b"],
    grid: tuple[int, int],
    *,
    channels: int,
    form: Literal["clean", "released"],
    corners: bool,
) -> Bool[Tensor, "b h w"]:
    """Return which cells have an edge (sazs §3.2): any of the class's outline, or as released.

    `corners` as in `subsample`.
    """
    if form == "released":
        outlines = released_outlines(labels, channels).to(torch.uint8)
        return subsample(outlines, grid, corners=corners).bool()
    outline = class_outline(binary_targets(labels, classes, void="others"))
    return cells_with_any(outline, grid, corners=corners)


# --- losses --------------------------------------------------------------------------------------


def alignment_loss(
    margins: Float[Tensor, "b h w"], targets: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the mean of the 2-way negative log-likelihood over pixels that are not void (sazs §3.1)."""
    labelled = targets != IGNORE_INDEX
    return (_likelihood_loss(margins, targets) * labelled).sum() / labelled.sum().clamp(min=1)


def joint_alignment_loss(
    margins: Float[Tensor, "b c h w"], labels: UInt8[Tensor, "b h w"], named: Sequence[int]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the texts of all named classes and "others" (sazs §2.5).

    The paper's formula, where the released code has two texts. A label that is not named, the
    background's, means "others", whose margin is 0; void is left out.
    """
    chosen = margins.index_select(1, torch.tensor(named, device=margins.device))
    rows = F.pad(chosen.permute(0, 2, 3, 1).flatten(0, 2), (1, 0))
    positions = torch.zeros(256, dtype=torch.int64, device=labels.device)
    positions[list(named)] = torch.arange(1, len(named) + 1, device=labels.device)
    positions[IGNORE_INDEX] = IGNORE_INDEX
    total, count = weighted_cross_entropy(rows, positions[labels.long().flatten()])
    return total / count.clamp(min=1)


def edge_loss(logits: Float[Tensor, "b h w"], edges: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return binary cross-entropy in which each side weighs as much as the other is large (sazs §3.3)."""
    share = edges.float().mean()
    weights = torch.where(edges, 1 - share, share)
    return F.binary_cross_entropy_with_logits(logits, edges.float(), weights)


def attention_loss(
    margins: Float[Tensor, "b h w"],
    targets: UInt8[Tensor, "b h w"],
    edge_logits: Float[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Return the alignment loss where the edge head is sure, summed over images (sazs §3.4).

    The rarer side of the batch's attended pixels weighs more; images without any are left out (O8).
    """
    attended = (edge_logits.detach() > ATTENDED) & (targets != IGNORE_INDEX)
    counts = torch.stack([(attended & (targets == side)).sum() for side in (0, 1)])
    weight = class_weights(counts)
    weights = attended * torch.where(targets == 1, weight[1], weight[0])
    totals = (_likelihood_loss(margins, targets) * weights).sum((1, 2))
    return (totals / weights.sum((1, 2)).clamp(min=1e-12)).sum()


def class_weights(counts: Int64[Tensor, " c"]) -> Float[Tensor, " c"]:
    """Return 2 minus each class's share (sazs §3.4)."""
    return 2 - counts / counts.sum().clamp(min=1)


def _likelihood_loss(
    margins: Float[Tensor, "b h w"], targets: UInt8[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    wanted = (targets == 1).to(margins.dtype)
    return F.binary_cross_entropy_with_logits(margins, wanted, reduction="none")


# --- together ------------------------------------------------------------------------------------


def losses(
    margins: Float[Tensor, "b c h w"],
    edge_logits: Float[Tensor, "b h w"],
    labels: UInt8[Tensor, "b H W"],
    classes: Int64[Tensor, " b"],
    objectives: SazsObjectives,
    *,
    named: Sequence[int],
    corners: bool,
    regressor: nn.Module | None = None,
) -> Mapping[str, Float[Tensor, ""]]:
    """Return the weighted losses (sazs §3); that of shape needs the regressor.

    `classes` are those of the items, `named` all that items may name, `corners` as in `subsample`.
    """
    grid, num_classes = (margins.shape[2], margins.shape[3]), margins.shape[1]
    own = (margins * F.one_hot(classes, num_classes)[:, :, None, None]).sum(1)
    binary = binary_targets(labels, classes, void=objectives.void)
    targets = subsample(binary, grid, corners=corners)
    edges = edge_targets(
        labels, classes, grid, channels=num_classes - 1, form=objectives.edges, corners=corners
    )
    attention = attention_loss(own, targets, edge_logits)
    found = {
        "alignment": alignment_loss(own, targets),
        "edge": objectives.edge_weight * edge_loss(edge_logits, edges),
        "attention": objectives.attention_weight * attention,
    }
    if objectives.joint_weight:
        joint = joint_alignment_loss(margins, subsample(labels, grid, corners=corners), named)
        found["joint"] = objectives.joint_weight * joint
    if regressor is not None:
        shape = shape_loss(regressor, edge_logits, edges, objectives.inverse_form)
        found["shape"] = objectives.inverse_weight * shape
    return found
