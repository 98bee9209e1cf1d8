"""Self-training: pseudo-labels from fused scores, and a second training on them (simbaseline §7).

A void pixel may get an unseen class: the best one in an image whose seen classes are labelled, and in
an image where nothing is known only one that is best of all. Of what each class is given, the lower
quantile by score becomes void again; the released rule keeps what a second softmax leaves above a
threshold, which at its default is everything, true background included.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from zslib.artifacts.maps import (
    PSEUDO,
    LabelMaps,
    MixedLabels,
    open_pseudo_labels,
    write_pseudo_labels,
)
from zslib.artifacts.publish import link_or_copy, publish
from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.store import Room
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.index import ImageIndex
from zslib.embeddings.table import ClassVectors
from zslib.fine_tuning import Run
from zslib.methods.simbaseline.extraction import TestImages, extract
from zslib.methods.simbaseline.fit import fit
from zslib.methods.simbaseline.network import Proposer
from zslib.methods.simbaseline.segmenters import ProposalSegmenter, text_rows
from zslib.params.simbaseline import ProposalPseudoLabels, ProposalSelfTraining
from zslib.training import progress

log = logging.getLogger(__name__)

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
    the test images, so many at a time. Its head compares with `text` from then on. Labelling takes
    as long as the training, or longer: a run killed in either labels nothing again.

    Raises:
        InputError: fewer images than a batch, or predictions that are not finite.
    """
    known = KnownLabels(segmenter.ids, seen, index.size)
    with publish(out) as temporary:
        labelled = run.folder / "pseudo_labels.h5"
        if not labelled.exists():
            label(segmenter, known, params.labels, labelled, scratch=run.folder)
        mixed = MixedLabels.of(seen, open_pseudo_labels(labelled)[0])
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
        link_or_copy(labelled, temporary / labelled.name)
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
    """Publish pseudo-labels of all images at `path`; `known` are their label maps, mostly void.

    A run that was killed goes on from `scratch`.
    """
    ids, sizes, meta = segmenter.ids, [m.shape for m in known], segmenter.split.describe()
    first = write_candidates(segmenter, known, params, scratch)
    labels, scores = open_pseudo_labels(first)
    lowest = np.zeros(256, np.uint8)
    if params.rule == "quantile":
        counts = count_scores(labels, scores)
        _warn_if_saturated(counts, params.quantile, segmenter.split)
        lowest = quantiles(counts, params.quantile)
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


def write_candidates(
    segmenter: ProposalSegmenter,
    known: Sequence[UInt8[np.ndarray, "_h _w"]],
    params: ProposalPseudoLabels,
    scratch: Path,
) -> Path:
    """Write what the rule gives each image before any of it becomes void again; return the file."""
    sizes = np.array([m.shape for m in known], np.int32).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(sizes.astype(np.int64).prod(axis=1))])
    room: Room = ((int(starts[-1]),), np.dtype(np.uint8))
    arrays: dict[str, np.ndarray | Room] = {"sizes": sizes, "pixels": room, "confidences": room}
    file = ResumableFile.begin(scratch / "labelling.h5", arrays, items=len(known))
    for position in progress(file.to_do, name=f"pseudo-labels {segmenter.split.name}"):
        labels, scores = candidates(segmenter, position, known[position], params)
        own = slice(starts[position], starts[position + 1])
        file["pixels"][own], file["confidences"][own] = labels.reshape(-1), scores.reshape(-1)
        file.note_done(position)
    out = scratch / "candidates.h5"
    file.publish(out, schema=PSEUDO, meta={**segmenter.split.describe(), "ids": [*segmenter.ids]})
    return out


def candidates(
    segmenter: ProposalSegmenter,
    position: int,
    known: UInt8[np.ndarray, "h w"],
    params: ProposalPseudoLabels,
) -> Labelled:
    """Return an image's labels and scores; what was known scores 255."""
    classes, unseen = segmenter.classes, segmenter.split.unseen
    found = segmenter.class_scores(position, known.shape)
    if params.rule == "released":
        labels, scores = best_unseen_as_released(found, classes, unseen, params.threshold)
    else:
        labels, scores = best_unseen(found, known, classes, unseen)
    void = known == IGNORE_INDEX
    scores = np.where(void, scores, 255).astype(np.uint8)
    labels = np.where(void, labels, known)
    return labels, np.where(labels == IGNORE_INDEX, 0, scores).astype(np.uint8)


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


def count_scores(labels: LabelMaps, scores: LabelMaps) -> Int64[np.ndarray, "256 256"]:
    """Return how many pixels of each class have each score."""
    counts = np.zeros((256, 256), np.int64)
    for label_map, score_map in zip(labels, scores, strict=True):
        pairs = label_map.astype(np.int64) * 256 + score_map
        counts += np.bincount(pairs.reshape(-1), minlength=1 << 16).reshape(256, 256)
    return counts


def quantiles(counts: Int64[np.ndarray, "256 256"], share: float) -> UInt8[np.ndarray, " 256"]:
    """Return for each class the score that at most this share of its pixels falls below."""
    below = np.cumsum(counts, axis=1)
    return (below <= share * below[:, -1:]).sum(axis=1).clip(max=255).astype(np.uint8)


def _warn_if_saturated(counts: Int64[np.ndarray, "256 256"], share: float, split: Split) -> None:
    """Name the unseen classes of which less than the share becomes void: the rest is all at 255."""
    saturated = counts[:, 255] > (1 - share) * counts.sum(axis=1)
    if names := [split.classes[c] for c in split.unseen if saturated[c]]:
        log.warning(
            "simbaseline.self_training.labels.quantile: less than %g of '%s' becomes void, for more "
            "than %g of it has the highest score there is",
            share,
            "', '".join(names),
            1 - share,
        )


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
    """Masks overlap, and the sum over them can exceed 1: all that is more certain looks alike."""
    return (scores.clamp(max=1.0) * 255).round().to(torch.uint8).numpy()
