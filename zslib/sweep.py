"""From cached competitors to the curve of a calibration: seen against unseen, strength by strength.

No strength is chosen by this curve: it is drawn over the validation images, unseen classes included,
to show what a choice on held-out seen classes was worth (DESIGN §10).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from zslib.artifacts.maps import LabelMaps
from zslib.artifacts.publish import publish
from zslib.benchmark import Split
from zslib.competitors import CompetitorMaps, label_sizes
from zslib.errors import InputError
from zslib.metrics import confusion_matrix, scores

FIGURES = ("miou_seen", "miou_unseen", "hiou")


def sweep_matrices(
    found: CompetitorMaps, labels: LabelMaps, strengths: Sequence[float]
) -> Int64[np.ndarray, "s c c"]:
    """Return the exact confusion matrix of every strength; no feature is read.

    Raises:
        InputError: the competitors were taken on other images, or at another size.
    """
    if not np.array_equal(label_sizes(found.ids, labels), found.sizes):
        raise InputError(
            "the competitors do not fit the validation labels; rerun the stage 'competitors'"
        )
    num_classes = len(found.split.classes)
    total = np.zeros((len(strengths), num_classes, num_classes), np.int64)
    for image_id, competitors in zip(found.ids, found, strict=True):
        truth = found.split.scored_labels(labels.of(image_id)).reshape(-1)
        for index, strength in enumerate(strengths):
            prediction = found.decide(competitors, strength)
            total[index] += confusion_matrix(truth, prediction, num_classes)
    return total


def write_curve(
    path: Path,
    found: CompetitorMaps,
    labels: LabelMaps,
    strengths: Sequence[float],
    *,
    method: str,
    seed: int,
) -> None:
    """Publish the scores at the given strengths and at the one that the method chose, as JSON.

    One point per strength, in ascending order; fractions in [0, 1]. The points are the only list in
    it: `dvc plots` takes every list for points.

    Raises:
        InputError: as `sweep_matrices`.
    """
    ordered = sorted({*strengths, found.chosen})
    matrices = sweep_matrices(found, labels, ordered)
    content = {
        "split": found.split.name,
        "classes": _roles(found.split),
        "method": method,
        "seed": seed,
        "rule": found.rule,
        "chosen": found.chosen,
        "points": [
            {"strength": strength} | _figures(matrix, found.split)
            for strength, matrix in zip(ordered, matrices, strict=True)
        ],
    }
    with publish(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _roles(split: Split) -> dict[str, str]:
    roles = {c: "unseen" for c in split.unseen} | {c: "void" for c in split.void}
    return {name: roles.get(c, "seen") for c, name in enumerate(split.classes)}


def _figures(matrix: Int64[np.ndarray, "c c"], split: Split) -> dict[str, float]:
    values = scores(matrix, seen=split.seen, unseen=split.unseen)
    return {name: values[name] for name in FIGURES}
