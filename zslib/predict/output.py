"""What the user gets: a picture with a legend, the label map, its confidence, and the facts as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from zslib.artifacts.place import refuse_place
from zslib.artifacts.publish import publish
from zslib.benchmark import Split
from zslib.predict.request import readable
from zslib.report.pictures import Swatch, legend, picture_colours

PICTURE, LABELS, CONFIDENCE, FACTS = FILES = (
    *("picture.png", "labels.png", "confidence.png", "prediction.json"),
)

_OPACITY = 0.6
"""Of the colours over the photograph."""


@dataclass(frozen=True)
class Prediction:
    """A class per pixel, as its position among the names asked for, and how sure it is."""

    split: Split
    """Its classes are the names; seen are those that the method learned from labels."""
    label_map: UInt8[np.ndarray, "h w"]
    confidence: Float[np.ndarray, "h w"]
    """In [0, 1]; what it is a share of differs from method to method."""

    @property
    def shares(self) -> Float[np.ndarray, " c"]:
        """The share of the pixels that each class has."""
        count = len(self.split.classes)
        return np.bincount(self.label_map.reshape(-1), minlength=count) / self.label_map.size

    def describe(self) -> list[dict[str, Any]]:
        """Return name, share and mean confidence of every class, the largest first, as JSON."""
        order = np.argsort(-self.shares, kind="stable").tolist()
        return [self._described(position) for position in order]

    def _described(self, position: int) -> dict[str, Any]:
        mine = self.confidence[self.label_map == position]
        return {
            "name": self.split.classes[position],
            "value": position,
            "seen": position in self.split.seen,
            "share": float(self.shares[position]),
            "mean_confidence": float(mine.mean()) if mine.size else None,
        }


def write(
    prediction: Prediction, photograph: Image.Image, facts: Mapping[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Publish the four FILES in a folder, all or none; return what the classes got.

    labels.png and confidence.png (0 to 255) have the photograph's size, picture.png its height at
    least: the legend stands beside it. In labels.png a pixel's value is its class's in prediction.json.
    """
    refuse_place(out, FILES)
    classes = prediction.describe()
    split = prediction.split
    shown = [entry["value"] for entry in classes if entry["share"]]
    colours = picture_colours(sorted(shown), split)
    painted = Image.fromarray(prediction.label_map)
    painted.putpalette(_palette(colours))
    blended = Image.blend(photograph, painted.convert("RGB"), _OPACITY)
    confidence = (prediction.confidence * 255).round().clip(0, 255).astype(np.uint8)
    content = {
        **facts,
        "size": {"height": photograph.height, "width": photograph.width},
        "mean_confidence": float(prediction.confidence.mean()),
        "classes": [entry | {"colour": colours.get(entry["value"])} for entry in classes],
    }
    with publish(out) as temporary:
        temporary.mkdir()
        _beside(blended, legend(shown, colours, split)).save(temporary / PICTURE)
        painted.save(temporary / LABELS)
        Image.fromarray(confidence).save(temporary / CONFIDENCE)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / FACTS).write_text(readable(text) + "\n", encoding="utf-8")
    return classes


def _palette(colours: Mapping[int, str]) -> bytes:
    table = np.zeros((256, 3), np.uint8)
    for position, colour in colours.items():
        table[position] = tuple(bytes.fromhex(colour[1:]))
    return table.tobytes()


def _beside(picture: Image.Image, swatches: Sequence[Swatch]) -> Image.Image:
    """Return the picture with the legend to its right, in letters that suit its size."""
    letters = max(12, max(picture.size) // 40)
    font, line = ImageFont.load_default(letters), 2 * letters
    text_width = max(round(font.getlength(swatch.name)) for swatch in swatches)
    height = max(picture.height, line * (len(swatches) + 1))
    whole = Image.new("RGB", (picture.width + text_width + 2 * line, height), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    left = picture.width + letters
    for row, swatch in enumerate(swatches):
        top = letters + row * line
        draw.rectangle((left, top, left + letters, top + letters), fill=swatch.colour)
        draw.text((left + line, top + letters / 2), swatch.name, "black", font, anchor="lm")
    return whole
