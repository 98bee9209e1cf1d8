"""Any segmenter, fused with eigenvectors of its images, and how its threshold is chosen.

The cells of an image are the connected regions in which all eigenvectors keep their signs; each cell
that is decided enough gets one label (`zslib.fusion.rules.fuse`). Enough is the share tau, chosen by the
mean IoU of seen classes on training images, among candidates that include leaving all as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from zslib.artifacts.eigenvectors import Eigenvectors
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.fusion.rules import eigensegments, fuse
from zslib.metrics import confusion_matrix, scores
from zslib.segmenters import Segmenter


@dataclass(frozen=True)
class TauChoice:
    """The chosen threshold, and the curve it was chosen from."""

    candidates: tuple[float, ...]
    miou_seen: tuple[float, ...]

    @property
    def chosen(self) -> float:
        """The candidate with the best score; of equals the largest, which changes the least."""
        return max(zip(self.miou_seen, self.candidates, strict=True))[1]

    def describe(self) -> dict[str, Any]:
        """Return the choice as JSON for an artifact's description."""
        return {
            "candidates": list(self.candidates),
            "miou_seen": list(self.miou_seen),
            "chosen": self.chosen,
        }


@dataclass(frozen=True)
class FusedSegmenter:
    """A segmenter whose label maps are fused with the eigenvectors of its images."""

    segmenter: Segmenter
    eigenvectors: Eigenvectors
    tau: TauChoice

    def __post_init__(self) -> None:
        refuse_missing(self.segmenter.ids, self.eigenvectors)

    @property
    def split(self) -> Split:
        return self.segmenter.split

    @property
    def meta(self) -> Mapping[str, Any]:
        return {**self.segmenter.meta, "tau": self.tau.describe()}

    @property
    def ids(self) -> Sequence[str]:
        return self.segmenter.ids

    def view(self, position: int) -> tuple[int, int]:
        return self.segmenter.view(position)

    def predict(self, position: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
        prediction = self.segmenter.predict(position, size)
        if self.tau.chosen > 1:
            return prediction
        cells = eigensegments(self.eigenvectors.at(self.ids[position], size))
        return fuse(prediction, cells, tau=self.tau.chosen)

    def among_unseen(self) -> "FusedSegmenter":
        return replace(self, segmenter=self.segmenter.among_unseen())


def choose_tau(
    segmenter: Segmenter,
    labels: LabelMaps,
    eigenvectors: Eigenvectors,
    candidates: Sequence[float],
) -> TauChoice:
    """Score every candidate by the mean IoU of seen classes over the segmenter's images.

    They are training images, with seen labels only: unseen pixels are void, or the images are left
    out. What is learnt from them is sharper there than elsewhere, so the choice errs towards less
    fusion (DESIGN §10).

    Raises:
        InputError: an image has no eigenvectors.
    """
    refuse_missing(segmenter.ids, eigenvectors)
    split, num_classes = segmenter.split, len(segmenter.split.classes)
    totals = np.zeros((len(candidates), num_classes, num_classes), np.int64)
    for position, image_id in enumerate(segmenter.ids):
        truth = split.seen_labels(labels.of(image_id))
        prediction = segmenter.predict(position, truth.shape)
        cells = eigensegments(eigenvectors.at(image_id, truth.shape))
        for index, tau in enumerate(candidates):
            fused = fuse(prediction, cells, tau=tau)
            totals[index] += confusion_matrix(truth, fused, num_classes)
    curve = [scores(m, seen=split.seen, unseen=split.unseen)["miou_seen"] for m in totals]
    return TauChoice(tuple(candidates), tuple(curve))


def refuse_missing(ids: Sequence[str], eigenvectors: Eigenvectors) -> None:
    """Raise InputError if an image has no eigenvectors."""
    if missing := [image_id for image_id in ids if image_id not in eigenvectors]:
        raise InputError(
            f"{missing[0]}: has no eigenvectors ({len(missing)} images have none); "
            "rerun the stage eigenvectors"
        )
