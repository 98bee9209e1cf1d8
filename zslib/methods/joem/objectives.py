"""JoEm's losses: boundary-aware regression and semantic consistency (joem §3.2, §3.3)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from zslib.benchmark import IGNORE_INDEX, Split
from zslib.params.benchmark import BACKGROUND
from zslib.params.joem import JoemMixing, JoemObjectives


def sample_labels(
    labels: UInt8[Tensor, "b H W"], grid: tuple[int, ...], form: JoemMixing
) -> UInt8[Tensor, "b h w"]:
    """Resize labels by nearest: pixel floor((k + 1/2) in / out), as released floor(k in / out).

    The one lies at the centre of what a cell covers, the other at its corner (joem §9.5).
    """
    for axis, cells in enumerate(grid, start=1):
        steps = 2 * torch.arange(cells, device=labels.device) + (form == "clean")
        labels = labels.index_select(axis, steps * labels.shape[axis] // (2 * cells))
    return labels


def mixing_weights(
    labels: UInt8[Tensor, "b H W"],
    grid: tuple[int, int],
    num_classes: int,
    objectives: JoemObjectives,
) -> tuple[Float[Tensor, "b h w c1"], Bool[Tensor, "b h w"]]:
    """Return how much of each class, and last of void, a cell's target holds; and which are valid.

    Labels are sampled on a grid of `ratio` times the size, then interpolated bilinearly to the cells.
    The encoder is affine and weights sum to 1, so mixing prototypes by them equals encoding a mixed
    map of embeddings (joem §3.2). With ratio 1 nothing is mixed: the center loss.

    "clean" samples coarse cells at their centres, and shares the weight of void among the classes
    beside it. "released" samples them at their corners, which displaces boundaries by half a coarse
    cell, and draws the rims of objects towards the prototype of void (joem §9.5, §9.7).
    """
    form, coarse = objectives.mixing, tuple(max(int(n * objectives.ratio), 1) for n in grid)
    sampled = sample_labels(labels, coarse, form).long().clamp(max=num_classes)
    one_hot = F.one_hot(sampled, num_classes + 1).permute(0, 3, 1, 2).float()
    mixed = F.interpolate(one_hot, grid, mode="bilinear", align_corners=False)
    weights, valid = mixed.permute(0, 2, 3, 1), sample_labels(labels, grid, form) != IGNORE_INDEX
    if form == "released":
        return weights, valid
    of_classes = weights[..., :num_classes]
    share = of_classes.sum(-1, keepdim=True)
    known = share > 1e-6  # rounding leaves a trace of neighbours that weigh nothing
    weights = F.pad(of_classes / torch.where(known, share, 1), (0, 1))
    return weights, valid & known[..., 0]


def boundary_aware_regression(
    features: Float[Tensor, "*n d"],
    weights: Float[Tensor, "*n c1"],
    table: Float[Tensor, "c1 d"],
    valid: Bool[Tensor, "*n"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the sum of the errors of valid cells, and their number; both may be 0 (joem §3.2).

    An error is the mean over channels of the squared distance to the mixed prototype; the last row
    of `table` is the prototype of void. The loss is sum over number, which are kept apart because the
    mean over several processes needs both.
    """
    errors = (features - weights @ table).square().mean(-1)
    return (errors * valid).sum(), valid.sum().to(errors.dtype)


def pairwise_distances(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Return Euclidean distances, exact where small; their gradient is 0 where they are (joem O14)."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def semantic_consistency(
    class_embeddings: Float[Tensor, "n e"],
    prototypes: Float[Tensor, "n d"],
    objectives: JoemObjectives,
) -> Float[Tensor, ""]:
    """Return how far distances of prototypes are from those of embeddings, as a mean KL (joem §3.3).

    0 where ||mu_i - mu_j|| = temperature / prototype_temperature ||s_i - s_j|| for all pairs.
    "released_context" divides by n twice.
    """
    log_p, log_q = neighbourhoods(class_embeddings, prototypes, objectives)
    loss = F.kl_div(log_q, log_p.detach(), reduction="batchmean", log_target=True)
    released = objectives.consistency == "released_context"
    return loss / len(prototypes) if released else loss


def neighbourhoods(
    class_embeddings: Float[Tensor, "n e"],
    prototypes: Float[Tensor, "n d"],
    objectives: JoemObjectives,
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """Return log P and log Q: a row tells how near a class is to each, itself included (joem §3.3).

    "released_context" adds 1e-8 to squared distances of prototypes.
    """
    wanted = pairwise_distances(class_embeddings)
    if objectives.consistency == "released_context":
        found = ((prototypes[:, None] - prototypes[None]).square().sum(-1) + 1e-8).sqrt()
    else:
        found = pairwise_distances(prototypes)
    log_p = F.log_softmax(-objectives.temperature * wanted, dim=1)
    log_q = F.log_softmax(-objectives.prototype_temperature * found, dim=1)
    return log_p, log_q


def consistency_classes(split: Split) -> tuple[int, ...]:
    """Return the classes whose prototypes are to be consistent: seen, without background (joem §3.3)."""
    return tuple(c for c in split.seen if split.classes[c] != BACKGROUND)


def descend(
    losses: Mapping[str, Float[Tensor, ""]], optimisers: Mapping[str, Optimizer]
) -> dict[str, Tensor]:
    """Take one step of every optimiser down the sum of the losses; return them, and it as `loss`.

    One backward pass serves both encoders (joem O13).
    """
    loss = torch.stack(list(losses.values())).sum()
    for optimiser in optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for optimiser in optimisers.values():
        optimiser.step()
    return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}
