"""From segmented validation images to a confusion matrix, and from that to every score.

The confusion matrix per image is the result (DESIGN §3): protocols, intervals and plots derive from
it without touching a pixel again. A second one holds the restricted (ZSL) protocol: unseen pixels
only, unseen classes only.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from zslib.artifacts.maps import PREDICTIONS, LabelMaps
from zslib.artifacts.publish import publish
from zslib.artifacts.store import allocate, finish, map_array, write_arrays
from zslib.benchmark import IGNORE_INDEX, ProtocolName, Setting, Split
from zslib.errors import InputError
from zslib.metrics import (
    CONFUSION,
    bootstrap_intervals,
    class_iou,
    confusion_matrix,
    marginals,
    scores,
    without_rows,
)
from zslib.params.benchmark import BACKGROUND
from zslib.params.evaluation import EvaluateParams
from zslib.segmenters import Segmenter

OF_ALL_CLASSES = ("miou", "mean_accuracy", "pixel_accuracy", "fwiou")
"""The figures that do not tell seen and unseen classes apart."""


@dataclass(frozen=True)
class Entry:
    """Which row of the leaderboard this is."""

    split: str
    method: str
    protocol: ProtocolName
    seed: int
    setting: Setting = "inductive"

    @property
    def name(self) -> str:
        """Of the folder that holds its evaluation."""
        return f"{self.method}-{self.protocol}"


@dataclass(frozen=True)
class Evaluation:
    """Confusion matrices of one segmenter on the validation images."""

    split: Split
    generalised: Int64[np.ndarray, "c c"]
    restricted: Int64[np.ndarray, "c c"]
    """Unseen pixels classified among unseen classes."""
    per_image: Int64[np.ndarray, "i 3 c"]
    """Marginals of each image's generalised matrix, for the bootstrap."""
    ids: tuple[str, ...]
    details: Mapping[str, Any]
    """How the free choices were made."""


def evaluate(
    segmenter: Segmenter,
    labels: LabelMaps,
    predictions: Path,
    *,
    resolution: Literal["original", "view"],
) -> Evaluation:
    """Predict every validation image among all classes, and its unseen pixels among the unseen.

    Where no class is seen, as across datasets, that would be the same twice: once is enough.
    "original" scores on the label maps as they are; "view" resizes them (nearest) to the size of the
    view that the network saw, as the released evaluators do (zs3net §7). The label maps that it
    predicts among all classes are published as `predictions`, and never more than one is held.

    Raises:
        InputError: an image has no label map.
    """
    split = segmenter.split
    num_classes = len(split.classes)
    shape = (num_classes, num_classes)
    generalised, restricted = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    among_unseen, per_image = segmenter.among_unseen(), []
    sizes = _sizes(segmenter, labels, resolution)
    with _to_be_filled(predictions, segmenter.ids, sizes, split.describe()) as label_maps:
        for position, truth in enumerate(_truths(segmenter, labels, sizes)):
            prediction = segmenter.predict(position, truth.shape)
            matrix = confusion_matrix(truth, prediction, num_classes)
            generalised += matrix
            per_image.append(marginals(matrix))
            label_maps[position][...] = prediction
            if split.seen and split.shows_unseen(truth):
                unseen_truth = np.where(np.isin(truth, split.unseen), truth, IGNORE_INDEX)
                unseen_prediction = among_unseen.predict(position, truth.shape)
                restricted += confusion_matrix(
                    unseen_truth.astype(np.uint8), unseen_prediction, num_classes
                )
    ids, counts = tuple(segmenter.ids), np.stack(per_image)
    return Evaluation(split, generalised, restricted, counts, ids, segmenter.meta)


def _sizes(
    segmenter: Segmenter, labels: LabelMaps, resolution: Literal["original", "view"]
) -> list[tuple[int, int]]:
    """Return height and width of what each image of the segmenter is scored on."""
    if missing := sorted(set(segmenter.ids) - set(labels.ids)):
        raise InputError(
            f"{missing[0]}: has a feature map and no validation label ({len(missing)} images do); "
            "rerun the stages val_labels and val_maps"
        )
    if resolution == "view":
        return [segmenter.view(position) for position in range(len(segmenter.ids))]
    return [labels.of(image_id).shape for image_id in segmenter.ids]


def _truths(
    segmenter: Segmenter, labels: LabelMaps, sizes: Sequence[tuple[int, int]]
) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """Yield the label map that each image of the segmenter is scored on."""
    for image_id, (height, width) in zip(segmenter.ids, sizes, strict=True):
        truth = segmenter.split.scored_labels(labels.of(image_id))
        if truth.shape != (height, width):
            nearest = Image.Resampling.NEAREST
            truth = np.asarray(Image.fromarray(truth).resize((width, height), nearest))
        yield truth


@contextmanager
def _to_be_filled(
    path: Path, ids: Sequence[str], sizes: Sequence[tuple[int, int]], meta: Mapping[str, Any]
) -> Iterator[LabelMaps]:
    """Yield label maps that lie in a file, and publish it when all of them are filled in."""
    table, described = np.array(sizes, np.int32).reshape(-1, 2), {**meta, "ids": list(ids)}
    room = ((sum(height * width for height, width in sizes),), np.dtype(np.uint8))
    with publish(path) as temporary:
        allocate(temporary, {"sizes": table, "pixels": room})
        stored = map_array(temporary, "pixels", mode="r+")
        yield LabelMaps(tuple(ids), table, stored, described)
        finish(temporary, schema=PREDICTIONS, meta=described)


def derive_scores(evaluation: Evaluation, entry: Entry, params: EvaluateParams) -> dict[str, Any]:
    """Return everything the leaderboard and the report need, as JSON; fractions in [0, 1].

    Where no class is seen, as across datasets, what tells seen and unseen ones apart is null, and the
    restricted protocol is missing.
    """
    split = evaluation.split
    groups: dict[str, Any] = {"seen": split.seen, "unseen": split.unseen}
    intervals = bootstrap_intervals(
        evaluation.per_image, **groups, samples=params.bootstrap, seed=entry.seed
    )
    iou = class_iou(evaluation.generalised)
    return {
        "split": entry.split,
        "method": entry.method,
        "protocol": entry.protocol,
        "setting": entry.setting,
        "seed": entry.seed,
        **_existing(scores(evaluation.generalised, **groups), split),
        "interval95": _existing({name: list(ends) for name, ends in intervals.items()}, split),
        "protocols": _protocols(evaluation),
        "class_iou": {
            split.classes[c]: None if np.isnan(iou[c]) else float(iou[c])
            for c in sorted((*split.seen, *split.unseen))
        },
    }


def _protocols(evaluation: Evaluation) -> Mapping[str, dict[str, float | None]]:
    """Score the same predictions under the other protocols in use (zs3net §7, spnet §7)."""
    split, matrix = evaluation.split, evaluation.generalised
    groups: dict[str, Any] = {"seen": split.seen, "unseen": split.unseen}
    result = {
        "absent_classes_zero": _existing(scores(matrix, **groups, absent="zero"), split),
    }
    if not matrix[[*split.seen, *split.unseen]].any(axis=1).all():  # else it is the leaderboard's
        labelled = scores(matrix, **groups, absent="skip_unlabelled")
        result["labelled_classes_only"] = _existing(labelled, split)
    if split.seen:
        unseen_alone = scores(evaluation.restricted, seen=(), unseen=split.unseen)
        result["restricted_to_unseen"] = unseen_alone
    if BACKGROUND in split.classes and split.classes.index(BACKGROUND) in split.seen:
        background = split.classes.index(BACKGROUND)
        rest = tuple(c for c in split.seen if c != background)
        result["without_background"] = scores(
            without_rows(matrix, [background]), seen=rest, unseen=split.unseen
        )
    return result


def _existing(figures: dict[str, Any], split: Split) -> dict[str, Any]:
    """Put None for what tells seen and unseen classes apart, where none is seen."""
    exist = figures if split.seen else OF_ALL_CLASSES
    return {name: value if name in exist else None for name, value in figures.items()}


def score(
    segmenters: Mapping[Entry, Segmenter],
    labels: LabelMaps,
    params: EvaluateParams,
    *,
    folder: Path,
    scores: Path,
) -> None:
    """Evaluate some rows of the leaderboard; publish each in `folder`, and its scores in `scores`.

    Raises:
        InputError: an image has no label map.
    """
    derived = {}
    with publish(folder) as temporary:
        for entry, segmenter in segmenters.items():
            row, resolution = temporary / entry.name, params.resolution
            evaluation = evaluate(segmenter, labels, row / "predictions.h5", resolution=resolution)
            save(evaluation, row / "confusion.h5")
            derived[entry] = derive_scores(evaluation, entry, params)
    for entry, content in derived.items():
        with publish(scores / f"{entry.split}-{entry.name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def save(evaluation: Evaluation, path: Path) -> None:
    """Publish the matrices of an evaluation."""
    meta = evaluation.split.describe() | {
        "ids": list(evaluation.ids),
        "details": dict(evaluation.details),
    }
    arrays = {
        "generalised": evaluation.generalised,
        "restricted": evaluation.restricted,
        "per_image": evaluation.per_image,
    }
    write_arrays(path, arrays, schema=CONFUSION, meta=meta)
