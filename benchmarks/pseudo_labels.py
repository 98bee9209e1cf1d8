"""Choosing the pixels that get pseudo-labels, against sorting as the rules are usually worded.

ZS3Net's rule asks for the most confident pixels, CaGNet's for the first ranks of every pixel. Neither
needs an order of all of them: a share is found by partition, a rank by counting.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Result, time_side_by_side
from zslib.benchmark import IGNORE_INDEX
from zslib.self_training.pseudo_labels import rank_labels, share_labels

OURS = "zslib"
SHARES = (0.25, 0.5, 0.75, 1.0)
RANKS = (1, 2, 4)
LabelMaps = list[np.ndarray]


def measure(
    *, width: int = 500, height: int = 375, classes: int = 21, unseen: int = 6, repeats: int = 15
) -> list[Result]:
    """Time one photograph of VOC's size with every candidate, nothing of it labelled."""
    rng = np.random.default_rng(0)
    ids = tuple(range(classes - unseen, classes))
    sizes = {"width": width, "height": height, "classes": classes, "unseen": unseen}

    def draw() -> Tensor:
        return draw_logits(classes, height, width, rng)

    results = []
    for title, contestants in {
        f"pseudo-labels: the most confident share, shares {SHARES}": ways_to_share(ids),
        f"pseudo-labels: unseen among the first ranks, ranks {RANKS}": ways_to_rank(ids),
    }.items():
        refuse_disagreement(contestants, draw())
        seconds = time_side_by_side(contestants, draw, repeats=repeats)
        reference = next(name for name in contestants if name != OURS)
        results.append(
            Result(
                title,
                sizes | {"repeats": repeats},
                seconds,
                reference=reference,
                amount=width * height,
                unit="pixels",
            )
        )
    return results


def draw_logits(classes: int, height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Draw logits on a grid and enlarge them, as a classifier's are."""
    grid = rng.normal(size=(1, classes, -(-height // 4), -(-width // 4))).astype(np.float32)
    size = (height, width)
    return F.interpolate(torch.from_numpy(grid), size, mode="bilinear", align_corners=True)[0]


def ways_to_share(unseen: Sequence[int]) -> dict[str, Callable[[Tensor], LabelMaps]]:
    """Return the contestants of ZS3Net's rule: functions of logits (c, h, w)."""

    def ours(logits: Tensor) -> LabelMaps:
        return share_labels(logits, nothing(logits), unseen, SHARES, pool="image")

    def torch_sort(logits: Tensor) -> LabelMaps:
        confidences, classes = logits.softmax(0).flatten(1).max(0)
        candidates = torch.isin(classes, torch.tensor(unseen)).nonzero()[:, 0]
        order = confidences[candidates].sort(descending=True, stable=True).indices
        return [kept(logits, classes.numpy(), candidates[order].numpy(), s) for s in SHARES]

    def numpy_argsort(logits: Tensor) -> LabelMaps:
        raised = np.exp(logits.numpy() - logits.numpy().max(0))
        probabilities = (raised / raised.sum(0)).reshape(len(logits), -1)
        classes, confidences = probabilities.argmax(0), probabilities.max(0)
        candidates = np.flatnonzero(np.isin(classes, unseen))
        order = np.argsort(-confidences[candidates], kind="stable")
        return [kept(logits, classes, candidates[order], share) for share in SHARES]

    return {OURS: ours, "torch, softmax and sort": torch_sort, "numpy, argsort": numpy_argsort}


def ways_to_rank(unseen: Sequence[int]) -> dict[str, Callable[[Tensor], LabelMaps]]:
    """Return the contestants of CaGNet's rule: functions of logits (c, h, w)."""

    def ours(logits: Tensor) -> LabelMaps:
        return rank_labels(logits, nothing(logits), unseen, RANKS)

    def torch_argsort(logits: Tensor) -> LabelMaps:
        ranking = logits.argsort(0, descending=True).numpy()
        return [first_unseen(ranking[:ranks], unseen) for ranks in RANKS]

    def numpy_argsort(logits: Tensor) -> LabelMaps:
        ranking = np.argsort(-logits.numpy(), axis=0)
        return [first_unseen(ranking[:ranks], unseen) for ranks in RANKS]

    return {OURS: ours, "torch, argsort": torch_argsort, "numpy, argsort": numpy_argsort}


def nothing(logits: Tensor) -> np.ndarray:
    """Return a label map without labels."""
    return np.full(logits.shape[1:], IGNORE_INDEX, np.uint8)


def kept(logits: Tensor, classes: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """Label the first share of the pixels in `order`."""
    label_map = nothing(logits)
    chosen = order[: int(share * len(order))]
    label_map.reshape(-1)[chosen] = classes[chosen]
    return label_map


def first_unseen(ranking: np.ndarray, unseen: Sequence[int]) -> np.ndarray:
    """Return the first unseen class in the ranking (p, h, w) of each pixel."""
    is_unseen = np.isin(ranking, unseen)
    best = np.take_along_axis(ranking, is_unseen.argmax(0)[None], axis=0)[0]
    return np.where(is_unseen.any(0), best, IGNORE_INDEX).astype(np.uint8)


def refuse_disagreement(
    contestants: dict[str, Callable[[Tensor], LabelMaps]], logits: Tensor
) -> None:
    """Make sure that all contestants label the same pixels; rounding may exchange two of a few."""
    expected, *others = (np.stack(label(logits)) for label in contestants.values())
    assert all(np.mean(expected != other) < 1e-3 for other in others)
