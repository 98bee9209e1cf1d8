"""The nearest prototype, and its calibration: what joint embeddings classify pixels by (joem §4).

The counterpart of `zslib.classifier` for methods that compare distances: evaluation reads either
through `zslib.heads`.
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
from zslib.calibration import Competitors, apollonius

PROTOTYPES = Schema("prototypes/1", "frozen, frozen_head or train of joem")


@dataclass(frozen=True)
class PrototypeClassifier:
    """Gives a pixel the class of the nearest prototype; sigma < 1 leans towards unseen classes."""

    split: Split
    prototypes: Float[Tensor, "c h"]
    sigma: float = 1.0
    """Of Apollonius calibration, on squared distances (joem §4.3)."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[Float[Tensor, "h d"], Float[Tensor, " h"]] | None = None
    """Weight and bias of a layer with ReLU that pixel features pass first."""

    @property
    def dimension(self) -> int:
        """Of the pixel features it takes."""
        return (self.prototypes if self.hidden is None else self.hidden[0]).shape[1]

    def uncalibrated(self) -> "PrototypeClassifier":
        """Return the same distances without sigma (and without the story of how it was chosen)."""
        return replace(self, sigma=1.0, meta={})

    def for_split(self, split: Split) -> "PrototypeClassifier":
        """Return the same distances, read as those of another division into seen and unseen."""
        return replace(self, split=split)

    def squared_distances(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> Float[Tensor, "c H W"]:
        """Return distances of features resized to `size`, corners aligned; to void classes inf.

        Features are resized, not distances: those are not linear.
        """
        features = pixel_features.float()
        if self.hidden is not None:
            features = F.linear(features, *self.hidden).relu()
        planes = features.permute(2, 0, 1)[None].contiguous()  # resized twice as fast
        if planes.shape[-2:] != size:
            planes = F.interpolate(planes, size, mode="bilinear", align_corners=True)
        pixels = planes[0].flatten(1)
        squared = self.prototypes @ pixels
        squared.mul_(-2).add_(self.prototypes.square().sum(1, keepdim=True))
        squared.add_(pixels.square().sum(0)).clamp_(min=0)  # rounding (joem §9.12)
        squared[list(self.split.void)] = torch.inf
        return squared.unflatten(1, size)

    def competitors(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> Competitors:
        """Return the nearest and the second nearest class of each pixel, with squared distances."""
        distances, found = self.squared_distances(pixel_features, size), []
        for _ in range(2):
            value, ids = distances.min(0)
            distances.scatter_(0, ids[None], torch.inf)
            found.append((ids.to(torch.uint8).numpy(), value.numpy()))
        (first, first_value), (second, second_value) = found
        return Competitors(first, second, first_value, second_value)

    def decide(self, competitors: Competitors, strength: float) -> UInt8[np.ndarray, "*p"]:
        """Return the classes that win with `strength` for sigma."""
        return apollonius(competitors, strength, self.split.unseen)

    def predict(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W"]:
        """Return the label map among all seen and unseen classes."""
        return self.decide(self.competitors(pixel_features, size), self.sigma)

    def save(self, path: Path) -> None:
        """Publish the classifier."""
        tensors = {"prototypes": self.prototypes}
        if self.hidden is not None:
            tensors["hidden_weight"], tensors["hidden_bias"] = self.hidden
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        meta = {**self.split.describe(), "sigma": self.sigma, "details": dict(self.meta)}
        save_tensors(path, arrays, schema=PROTOTYPES, meta=meta)

    @classmethod
    def load(cls, path: Path) -> "PrototypeClassifier":
        """Open and verify a classifier. Raises ArtifactError."""
        arrays, meta = load_tensors(path, schema=PROTOTYPES)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        hidden = None
        if "hidden_weight" in tensors:
            hidden = (tensors["hidden_weight"], tensors["hidden_bias"])
        return cls(
            Split.described(meta), tensors["prototypes"], meta["sigma"], meta["details"], hidden
        )
