"""Choosing by the score on held-out seen classes (DESIGN §10; `zslib.held_out` draws them)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.metrics import confusion_matrix, scores


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

    def describe(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the choice as JSON for an artifact's description."""
        return {
            "candidates": list(self.candidates),
            "hiou": [list(row) for row in self.hiou],
            "held_out": [[classes[c] for c in draw] for draw in self.held_out],
            "chosen": self.chosen,
        }


def tuning_pairs(
    maps: DenseMaps, labels: LabelMaps, split: Split
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield (pixel features, label map) of the tuning images; classes void in `split` are void."""
    position = {image_id: index for index, image_id in enumerate(labels.ids)}
    for image_id, features in zip(maps.ids, maps, strict=True):
        yield features, split.scored_labels(labels[position[image_id]])


def hiou_of(matrix: np.ndarray, split: Split) -> float:
    """Return the generalised harmonic mean of a confusion matrix."""
    return scores(matrix, seen=split.seen, unseen=split.unseen)["hiou"]


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
    classifier: PixelClassifier,
    maps: Iterator[tuple[Tensor, np.ndarray]],
    gammas: Sequence[float],
) -> np.ndarray:
    """Return one confusion matrix per gamma, (g, c, c), from one pass over the maps.

    Whatever gamma, a pixel goes to its best seen or its best unseen class: unseen where
    p_unseen > p_seen - gamma (spnet §4.2, §10), so two classes and one difference say it all.
    """
    split = classifier.split
    num_classes = len(split.classes)
    seen, unseen = torch.tensor(split.seen), torch.tensor(split.unseen)
    total = np.zeros((len(gammas), num_classes, num_classes), np.int64)
    for features, labels in maps:
        valid = torch.from_numpy(labels != 255)
        probabilities = classifier.logits(features, labels.shape).softmax(0)[:, valid]
        best_seen, seen_id = probabilities[seen].max(0)
        best_unseen, unseen_id = probabilities[unseen].max(0)
        truth = labels[valid.numpy()]
        for index, gamma in enumerate(gammas):
            chosen = torch.where(best_unseen > best_seen - gamma, unseen[unseen_id], seen[seen_id])
            prediction = chosen.to(torch.uint8).numpy()
            total[index] += confusion_matrix(truth, prediction, num_classes)
    return total
