"""Mathematics shared by methods: pure functions of tensors."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

Kernel = Literal["variance", "deviation"]


def squared_mmd(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    bandwidths: Sequence[float],
    *,
    kernel: Kernel = "variance",
) -> Float[Tensor, ""]:
    """Return the biased squared maximum mean discrepancy of two sets of rows (zs3net §4.2).

    The kernel is a sum over the bandwidths b of exp(-d² / 2b) ("variance", as released) or of
    exp(-d² / 2b²) ("deviation", as the paper writes it). All bandwidths share one Gram matrix.
    Rounding can make the result of two equal sets slightly negative; see `guarded_root`.
    """
    m, n = len(x), len(y)
    sign = torch.cat([x.new_full((m,), 1 / m), x.new_full((n,), -1 / n)])
    return sign @ gaussian_similarity(torch.cat([x, y]), bandwidths, kernel=kernel) @ sign


def gaussian_similarity(
    rows: Float[Tensor, "n d"], bandwidths: Sequence[float], *, kernel: Kernel = "variance"
) -> Float[Tensor, "n n"]:
    """Return the kernel of `squared_mmd` for every pair of rows."""
    norms = rows.square().sum(1)
    distances = (norms[:, None] + norms[None, :] - 2 * rows @ rows.T).clamp(min=0)
    scales = [b if kernel == "variance" else b * b for b in bandwidths]
    similarity = torch.zeros_like(distances)
    for scale in scales:
        similarity = similarity + torch.exp(distances * (-0.5 / scale))
    return similarity


def guarded_root(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return sqrt(max(x, 1e-12)): finite, with a finite gradient, where the MMD vanishes."""
    return x.clamp(min=1e-12).sqrt()


def weighted_cross_entropy(
    logits: Float[Tensor, "n c"],
    labels: Int64[Tensor, " n"],
    weights: Float[Tensor, " c"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the weighted sum of cross-entropies and the sum of the weights of labelled rows.

    Labels are 0..c-1 or IGNORE_INDEX. The quotient is torch's weighted mean; the two parts are
    kept apart because the mean over several processes needs both.
    """
    total = F.cross_entropy(logits, labels, weights, ignore_index=255, reduction="sum")
    valid = labels != 255
    if weights is None:
        return total, valid.sum().to(logits.dtype)
    # index_select rather than weights[...]: its backward is deterministic, and void has no weight.
    padded = F.pad(weights, (0, 256 - len(weights)))
    return total, padded.index_select(0, labels.reshape(-1)).sum()
