"""The last layer: a linear map from pixel features to class scores, and its calibration.

Every method that ends in a linear classifier publishes this artifact; evaluation, self-training and
prediction read it without knowing the method.
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

from zslib.artifacts.schemas import CLASSIFIER
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.benchmark import Split


@dataclass(frozen=True)
class PixelClassifier:
    """Scores weight @ f + bias; with gamma > 0, calibrated stacking (spnet §4)."""

    split: Split
    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    gamma: float = 0.0
    """Taken from the probability of every seen class before the argmax."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def uncalibrated(self) -> "PixelClassifier":
        """Return the same scores without gamma (and without the story of how it was chosen)."""
        return replace(self, gamma=0.0, meta={})

    def for_split(self, split: Split) -> "PixelClassifier":
        """Return the same scores, read as those of another division into seen and unseen."""
        return replace(self, split=split)

    def logits(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> Float[Tensor, "c H W"]:
        """Return logits resized to `size`, corners aligned; classes that are void score -inf.

        The map is affine and bilinear weights sum to 1, so this equals classifying resized features.
        """
        scores = F.linear(pixel_features.float(), self.weight, self.bias).permute(2, 0, 1)
        if scores.shape[-2:] != size:
            scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=True)[0]
        if self.split.void:
            scores = scores.index_fill(0, torch.tensor(self.split.void), -torch.inf)
        return scores

    def predict(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W"]:
        """Return the label map among all seen and unseen classes."""
        logits = self.logits(pixel_features, size)
        if self.gamma:
            logits = logits.softmax(0)
            logits[list(self.split.seen)] -= self.gamma
        return logits.argmax(0).to(torch.uint8).numpy()

    def save(self, path: Path) -> None:
        """Publish the classifier."""
        tensors = {"weight": self.weight.detach().numpy(), "bias": self.bias.detach().numpy()}
        meta = {**self.split.describe(), "gamma": self.gamma, "details": dict(self.meta)}
        save_tensors(path, tensors, schema=CLASSIFIER, meta=meta)

    @classmethod
    def load(cls, path: Path) -> "PixelClassifier":
        """Open and verify a classifier. Raises ArtifactError."""
        tensors, meta = load_tensors(path, schema=CLASSIFIER)
        return cls(
            Split.described(meta),
            torch.from_numpy(tensors["weight"]),
            torch.from_numpy(tensors["bias"]),
            meta["gamma"],
            meta["details"],
        )
