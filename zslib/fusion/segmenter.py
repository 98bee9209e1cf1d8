"""Any segmenter, fused with eigenvectors of its images, and how its threshold is chosen.

The cells of an image are the connected regions in which all eigenvectors keep their signs; each cell
that is decided enough gets one label (`zslib.fusion.rules.fuse`). Enough is the share tau, chosen on
held-out seen classes, as every free choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from zslib.artifacts.eigenvectors import Eigenvectors
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.fusion.rules import eigensegments, fuse
from zslib.metrics import confusion_matrix
from zslib.segmenters import Segmenter
from zslib.selection import Choice, hiou_of


@dataclass(frozen=True)
class FusedSegmenter:
    """A segmenter whose label maps are fused with the eigenvectors of its images."""

    segmenter: Segmenter
    eigenvectors: Eigenvectors
    tau: float
    choice: Mapping[str, Any] = field(default_factory=dict)
    """How tau was chosen."""

    def __post_init__(self) -> None:
        refuse_missing(self.segmenter.ids, self.eigenvectors)

    @property
    def split(self) -> Split:
        return self.segmenter.split

    @property
    def meta(self) -> Mapping[str, Any]:
        return {**self.segmenter.meta, "tau": self.choice}

    @property
    def ids(self) -> Sequence[str]:
        return self.segmenter.ids

    def view(self, position: int) -> tuple[int, int]:
        return self.segmenter.view(position)

    def predict(self, position: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
        prediction = self.segmenter.predict(position, size)
        if self.tau > 1:
            return prediction
        cells = eigensegments(self.eigenvectors.at(self.ids[position], size))
        return fuse(prediction, cells, tau=self.tau)

    def among_unseen(self) -> "FusedSegmenter":
        return replace(self, segmenter=self.segmenter.among_unseen())


def choose_tau(
    held_out: Sequence[Segmenter],
    labels: LabelMaps,
    eigenvectors: Eigenvectors,
    candidates: Sequence[float],
) -> tuple[float, Mapping[str, Any]]:
    """Return the best candidate for what each segmenter's training was held out from (DESIGN §10).

    There is one segmenter per draw, all of the same training images. The second value tells how the
    choice was made, as JSON for an artifact's description; it is empty without draws.

    Raises:
        InputError: an image has no eigenvectors, or there are several candidates and no draws.
    """
    if not held_out:
        return _only(candidates), {}
    refuse_missing(held_out[0].ids, eigenvectors)
    num_classes = len(held_out[0].split.classes)
    totals = np.zeros((len(held_out), len(candidates), num_classes, num_classes), np.int64)
    for position, image_id in enumerate(held_out[0].ids):
        label_map = labels.of(image_id)
        cells = eigensegments(eigenvectors.at(image_id, label_map.shape))
        for draw, segmenter in enumerate(held_out):
            truth = segmenter.split.scored_labels(label_map)
            prediction = segmenter.predict(position, truth.shape)
            for index, tau in enumerate(candidates):
                fused = fuse(prediction, cells, tau=tau)
                totals[draw, index] += confusion_matrix(truth, fused, num_classes)
    hidden = [segmenter.split for segmenter in held_out]
    table = [
        tuple(hiou_of(matrix, split) for matrix in matrices)
        for matrices, split in zip(totals, hidden, strict=True)
    ]
    choice = Choice(tuple(candidates), tuple(table), tuple(split.unseen for split in hidden))
    return choice.chosen, choice.describe(hidden[0].classes)


def _only(candidates: Sequence[float]) -> float:
    tau, *others = candidates
    if others:
        raise InputError(
            "fusion.taus: the classifier has no held-out draws to choose with; give one value"
        )
    return tau


def refuse_missing(ids: Sequence[str], eigenvectors: Eigenvectors) -> None:
    """Raise InputError if an image has no eigenvectors."""
    if missing := [image_id for image_id in ids if image_id not in eigenvectors]:
        raise InputError(
            f"{missing[0]}: has no eigenvectors ({len(missing)} images have none); "
            "rerun the stage eigenvectors"
        )
