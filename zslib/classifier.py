"""The last layers: from cached pixel features to class scores, and their calibration.

Every method that classifies cached features pixel by pixel publishes this artifact; evaluation,
self-training and prediction read it without knowing the method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.benchmark import Split
from zslib.calibration import Competitors, stacking

CLASSIFIER = Schema("classifier/2", "train or classifier")


def best_classes(scores: Float[Tensor, "c h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return argmax(0): the number of classes before the first one that reaches the maximum.

    Whole planes are compared at a time, many times as fast as a search pixel by pixel.
    """
    planes = scores.numpy()
    highest = planes.max(0)
    below = np.ones(highest.shape, bool)
    classes = np.zeros(highest.shape, np.uint8)
    for plane in planes[:-1]:
        below &= plane < highest
        classes += below
    return classes


@dataclass(frozen=True)
class PixelClassifier:
    """Scores weight @ f + bias; with gamma > 0, calibrated stacking (spnet §4).

    CaGNet's classifier sees squashed features through a hidden layer (cagnet §4); most see them as
    they are, and are linear.
    """

    split: Split
    weight: Float[Tensor, "c h"]
    bias: Float[Tensor, " c"]
    gamma: float = 0.0
    """Taken from the probability of every seen class before the argmax."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[Float[Tensor, "h d"], Float[Tensor, " h"]] | None = None
    """Weight and bias of a layer with ReLU before the last."""
    squash: bool = False
    """Whether features pass a sigmoid first."""
    corners: bool = True
    """Whether a map's corner cells lie on the corner pixels; if not, cells cover equal parts."""

    @property
    def dimension(self) -> int:
        """Of the pixel features it takes."""
        return (self.weight if self.hidden is None else self.hidden[0]).shape[1]

    def uncalibrated(self) -> "PixelClassifier":
        """Return the same scores without gamma (and without the story of how it was chosen)."""
        return replace(self, gamma=0.0, meta={})

    def for_split(self, split: Split) -> "PixelClassifier":
        """Return the same scores, read as those of another division into seen and unseen."""
        return replace(self, split=split)

    def logits(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> Float[Tensor, "c H W"]:
        """Return logits resized to `size`, as `corners` says; classes that are void score -inf.

        For a linear classifier this equals classifying resized features: bilinear weights sum to 1.
        """
        scores = self.scores(pixel_features.float()).permute(2, 0, 1)
        if scores.shape[-2:] != size:
            planes, corners = scores[None], self.corners
            scores = F.interpolate(planes, size, mode="bilinear", align_corners=corners)[0]
        if self.split.void:
            scores = scores.index_fill(0, torch.tensor(self.split.void), -torch.inf)
        return scores

    def scores(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n c"]:
        """Return the scores of features, wherever they are."""
        if self.squash:
            features = features.sigmoid()
        if self.hidden is not None:
            features = F.linear(features, *self.hidden).relu()
        return F.linear(features, self.weight, self.bias)

    def predict(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W"]:
        """Return the label map among all seen and unseen classes."""
        logits = self.logits(pixel_features, size)
        if self.gamma:
            logits = logits.softmax(0)
            logits[list(self.split.seen)] -= self.gamma
        return best_classes(logits)

    def competitors(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> Competitors:
        """Return the best seen and the best unseen class of each pixel, with their probabilities."""
        probabilities = self.logits(pixel_features, size).softmax(0)
        found = []
        for ids in (self.split.seen, self.split.unseen):
            value, position = probabilities[list(ids)].max(0)
            found.append((np.asarray(ids, np.uint8)[position.numpy()], value.numpy()))
        (first, first_value), (second, second_value) = found
        return Competitors(first, second, first_value, second_value)

    def decide(self, competitors: Competitors, strength: float) -> UInt8[np.ndarray, "*p"]:
        """Return the classes that win with `strength` for gamma."""
        return stacking(competitors, strength)

    def save(self, path: Path) -> None:
        """Publish the classifier."""
        tensors = {"weight": self.weight, "bias": self.bias}
        if self.hidden is not None:
            tensors["hidden_weight"], tensors["hidden_bias"] = self.hidden
        meta = {
            **self.split.describe(),
            "gamma": self.gamma,
            "squash": self.squash,
            "corners": self.corners,
            "details": dict(self.meta),
        }
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        save_tensors(path, arrays, schema=CLASSIFIER, meta=meta)

    @classmethod
    def load(cls, path: Path) -> "PixelClassifier":
        """Open and verify a classifier. Raises ArtifactError."""
        arrays, meta = load_tensors(path, schema=CLASSIFIER)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        hidden = None
        if "hidden_weight" in tensors:
            hidden = (tensors["hidden_weight"], tensors["hidden_bias"])
        return cls(
            Split.described(meta),
            tensors["weight"],
            tensors["bias"],
            gamma=meta["gamma"],
            meta=meta["details"],
            hidden=hidden,
            squash=meta["squash"],
            corners=meta["corners"],
        )
