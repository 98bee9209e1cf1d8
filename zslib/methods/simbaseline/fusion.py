"""From proposals and two classifiers of them to class scores per pixel (simbaseline §2.1, §3, §5).

Temperatures, prompts, ensemble weights and class lists are all matrix products over cached vectors.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zslib.precision import without_autocast

SCALE = 100.0
"""Of cosines, before any softmax; a constant, not CLIP's learned one (simbaseline §2.1)."""


def class_logits(
    vectors: Float[Tensor, "*q d"], text: Float[Tensor, "k d"], no_object: Float[Tensor, " d"]
) -> Float[Tensor, "*q k+1"]:
    """Return 100 times the cosine of vectors with each class's text, and with no object, last."""
    return text_logits(vectors, torch.cat([text, no_object[None]]))


def text_logits(
    vectors: Float[Tensor, "*q d"], text: Float[Tensor, "k d"]
) -> Float[Tensor, "*q k"]:
    """Return 100 times the cosine of vectors with each text, as float32 even under autocast."""
    with without_autocast(vectors.device):
        return SCALE * F.normalize(vectors.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T


def map_logits(
    vectors: Float[Tensor, "b d h w"], text: Float[Tensor, "k d"]
) -> Float[Tensor, "b k h w"]:
    """Return the same of maps of vectors."""
    return text_logits(vectors.movedim(1, -1), text).movedim(-1, 1)


def query_probabilities(
    vectors: Float[Tensor, "q d"], text: Float[Tensor, "k d"], no_object: Float[Tensor, " d"]
) -> Float[Tensor, "q k"]:
    """Return the softmax over classes and no object, without the latter: rows sum to less than 1."""
    return class_logits(vectors, text, no_object).softmax(-1)[:, :-1]


def region_probabilities(
    embeddings: Float[Tensor, "q d"], valid: Bool[Tensor, " q"], text: Float[Tensor, "k d"]
) -> Float[Tensor, "q k"]:
    """Return the softmax over classes of unit region embeddings; 1 throughout where invalid."""
    cosines = embeddings @ F.normalize(text, dim=-1).T
    return (SCALE * cosines).softmax(-1).masked_fill(~valid[:, None], 1.0)


def fuse(
    queries: Float[Tensor, "q k"],
    regions: Float[Tensor, "q k"],
    seen: Bool[Tensor, " k"],
    weight: float,
) -> Float[Tensor, "q k"]:
    """Return p_q^w p_r^(1-w) for seen classes and p_q^(1-w) p_r^w for unseen ones (simbaseline §5)."""
    trusting_queries = queries**weight * regions ** (1 - weight)
    trusting_regions = queries ** (1 - weight) * regions**weight
    return torch.where(seen, trusting_queries, trusting_regions)


def semantic_map(
    scores: Float[Tensor, "q k"], soft_masks: Float[Tensor, "q h w"]
) -> Float[Tensor, "k h w"]:
    """Return, per class and pixel, the sum over queries of score times mask (simbaseline §5)."""
    return torch.einsum("qk,qhw->khw", scores, soft_masks)


def oracle_scores(
    soft_masks: Float[Tensor, "q h w"], truth: Bool[Tensor, "k h w"]
) -> Float[Tensor, "q k"]:
    """Return each binary mask's IoU with each class's true pixels, summing to 1 (simbaseline §2.4).

    A mask that meets no class scores 0 throughout.
    """
    masks = (soft_masks > 0.5).flatten(1).float()
    classes = truth.flatten(1).float()
    both = masks @ classes.T
    either = masks.sum(1)[:, None] + classes.sum(1)[None] - both
    return F.normalize(both / either.clamp(min=1), p=1.0, dim=1)
