"""Pseudo-labels: which pixels of an image are taken for unseen classes, by the classifier's own word.

Two published rules. ZS3Net keeps, of the pixels that are classified as unseen, a share: the most
confident ones (zs3net §6). CaGNet gives a pixel the best-ranked unseen class, if that is among the
first p ranks (cagnet §6). Both label void pixels only: what is known of an image stays as it is.

Each rule takes several values of its parameter at once, since what it costs is the ranking, which
they share. Everything is at the resolution of the logits, meant to be the image's own.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from zslib.benchmark import IGNORE_INDEX
from zslib.classifier import best_classes
from zslib.params.self_training import Pool, PseudoLabelParams


def pseudo_labels(
    logits: Float[Tensor, "c h w"],
    known: UInt8[np.ndarray, "h w"],
    unseen: Sequence[int],
    params: PseudoLabelParams,
    values: Sequence[float],
) -> list[UInt8[np.ndarray, "h w"]]:
    """Return one label map per value of the rule's parameter: `known`, its void filled in."""
    if params.rule == "share":
        return share_labels(logits, known, unseen, values, pool=params.pool)
    return rank_labels(logits, known, unseen, [int(value) for value in values])


def share_labels(
    logits: Float[Tensor, "c h w"],
    known: UInt8[np.ndarray, "h w"],
    unseen: Sequence[int],
    shares: Sequence[float],
    *,
    pool: Pool,
) -> list[UInt8[np.ndarray, "h w"]]:
    """Label the most confident share of the void pixels whose best class is unseen (zs3net §6).

    Confidence is the highest softmax over all classes, worked out for the candidates only.
    """
    predictions = best_classes(logits)
    candidates = np.flatnonzero((known == IGNORE_INDEX) & np.isin(predictions, unseen))
    classes = predictions.reshape(-1)[candidates]
    chosen = logits.flatten(1).index_select(1, torch.from_numpy(candidates))
    confidences = chosen.softmax(0).amax(0).numpy()
    maps = []
    for share in shares:
        kept = confident_share(classes, confidences, share, pool=pool)
        label_map = known.copy()
        label_map.reshape(-1)[candidates[kept]] = classes[kept]
        maps.append(label_map)
    return maps


def confident_share(
    classes: UInt8[np.ndarray, " n"],
    confidences: Float[np.ndarray, " n"],
    share: float,
    *,
    pool: Pool,
) -> Bool[np.ndarray, " n"]:
    """Mark floor(share * n) of the candidates of an image, or of each class in it (zs3net §6)."""
    if pool == "image":
        return most_confident(confidences, int(share * len(confidences)))
    kept = np.zeros(len(classes), bool)
    for label in np.unique(classes):
        own = np.flatnonzero(classes == label)
        kept[own] = most_confident(confidences[own], int(share * len(own)))
    return kept


def most_confident(confidences: Float[np.ndarray, " n"], count: int) -> Bool[np.ndarray, " n"]:
    """Mark the `count` highest; among equals the first, as a stable sort would have it.

    The count-th highest is found by partition; nothing is sorted.
    """
    if count == 0:
        return np.zeros(len(confidences), bool)
    place = len(confidences) - count
    lowest = np.partition(confidences, place)[place]
    kept = confidences > lowest
    kept[np.flatnonzero(confidences == lowest)[: count - np.count_nonzero(kept)]] = True
    return kept


def rank_labels(
    logits: Float[Tensor, "c h w"],
    known: UInt8[np.ndarray, "h w"],
    unseen: Sequence[int],
    ranks: Sequence[int],
) -> list[UInt8[np.ndarray, "h w"]]:
    """Give void pixels the best unseen class if it is among the first `ranks` (cagnet §6).

    Its rank is the number of classes that score higher: nothing is sorted.
    """
    among_unseen = logits[list(unseen)]
    best = among_unseen.amax(0).numpy()
    classes = np.array(unseen, np.uint8)[best_classes(among_unseen)]
    higher = np.zeros(best.shape, np.uint8)
    for plane in logits.numpy():
        higher += plane > best
    void = known == IGNORE_INDEX
    return [np.where(void & (higher < rank), classes, known) for rank in ranks]


def confidence_map(
    logits: Float[Tensor, "c h w"], label_map: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w"]:
    """Return the probability of each pixel's label in 255ths; 0 where it is void."""
    labels = torch.from_numpy(label_map).long()
    void = labels == IGNORE_INDEX
    probabilities = logits.softmax(0).gather(0, labels.masked_fill(void, 0)[None])[0]
    return (probabilities.masked_fill(void, 0.0) * 255).round().to(torch.uint8).numpy()
