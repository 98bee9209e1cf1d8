"""What self-training was taught: its pseudo-labels, shown and counted.

Nobody knows the truth of these images here, so the pictures are chosen by the pseudo-labels
themselves: in turn for each unseen class, those in which it was given the most pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from zslib.artifacts.maps import LabelMaps, open_pseudo_labels
from zslib.benchmark import Split
from zslib.datasets.index import ImageIndex
from zslib.errors import InputError
from zslib.report.pictures import (
    Row,
    Tile,
    choose_pictures,
    class_areas,
    confidence_uri,
    label_map_uri,
    legend,
    photograph_uri,
    picture_colours,
)
from zslib.report.results import Result

_SELF_TRAINED = "+st"


@dataclass(frozen=True)
class PseudoLabels:
    """The pseudo-labels behind one transductive result; void where the method was not sure."""

    result: Result
    labels: LabelMaps
    confidences: LabelMaps
    """How sure the method was of each pixel's label, in 255ths."""
    areas: Int64[np.ndarray, "i 256"]
    """How many pixels of each image have each label."""


@dataclass(frozen=True)
class PseudoLine:
    """One unseen class and the (pixels, images) that each method gave it."""

    name: str
    given: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PseudoSection:
    """All that the page says about the pseudo-labels of one split."""

    results: tuple[Result, ...]
    lines: tuple[PseudoLine, ...]
    shares: tuple[float, ...]
    """Per method, the share of all pixels that unseen classes were given."""
    pictures: tuple[tuple[Result, tuple[Row, ...]], ...]


def load_pseudo_labels(results: Sequence[Result], artifacts: Path) -> list[PseudoLabels]:
    """Open `<split>/<method>/st/pseudo_labels.h5` of every self-trained result that has one.

    Raises:
        InputError: a file was made with other classes, or with other ones unseen.
        ArtifactError: a file is damaged.
    """
    found = []
    for result in results:
        method = result.scores.method.removesuffix(_SELF_TRAINED)
        path = artifacts / result.split.name / method / "st/pseudo_labels.h5"
        if method != result.scores.method and path.is_file():
            found.append(_load(result, path))
    return found


def pseudo_section(
    found: Sequence[PseudoLabels], images: ImageIndex, *, pictures: int
) -> PseudoSection:
    """Return counts per unseen class, and up to `pictures` pictures of each method."""
    split = found[0].result.split
    lines = tuple(
        PseudoLine(split.classes[c], tuple(_given(one.areas[:, c]) for one in found))
        for c in split.unseen
    )
    unseen = list(split.unseen)
    shares = tuple(float(one.areas[:, unseen].sum() / one.areas.sum()) for one in found)
    rows = [
        (one.result, tuple(_row(one, image_id, images) for image_id in _chosen(one, pictures)))
        for one in found
    ]
    return PseudoSection(tuple(one.result for one in found), lines, shares, tuple(rows))


def _load(result: Result, path: Path) -> PseudoLabels:
    labels, confidences = open_pseudo_labels(path)
    if Split.described(dict(labels.meta)) != result.split:
        raise InputError(
            f"{path}: was made with other classes, or with other ones unseen, than params.yaml has "
            f"for split '{result.split.name}'; rerun its stages (dvc repro)"
        )
    return PseudoLabels(result, labels, confidences, class_areas(labels))


def _given(areas: Int64[np.ndarray, " i"]) -> tuple[int, int]:
    return int(areas.sum()), int(np.count_nonzero(areas))


def _chosen(found: PseudoLabels, count: int) -> list[str]:
    return choose_pictures(found.labels.ids, found.areas, found.result.split, count)


def _row(found: PseudoLabels, image_id: str, images: ImageIndex) -> Row:
    split, label_map = found.result.split, found.labels.of(image_id)
    shown = [c for c in (*split.unseen, *split.seen) if (label_map == c).any()]
    colours = picture_colours(shown, split)
    tiles = (
        Tile("Image", "", photograph_uri(images.image(image_id))),
        Tile("Pseudo-labels", "", label_map_uri(label_map, colours, split)),
        Tile("Confidence", "", confidence_uri(found.confidences.of(image_id))),
    )
    return Row(image_id, tiles, legend(shown, colours, split), ())
