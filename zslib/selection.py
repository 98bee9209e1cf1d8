"""Choosing by the score on held-out seen classes (DESIGN §10; `zslib.held_out` draws them)."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.calibration import Calibrated
from zslib.classifier import PixelClassifier
from zslib.metrics import confusion_matrix, scores

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the whole curve it was chosen from."""

    candidates: tuple[float, ...]
    hiou: tuple[tuple[float, ...], ...]
    """One row per draw, one score per candidate."""
    held_out: tuple[tuple[int, ...], ...]

    @property
    def best(self) -> int:
        """Where the candidate with the best mean score stands; the first of equals."""
        return int(np.argmax(np.mean(self.hiou, axis=0)))

    @property
    def chosen(self) -> float:
        """The candidate with the best mean score."""
        return self.candidates[self.best]

    @property
    def is_blind(self) -> bool:
        """Whether nothing told the candidates apart: no image shows a held-out class, or none is found."""
        return len(self.candidates) > 1 and not np.any(self.hiou)

    def describe(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the choice as JSON for an artifact's description; a blind one has a `note`, and warns."""
        described: dict[str, Any] = {
            "candidates": list(self.candidates),
            "hiou": [list(row) for row in self.hiou],
            "held_out": [[classes[c] for c in draw] for draw in self.held_out],
            "chosen": self.chosen,
        }
        if self.is_blind:
            hidden = ", ".join(name for draw in described["held_out"] for name in draw)
            described["note"] = (
                f"{hidden}: every candidate scored 0, since the tuning images show none of these or no "
                f"pixel of them was told right, so the first candidate, {self.chosen:g}, was taken "
                "blindly; more tuning images may help (features.tuning_images)"
            )
            _log.warning("%s", described["note"])
        return described


def tuning_pairs(
    maps: DenseMaps, labels: LabelMaps, split: Split
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield (pixel features, label map) of the tuning images; classes void in `split` are void."""
    position = {image_id: index for index, image_id in enumerate(labels.ids)}
    for image_id, features in zip(maps.ids, maps, strict=True):
        yield features, split.scored_labels(labels[position[image_id]])


def hiou_of(matrix: np.ndarray, split: Split) -> float:
    """Return the generalised harmonic mean of a confusion matrix over the classes that it has pixels of.

    The images of a choice are few: whether a class that none of them shows is predicted somewhere
    says little, and would count as much as any other class.
    """
    figures = scores(matrix, seen=split.seen, unseen=split.unseen, absent="skip_unlabelled")
    return figures["hiou"]


def matrix_over(
    classifier: PixelClassifier, maps: Iterator[tuple[Tensor, np.ndarray]]
) -> np.ndarray:
    """Return the confusion matrix of a classifier over (pixel features, label map) pairs."""
    num_classes = len(classifier.split.classes)
    total = np.zeros((num_classes, num_classes), np.int64)
    for features, labels in maps:
        prediction = classifier.predict(features, labels.shape)
        total += confusion_matrix(labels, prediction, num_classes)
    return total


def calibration_matrices(
    classifier: Calibrated,
    maps: Iterator[tuple[Tensor, np.ndarray]],
    strengths: Sequence[float],
) -> Int64[np.ndarray, "s c c"]:
    """Return one confusion matrix per strength from one pass over (pixel features, label map) pairs."""
    num_classes = len(classifier.split.classes)
    total = np.zeros((len(strengths), num_classes, num_classes), np.int64)
    for features, labels in maps:
        labelled = labels != IGNORE_INDEX
        competitors = classifier.competitors(features, labels.shape).at(labelled)
        for index, strength in enumerate(strengths):
            prediction = classifier.decide(competitors, strength)
            total[index] += confusion_matrix(labels[labelled], prediction, num_classes)
    return total


def score_strengths(
    classifier: Calibrated, maps: DenseMaps, labels: LabelMaps, strengths: Sequence[float]
) -> tuple[float, ...]:
    """Return the hIoU of every strength on tuning images; the classifier's split says what is hidden."""
    hidden = classifier.split
    matrices = calibration_matrices(classifier, tuning_pairs(maps, labels, hidden), strengths)
    return tuple(hiou_of(matrix, hidden) for matrix in matrices)
