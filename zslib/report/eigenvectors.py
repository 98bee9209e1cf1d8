"""Eigenvectors of some pictures, the segments they cut, and predictions before and after fusion.

The pictures are chosen by the truth, as all are. Of the methods with a fused row the one is shown
whose prediction for the picture changed most.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from zslib.artifacts.eigenvectors import Eigenvectors
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.datasets.index import ImageIndex
from zslib.fusion.rules import eigensegments
from zslib.report.leaderboard import FUSED
from zslib.report.pictures import (
    Row,
    Tile,
    choose_pictures,
    class_areas,
    jpeg_uri,
    label_map_uri,
    legend,
    photograph_uri,
    picture_colours,
    unseen_iou,
)
from zslib.report.results import Result

_VECTORS = 4
_SIDE = 288
_NEGATIVE, _ZERO, _POSITIVE = (np.array(c) for c in ((8, 81, 156), (250, 250, 248), (214, 90, 8)))


def load_eigenvectors(results: Sequence[Result], artifacts: Path) -> Eigenvectors | None:
    """Open `<split>/eigenvectors.h5` if a result was fused with it. Raises ArtifactError."""
    if not _pairs(results):
        return None
    return Eigenvectors.open(artifacts / results[0].split.name / "eigenvectors.h5")


def eigenvector_pictures(
    eigenvectors: Eigenvectors,
    results: Sequence[Result],
    *,
    images: ImageIndex,
    truth: LabelMaps,
    count: int,
) -> list[Row]:
    """Return up to `count` pictures with what fusion changed most in each."""
    split, pairs = results[0].split, _pairs(results)
    chosen = choose_pictures(truth.ids, class_areas(truth), split, count)
    return [
        _row(image_id, images.image(image_id), truth, eigenvectors, pairs) for image_id in chosen
    ]


def _pairs(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Return the results that were fused, each with what came of it."""
    by_name = {(r.scores.method, r.scores.protocol): r for r in results}
    return [
        (plain, by_name[name + FUSED, protocol])
        for (name, protocol), plain in by_name.items()
        if (name + FUSED, protocol) in by_name
    ]


def _row(
    image_id: str,
    image: Image.Image,
    truth: LabelMaps,
    eigenvectors: Eigenvectors,
    pairs: Sequence[tuple[Result, Result]],
) -> Row:
    changes = [
        np.count_nonzero(plain.predictions.of(image_id) != fused.predictions.of(image_id))
        for plain, fused in pairs
    ]
    pair = pairs[int(np.argmax(changes))]
    split, labels = pair[0].split, pair[0].split.scored_labels(truth.of(image_id))
    predictions = [result.predictions.of(image_id) for result in pair]
    shown = _present([labels], split)
    invented = [c for c in _present(predictions, split) if c not in shown]
    colours = picture_colours([*shown, *invented], split)
    tiles = [
        Tile("Image", "", photograph_uri(image)),
        Tile("Truth", "", label_map_uri(labels, colours, split)),
        *_eigen_tiles(eigenvectors, image_id, image),
    ]
    for result, prediction in zip(pair, predictions, strict=True):
        uri = label_map_uri(prediction, colours, split)
        tiles.append(Tile(result.title, "", uri, unseen_iou(labels, prediction, split)))
    return Row(image_id, tuple(tiles), *(legend(c, colours, split) for c in (shown, invented)))


def _present(maps: Sequence[np.ndarray], split: Split) -> list[int]:
    """Return the classes that some label maps hold, unseen ones first."""
    found = set(np.concatenate([np.unique(m) for m in maps]).tolist())
    return [c for c in (*split.unseen, *split.seen) if c in found]


def _eigen_tiles(eigenvectors: Eigenvectors, image_id: str, image: Image.Image) -> list[Tile]:
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    vectors = eigenvectors.at(image_id, (height, width))
    values = eigenvectors.eigenvalues_of(image_id)[1:]
    tiles = [
        Tile(f"v{number}", f"λ {value:.2f}", jpeg_uri(Image.fromarray(_diverging(vector))))
        for number, (vector, value) in enumerate(
            zip(vectors[:_VECTORS], values, strict=False), start=1
        )
    ]
    cells = eigensegments(vectors)
    segments = Image.fromarray(_mean_colours(pixels, cells))
    return [*tiles, Tile("Segments", f"{cells.max() + 1}", jpeg_uri(segments))]


def _diverging(vector: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return orange where a vector is positive, blue where it is negative, pale near zero."""
    share = (vector / max(float(np.abs(vector).max()), 1e-12))[..., None]
    end = np.where(share > 0, _POSITIVE, _NEGATIVE)
    return (_ZERO + np.abs(share) * (end - _ZERO)).round().astype(np.uint8)


def _mean_colours(
    pixels: UInt8[np.ndarray, "h w 3"], cells: Int64[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture in which each cell has the mean colour of its pixels."""
    flat = cells.reshape(-1)
    sums = [np.bincount(flat, weights=channel.reshape(-1)) for channel in np.moveaxis(pixels, 2, 0)]
    means = np.stack(sums, axis=1) / np.bincount(flat)[:, None]
    return means.round().astype(np.uint8)[cells]
