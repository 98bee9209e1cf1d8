"""Side-by-side pictures: the photograph, its truth, and what every method made of it.

Which pictures are shown depends on the truth alone, so no method is flattered: in turn for each
unseen class, the pictures in which it covers the most pixels.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image

from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.metrics import class_iou, confusion_matrix
from zslib.report.results import Result

_SIDE = 288
"""Longer side of a label map in the page, in pixels; smaller ones grow by a whole factor."""

_COLUMNS = 7

_UNSEEN_COLOURS = (
    *("#E8590C", "#C2255C", "#F2B705", "#7B2CBF", "#FF6B9D"),
    *("#8B3A00", "#FFA94D", "#E03131", "#D0A2F7", "#5C2018"),
)
_SEEN_COLOURS = (
    *("#A9CCE3", "#4F9A5B", "#C3DCA0", "#DDD3B0", "#CBD5DF", "#3B7EA8", "#85898C"),
    *("#76C7B7", "#B9B6DC", "#2F6F73", "#5D6DB3", "#94A35A", "#45556B"),
)
_VOID = (246, 244, 240)
_OUTLINE, _OUTLINE_ID = (20, 20, 24), 254
_LOW, _HIGH = np.array([255, 255, 255]), np.array([8, 48, 107])


@dataclass(frozen=True)
class Tile:
    """One picture of a row, as a data URI; `unseen_iou` where it is a prediction."""

    title: str
    note: str
    uri: str
    unseen_iou: float | None = None


@dataclass(frozen=True)
class Swatch:
    """One entry of a picture's legend."""

    name: str
    colour: str
    unseen: bool


@dataclass(frozen=True)
class Row:
    """One picture with all its tiles; `invented` are classes that only predictions show."""

    image_id: str
    tiles: tuple[Tile, ...]
    legend: tuple[Swatch, ...]
    invented: tuple[Swatch, ...]

    @property
    def columns(self) -> int:
        """How many tiles stand side by side: at most 7, and all lines about equally full."""
        lines = math.ceil(len(self.tiles) / _COLUMNS)
        return math.ceil(len(self.tiles) / lines)


def class_areas(maps: LabelMaps) -> Int64[np.ndarray, "i 256"]:
    """Return how many pixels of each picture have each label."""
    return np.stack([np.bincount(label_map.reshape(-1), minlength=256) for label_map in maps])


def choose_pictures(
    ids: Sequence[str], areas: Int64[np.ndarray, "i 256"], split: Split, count: int
) -> list[str]:
    """Return up to `count` of the ids, pictures that show unseen classes first."""
    ranked = [
        [i for i in np.argsort(-areas[:, c], kind="stable") if areas[i, c]] for c in split.unseen
    ]
    chosen: list[int] = []
    for place in range(max(map(len, ranked), default=0)):
        chosen += [int(order[place]) for order in ranked if place < len(order)]
    chosen += range(len(ids))
    return [ids[index] for index in dict.fromkeys(chosen)][:count]


def picture_row(
    image_id: str, image: Image.Image, truth: UInt8[np.ndarray, "h w"], results: Sequence[Result]
) -> Row:
    """Return the tiles and the legend of one picture."""
    split = results[0].split
    predictions = [r.predictions.of(image_id) for r in results]
    shares = np.max([_shares(prediction) for prediction in predictions], axis=0)
    scored = (*split.unseen, *split.seen)
    shown = [c for c in scored if (truth == c).any()]
    wrong = sorted((c for c in scored if c not in shown and shares[c]), key=lambda c: -shares[c])
    colours = picture_colours([*shown, *wrong], split)
    tiles = [
        Tile("Image", "", photograph_uri(image)),
        Tile("Truth", "", label_map_uri(truth, colours, split)),
    ]
    for result, prediction in zip(results, predictions, strict=True):
        uri, iou = label_map_uri(prediction, colours, split), unseen_iou(truth, prediction, split)
        tiles.append(Tile(result.title, result.note, uri, iou))
    visible = [c for c in wrong if shares[c] >= 0.01]
    legends = [legend(ids, colours, split) for ids in (shown, visible)]
    return Row(image_id, tuple(tiles), *legends)


def legend(ids: Sequence[int], colours: Mapping[int, str], split: Split) -> tuple[Swatch, ...]:
    """Return the legend of some classes."""
    return tuple(Swatch(split.classes[c], colours[c], c in split.unseen) for c in ids)


def picture_colours(ids: Sequence[int], split: Split) -> dict[int, str]:
    """Return the colours (#RRGGBB) of the classes in one picture, the first ones served first.

    Unseen classes are vivid and warm, seen ones cool and muted. A class has the same colour in
    every picture, unless one before it in this picture has taken it.
    """
    colours: dict[int, str] = {}
    for class_id in ids:
        unseen = class_id in split.unseen
        palette = _UNSEEN_COLOURS if unseen else _SEEN_COLOURS
        start = split.unseen.index(class_id) if unseen else class_id
        wished = [palette[(start + step) % len(palette)] for step in range(len(palette))]
        free = [colour for colour in wished if colour not in colours.values()]
        colours[class_id] = (free or wished)[0]
    return colours


def label_map_uri(
    label_map: UInt8[np.ndarray, "h w"], colours: Mapping[int, str], split: Split
) -> str:
    """Return a label map as a PNG data URI: a colour per class, unseen regions outlined."""
    table = np.full((256, 3), _VOID, np.uint8)
    for class_id, colour in colours.items():
        table[class_id] = tuple(bytes.fromhex(colour[1:]))
    table[_OUTLINE_ID] = _OUTLINE
    resized = _at_page_size(label_map)
    outlined = np.where(_outline(np.isin(resized, split.unseen)), _OUTLINE_ID, resized)
    picture = Image.fromarray(outlined.astype(np.uint8))
    picture.putpalette(table.tobytes())
    return _uri(picture, "PNG")


def confidence_uri(confidences: UInt8[np.ndarray, "h w"]) -> str:
    """Return confidences in 255ths as a PNG data URI: white for 0, dark blue for 1."""
    picture = Image.fromarray(_at_page_size(confidences))
    ramp = np.linspace(0, 1, 256)[:, None]
    picture.putpalette((_LOW * (1 - ramp) + _HIGH * ramp).round().astype(np.uint8).tobytes())
    return _uri(picture, "PNG")


def photograph_uri(image: Image.Image) -> str:
    """Return a photograph as a JPEG data URI no larger than its label maps."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return jpeg_uri(small)


def jpeg_uri(image: Image.Image, *, quality: int = 88) -> str:
    """Return a picture as a JPEG data URI."""
    return _uri(image, "JPEG", quality=quality)


def _shares(label_map: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, " 256"]:
    """Share of the picture that each label covers."""
    return np.bincount(label_map.reshape(-1), minlength=256) / label_map.size


def unseen_iou(truth: np.ndarray, prediction: np.ndarray, split: Split) -> float | None:
    """Return the mean IoU of the unseen classes that a picture shows; None if it shows none."""
    if truth.shape != prediction.shape:
        height, width = prediction.shape
        resized = Image.fromarray(truth).resize((width, height), Image.Resampling.NEAREST)
        truth = np.asarray(resized)
    iou = class_iou(confusion_matrix(truth, prediction, len(split.classes)))
    present = [iou[c] for c in split.unseen if (truth == c).any()]
    return float(np.mean(present)) if present else None


def _at_page_size(label_map: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
    longer = max(label_map.shape)
    if longer <= _SIDE:
        factor = _SIDE // longer
        return label_map.repeat(factor, 0).repeat(factor, 1)
    height, width = (max(1, round(side * _SIDE / longer)) for side in label_map.shape)
    return np.asarray(Image.fromarray(label_map).resize((width, height), Image.Resampling.NEAREST))


def _outline(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a region that touch what is outside it, the picture's edge included."""
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
