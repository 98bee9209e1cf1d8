"""What every trained head can do with pixel features, and how a file's own kind of head is opened."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zslib.artifacts.publish import publish
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.prototypes import PROTOTYPES, PrototypeClassifier


@runtime_checkable
class Head(Protocol):
    """A classifier of pixel features."""

    @property
    def split(self) -> Split: ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """How its free choices were made."""

    def uncalibrated(self) -> "Head":
        """Return the same without calibration."""

    def for_split(self, split: Split) -> "Head":
        """Return the same for another division into seen and unseen."""

    def predict(
        self, pixel_features: Float[Tensor, "h w d"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W"]:
        """Return the label map among all seen and unseen classes."""


AnyHead = TypeVar("AnyHead", bound=PixelClassifier | PrototypeClassifier)


@dataclass(frozen=True)
class Classifiers(Generic[AnyHead]):
    """The classifier of a split, and one per draw of held-out seen classes (DESIGN §10).

    The latter were trained with the free choices that won; what is chosen later, as in self-training
    and fusion, is chosen with them.
    """

    final: AnyHead
    held_out: tuple[AnyHead, ...]

    def save(self, folder: Path) -> None:
        """Publish `classifier.safetensors` and `held_out/<draw>.safetensors` in one folder."""
        with publish(folder) as temporary:
            self.final.save(temporary / "classifier.safetensors")
            for draw, classifier in enumerate(self.held_out):
                classifier.save(temporary / "held_out" / f"{draw}.safetensors")

    @classmethod
    def load(cls, folder: Path, load: Callable[[Path], AnyHead]) -> "Classifiers[AnyHead]":
        """Open and verify all of them, each by `load`. Raises ArtifactError."""
        draws = sorted((folder / "held_out").glob("*.safetensors"), key=lambda path: int(path.stem))
        return cls(load(folder / "classifier.safetensors"), tuple(map(load, draws)))


def load_head(path: Path) -> PixelClassifier | PrototypeClassifier:
    """Open and verify the head that a file holds. Raises ArtifactError."""
    if _schema(path) == PROTOTYPES.name:
        return PrototypeClassifier.load(path)
    return PixelClassifier.load(path)


def _schema(path: Path) -> object:
    """Return the schema that a file names, if it can be read; its loader will say what is wrong."""
    try:
        with safe_open(path, framework="numpy") as file:
            (header,) = file.metadata().values()
        return json.loads(header)["schema"]
    except (SafetensorError, OSError, AttributeError, ValueError, KeyError):
        return None
