"""One pair of the fold protocol: an image, and a class that it is known to show (sazs §1.4, §6).

Is a pixel the class, or "others"? Three rows answer: what the network says (`sazs-nofusion`), that
fused with the image's eigenvectors by a rule that knows no label (`sazs`), and the released pick among
it and the eigenvectors by the ground truth (`sazs-oracle`): an upper bound that looks at the labels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from zslib.artifacts.eigenvectors import Eigenvectors
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.folds import Pair
from zslib.fusion.rules import eigensegments, pick_by_truth, select_by_agreement, vote_in_cells
from zslib.fusion.segmenter import refuse_missing
from zslib.methods.sazs.items import named_classes
from zslib.methods.sazs.margins import upsampled

VoidRule = Literal["removed", "predicted", "others"]
Counts = Int64[np.ndarray, "2 2"]
"""Rows: intersection, union. Columns: others, the class."""


ROWS = {
    "sazs-nofusion": "the network alone",
    "sazs": "fused with eigenvectors, without ground truth",
    "sazs-oracle": "upper bound: the ground truth picks the mask",
}


@dataclass(frozen=True)
class Cut:
    """What eigenvectors make of one image, whichever class is looked for."""

    vectors: Float[np.ndarray, "k h w"]

    @cached_property
    def cells(self) -> Int64[np.ndarray, "h w"]:
        """Its eigensegments; only votes read them, and they cost more than all else of a pair."""
        return eigensegments(self.vectors)


@dataclass(frozen=True)
class Fusion:
    """A rule that fuses a margin with eigenvectors, and its one number (sazs §4.5)."""

    rule: Literal["agreement", "vote"]
    strength: float
    """Of "agreement" tau, of "vote" the share of pixels that may change."""

    def __call__(self, margin: Float[np.ndarray, "h w"], cut: Cut) -> Bool[np.ndarray, "h w"]:
        if self.rule == "agreement":
            return select_by_agreement(margin > 0, cut.vectors, tau=self.strength)
        return vote_in_cells(margin, cut.cells, unsure=self.strength)

    def __str__(self) -> str:
        return f"{self.rule} {self.strength:g}"


@dataclass(frozen=True)
class Shown:
    """One pair: what the network says, what the eigenvectors say, and the truth."""

    margin: Float[np.ndarray, "h w"]
    cut: Cut
    truth: UInt8[np.ndarray, "h w"]
    """1 the class, 0 others, 255 void."""

    def masks(self, fusion: Fusion, void: VoidRule) -> dict[str, Bool[np.ndarray, "h w"]]:
        """Return the mask of each row. Released, the pick counts void as not the class (sazs §1.4)."""
        prediction, sides = self.margin > 0, self.cut.vectors > 0
        scored = self.truth != IGNORE_INDEX if void == "removed" else None
        return {
            "sazs-nofusion": prediction,
            "sazs": fusion(self.margin, self.cut),
            "sazs-oracle": pick_by_truth(prediction, sides, self.truth == 1, scored),
        }


@dataclass(frozen=True)
class Material:
    """Cached margins of some images, their labels, and their eigenvectors.

    Raises:
        InputError: an image has no eigenvectors.
    """

    maps: DenseMaps
    labels: LabelMaps
    eigenvectors: Eigenvectors
    split: Split

    def __post_init__(self) -> None:
        refuse_missing(self.maps.ids, self.eigenvectors)

    def pairs(self) -> tuple[Pair, ...]:
        """Return every image with every unseen class that its labels show."""
        named = named_classes(self.split, self.split.unseen)
        shown = {image_id: np.unique(self.labels.of(image_id)) for image_id in self.maps.ids}
        return tuple(Pair(i, c) for i in self.maps.ids for c in shown[i].tolist() if c in named)

    def each(self, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, Shown]]:
        """Yield every pair once, image by image, with all that there is on it at its labels' size."""
        place = self._positions
        ordered = sorted(set(pairs), key=lambda pair: (place[pair.image_id], pair.class_id))
        for image_id, of_image in groupby(ordered, key=lambda pair: pair.image_id):
            labels = self.split.scored_labels(self.labels.of(image_id))
            size = (labels.shape[0], labels.shape[1])
            margins = self.maps[place[image_id]]
            cut = Cut(self.eigenvectors.at(image_id, size))
            for pair in of_image:
                own = margins[..., pair.class_id]
                margin = upsampled(own, size, corners=self.maps.meta["corners"]).numpy()
                truth = np.where(labels == IGNORE_INDEX, IGNORE_INDEX, labels == pair.class_id)
                yield pair, Shown(margin, cut, truth.astype(np.uint8))

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.maps.ids)}


def count(
    prediction: Bool[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], void: VoidRule
) -> Counts:
    """Return intersection and union of others and of the class, in pixels (sazs §1.4, E4).

    Void is removed from both maps; or it counts where it is predicted; or it is "others".
    """
    labelled = truth != IGNORE_INDEX
    if void == "others":
        truth = np.where(labelled, truth, 0)
    kept = labelled if void == "removed" else np.ones_like(labelled)
    counts = np.zeros((2, 2), np.int64)
    for side in (0, 1):
        predicted, true = (prediction == side) & kept, truth == side
        counts[:, side] = (predicted & true).sum(), (predicted | true).sum()
    return counts
