"""CaGNet's losses, the prior of its synthetic labels, and its word map (cagnet §3, §4, §5)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zslib.benchmark import Split
from zslib.losses import guarded_root

BANDWIDTHS = (2, 5, 10, 20, 40, 60)
BLOCK = 512
"""Pixels whose kernel with all pixels of their groups is held at a time."""

Adversarial = Literal["lsgan", "l1_sigmoid"]
Reconstruction = Literal["l2", "mmd_class", "mmd_run"]


def kl_divergence(
    mean: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """Return KL(N(mean, variance), N(0, 1)), averaged over pixels and channels (cagnet §3)."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()


def adversarial_loss(
    realness: Float[Tensor, " n"], target: float, kind: Adversarial
) -> Float[Tensor, ""]:
    """Return how far the discriminator's outputs are from 1 (real) or 0 (fake), on average.

    The paper takes least squares; the released loss of that name, absolute values of a sigmoid
    (cagnet §4).
    """
    if kind == "lsgan":
        return (realness - target).square().mean()
    return (realness.sigmoid() - target).abs().mean()


def reconstruction_loss(
    generated: Float[Tensor, "n d"],
    real: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    kind: Reconstruction,
) -> Float[Tensor, ""]:
    """Return how far generated features are from the real ones of the same pixels (cagnet §4).

    Pixels are in raster order, image after image, void left out. "l2" is the paper's, here the mean
    over pixels and channels; "mmd_run" the released distance between sets; "mmd_class" that one
    between sets that do not depend on where an image was scanned from.
    """
    match kind:
        case "l2":
            return F.mse_loss(generated, real)
        case "mmd_run":
            groups = runs(labels)
        case "mmd_class":
            groups = labels.unique(return_inverse=True)[1]
    return mean_group_mmd(generated, real, groups)


def runs(labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Number the maximal runs of equal labels: 0 for the first, and so on (cagnet §4)."""
    return F.pad((labels[1:] != labels[:-1]).long(), (1, 0)).cumsum(0)


def mean_group_mmd(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "n d"], groups: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the mean over groups of sqrt(MMD² / 2) between generated and real features (cagnet §4).

    Groups are numbered 0, 1, .... In double precision: in single precision the sums cancel long
    before the features are equal, and with them the gradient (cagnet E5). In blocks of pixels, each
    computed anew for the gradient: the kernel of all pixels of a batch would take gigabytes.
    """
    groups, order = groups.sort(stable=True)
    sizes = groups.bincount()
    ends = sizes.cumsum(0)
    pairs = torch.stack([generated, real]).double().index_select(1, order)
    parts = []
    for block, rows in zip(groups.split(BLOCK), pairs.split(BLOCK, dim=1), strict=True):
        reach = slice(int(ends[block[0]] - sizes[block[0]]), int(ends[block[-1]]))
        others = (pairs[:, reach], groups[reach])
        parts.append(checkpoint(_discrepancies, rows, block, *others, use_reentrant=False))
    sums = pairs.new_zeros(len(sizes)).index_add(0, groups, torch.cat(parts))
    return guarded_root(sums / sizes.square() / 2).mean().to(generated.dtype)


def _discrepancies(
    rows: Float[Tensor, "2 m d"],
    groups: Int64[Tensor, " m"],
    columns: Float[Tensor, "2 n d"],
    column_groups: Int64[Tensor, " n"],
) -> Float[Tensor, " m"]:
    """Return each row's part in the squared MMD of its group, times the group's size squared.

    Generated features come first, real ones second; the columns hold all members of the groups.
    """
    distances = torch.cdist(
        rows[:, None], columns[None], compute_mode="use_mm_for_euclid_dist"
    ).square()
    similarity = torch.zeros_like(distances)
    for bandwidth in BANDWIDTHS:
        similarity = similarity + torch.exp(distances * (-0.5 / bandwidth))
    difference = similarity[0, 0] - similarity[0, 1] - similarity[1, 0] + similarity[1, 1]
    return (difference * (groups[:, None] == column_groups)).sum(1)


def synthetic_prior(split: Split, unseen_boost: float) -> Float[np.ndarray, " c"]:
    """Return the probability with which each class is drawn for synthesis (cagnet §5).

    Seen classes weigh 1, unseen ones 1 + unseen_boost, void ones nothing.
    """
    weights = np.zeros(len(split.classes))
    weights[list(split.seen)] = 1
    weights[list(split.unseen)] = 1 + unseen_boost
    return weights / weights.sum()


def word_table(class_embeddings: Float[Tensor, "c e"]) -> Float[Tensor, "256 e"]:
    """Return the embedding of every label there can be; 0 where it is no class, as void (cagnet §4)."""
    return F.pad(class_embeddings, (0, 0, 0, 256 - len(class_embeddings)))
