"""Self-training: pseudo-labels from fused scores, and a second training on them (simbaseline §7).

A void pixel may get an unseen class: the best one in an image whose seen classes are labelled, and in
an image where nothing is known only one that is best of all. Of what each class is given, the lower
quantile by score becomes void again; the released rule keeps what a second softmax leaves above a
threshold, which at its default is everything, true background included.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zslib.artifacts.maps import (
    LabelMaps,
    MixedLabels,
    open_pseudo_labels,
    write_pseudo_labels,
)
from zslib.artifacts.publish import publish
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.index import ImageIndex
from zslib.embeddings.table import ClassVectors
from zslib.fine_tuning import Run
from zslib.methods.simbaseline.extraction import TestImages, extract
from zslib.methods.simbaseline.fit import fit
from zslib.methods.simbaseline.network import Proposer
from zslib.methods.simbaseline.segmenters import ProposalSegmenter, text_rows
from zslib.params import ProposalPseudoLabels, ProposalSelfTraining
from zslib.training import progress

Labelled = tuple[UInt8[np.ndarray, "_h _w"], UInt8[np.ndarray, "_h _w"]]
"""A label map, and what its labels scored in 255ths."""


def self_train(
    proposer: Proposer,
    segmenter: ProposalSegmenter,
    text: ClassVectors,
    index: ImageIndex,
    seen: LabelMaps,
    params: ProposalSelfTraining,
    *,
    test: TestImages,
    batch_size: int,
    out: Path,
    run: Run,
) -> None:
    """Train the proposer itself on all classes, after pseudo-labelling the images of the segmenter.

    Publish in `out` `pseudo_labels.h5`, `network.safetensors`, and `val.h5`: what it now proposes for
    the test images, so many at a time. Its head compares with `text` from then on.

    Raises:
        InputError: fewer images than a batch, or predictions that are not finite.
    """
    known = KnownLabels(segmenter.ids, seen, index.size)
    with publish(out) as temporary:
        path = temporary / "pseudo_labels.h5"
        label(segmenter, known, params.labels, path, scratch=run.folder)
        mixed = MixedLabels.of(seen, open_pseudo_labels(path)[0])
        proposer.network.compare_with(text_rows(text, segmenter.classes))
        fit(
            proposer,
            [index.file(image_id) for image_id in mixed.ids],
            mixed,
            segmenter.classes,
            params.training,
            section="simbaseline.self_training.training",
            run=run,
        )
        proposer.save(temporary / "network.safetensors")
        extract(
            proposer,
            test,
            temporary / "val.h5",
            batch_size=batch_size,
            runtime=run.runtime,
            scratch=run.folder / "val",
        )


def label(
    segmenter: ProposalSegmenter,
    known: Sequence[UInt8[np.ndarray, "_h _w"]],
    params: ProposalPseudoLabels,
    path: Path,
    *,
    scratch: Path,
) -> None:
    """Publish pseudo-labels of all images at `path`; `known` are their label maps, mostly void."""
    first = scratch / "candidates.h5"
    ids, sizes, meta = segmenter.ids, [m.shape for m in known], segmenter.split.describe()
    write_pseudo_labels(first, ids, sizes, candidates(segmenter, known, params), meta=meta)
    labels, scores = open_pseudo_labels(first)
    lowest = np.zeros(256, np.uint8)
    if params.rule == "quantile":
        lowest = quantiles(labels, scores, params.quantile)
    kept = (above(*pair, lowest) for pair in zip(labels, scores, strict=True))
    meta |= {params.rule: params.quantile if params.rule == "quantile" else params.threshold}
    write_pseudo_labels(path, ids, sizes, kept, meta=meta)


@dataclass(frozen=True)
class KnownLabels(Sequence[np.ndarray]):
    """Seen labels of unlabelled images: void all over where an image was left out of training."""

    ids: Sequence[str]
    seen: LabelMaps
    size: Callable[[str], tuple[int, int]]
    """Of an image: (width, height)."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> np.ndarray:  # type: ignore[override]
        image_id = self.ids[position]
        try:
            return self.seen.of(image_id)
        except KeyError:
            return np.full(self.size(image_id)[::-1], IGNORE_INDEX, np.uint8)


def candidates(
    segmenter: ProposalSegmenter,
    known: Sequence[UInt8[np.ndarray, "_h _w"]],
    params: ProposalPseudoLabels,
) -> Iterator[Labelled]:
    """Yield each image's labels and scores; what was known scores 255."""
    classes, unseen = segmenter.classes, segmenter.split.unseen
    shown = progress(known, name=f"pseudo-labels {segmenter.split.name}")
    for position, truth in enumerate(shown):
        found = segmenter.class_scores(position, truth.shape)
        if params.rule == "released":
            labels, scores = best_unseen_as_released(found, classes, unseen, params.threshold)
        else:
            labels, scores = best_unseen(found, truth, classes, unseen)
        void = truth == IGNORE_INDEX
        scores = np.where(void, scores, 255).astype(np.uint8)
        labels = np.where(void, labels, truth)
        yield labels, np.where(labels == IGNORE_INDEX, 0, scores).astype(np.uint8)


def best_unseen(
    scores: Float[Tensor, "k h w"],
    known: UInt8[np.ndarray, "h w"],
    classes: Sequence[int],
    unseen: Sequence[int],
) -> Labelled:
    """Give every pixel its best unseen class, or, where nothing is known, that if it is best of all."""
    rows = [k for k, c in enumerate(classes) if c in unseen]
    best, which = scores[rows].max(0)
    labels = np.array(unseen, np.uint8)[which.numpy()]
    if (known == IGNORE_INDEX).all():
        labels = np.where((best >= scores.amax(0)).numpy(), labels, IGNORE_INDEX)
    return labels.astype(np.uint8), _in_255ths(best)


def best_unseen_as_released(
    scores: Float[Tensor, "k h w"], classes: Sequence[int], unseen: Sequence[int], threshold: float
) -> Labelled:
    """Give every pixel its best unseen class; void where a softmax leaves it below `threshold`.

    Scores are no logits: their softmax is nearly flat.
    """
    rows = [k for k, c in enumerate(classes) if c in unseen]
    best, which = scores.softmax(0)[rows].max(0)
    labels = np.array(unseen, np.uint8)[which.numpy()]
    kept = np.where((best >= threshold).numpy(), labels, IGNORE_INDEX)
    return kept.astype(np.uint8), _in_255ths(best)


def quantiles(labels: LabelMaps, scores: LabelMaps, share: float) -> UInt8[np.ndarray, " 256"]:
    """Return for each class the score that at most this share of its pixels falls below."""
    counts = np.zeros((256, 256), np.int64)
    for label_map, score_map in zip(labels, scores, strict=True):
        pairs = label_map.astype(np.int64) * 256 + score_map
        counts += np.bincount(pairs.reshape(-1), minlength=1 << 16).reshape(256, 256)
    below = np.cumsum(counts, axis=1)
    return (below <= share * below[:, -1:]).sum(axis=1).clip(max=255).astype(np.uint8)


def above(
    label_map: UInt8[np.ndarray, "h w"],
    score_map: UInt8[np.ndarray, "h w"],
    lowest: UInt8[np.ndarray, " 256"],
) -> Labelled:
    """Return labels and scores without those that score below what their class needs."""
    kept = score_map >= lowest[label_map]
    labels = np.where(kept, label_map, IGNORE_INDEX).astype(np.uint8)
    return labels, np.where(kept, score_map, 0).astype(np.uint8)


def _in_255ths(scores: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """A sum over queries can exceed 1 by a little."""
    return (scores.clamp(max=1.0) * 255).round().to(torch.uint8).numpy()
