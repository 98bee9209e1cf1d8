"""What the frozen forms of JoEm learn from: labelled cells of cached maps, and their mixtures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.methods.joem.objectives import mixing_weights, sample_labels
from zslib.params.joem import JoemObjectives


@dataclass(frozen=True)
class Inputs:
    """Whole maps of training images, seen labels, class embeddings."""

    maps: DenseMaps
    labels: LabelMaps
    class_embeddings: Float[Tensor, "c e"]

    @property
    def split(self) -> Split:
        return Split.described(self.labels.meta)

    @property
    def outside_tuning(self) -> DenseMaps:
        """The maps of images that no free choice is scored on."""
        tuning = set(self.maps.tuning.ids)
        return self.maps.only([image_id for image_id in self.maps.ids if image_id not in tuning])


@dataclass(frozen=True)
class Cells:
    """Some labelled cells, in any order."""

    features: Float16[Tensor, "n d"]
    weights: Float[Tensor, "n c1"]
    """What the target is mixed of; see `mixing_weights`."""
    labels: UInt8[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: Tensor) -> "Cells":
        """Return those of some rows."""
        tensors = (self.features, self.weights, self.labels)
        return Cells(*(tensor.index_select(0, rows) for tensor in tensors))

    def to(self, device: torch.device) -> "Cells":
        return Cells(self.features.to(device), self.weights.to(device), self.labels.to(device))

    @classmethod
    def joined(cls, parts: Sequence["Cells"]) -> "Cells":
        """Return those of all parts, in their order."""
        tensors = zip(*((p.features, p.weights, p.labels) for p in parts), strict=True)
        return cls(*map(torch.cat, tensors))


def labelled_cells(
    inputs: Inputs, split: Split, maps: DenseMaps, objectives: JoemObjectives
) -> Iterator[Cells]:
    """Yield the cells of each map that have one of the split's seen classes, row by row.

    Raises:
        InputError: no map has any.
    """
    found = 0
    for image_id, features in zip(maps.ids, maps, strict=True):
        labels = torch.from_numpy(split.seen_labels(inputs.labels.of(image_id)))[None]
        height, width, _ = features.shape
        weights, valid = mixing_weights(labels, (height, width), len(split.classes), objectives)
        own = sample_labels(labels, (height, width), objectives.mixing)
        cells = Cells(features.flatten(0, 1), weights[0].flatten(0, 1), own.flatten())
        chosen = cells.at(valid.flatten().nonzero()[:, 0])
        found += len(chosen)
        yield chosen
    if not found:
        raise InputError(
            f"features.train_maps: no map of split '{split.name}' is left to learn from that has a "
            "labelled pixel; raise it, or lower features.tuning_images"
        )
