"""Confusion matrices as heat maps: rows are the truth and sum to 100 %, unseen classes first."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int64, UInt8
from markupsafe import Markup
from PIL import Image

from zslib.benchmark import Split
from zslib.report.charts import UNSEEN

_SIDE = 512
"""Two heat maps stand side by side in a page 1280 pixels wide; larger ones scroll."""

_NO_TRUTH = (240, 238, 233)
_RAMP = np.array(
    [[255, 255, 255], [222, 235, 247], [158, 202, 225], [66, 146, 198], [8, 81, 156], [4, 30, 66]]
)
"""ColorBrewer's Blues, lengthened towards black; even steps of lightness."""


@dataclass(frozen=True)
class Destination:
    """Where an unseen class's pixels went: (class, share, is it the right one), largest first."""

    name: str
    shares: tuple[tuple[str, float, bool], ...]


def row_normalised(
    matrix: Int64[np.ndarray, "c c"], ids: Sequence[int]
) -> Float[np.ndarray, "k k"]:
    """Return the rows and columns `ids`, each row divided by its sum; NaN for an absent class."""
    part = matrix[np.ix_(ids, ids)].astype(float)
    total = part.sum(1, keepdims=True)
    return np.divide(part, total, out=np.full_like(part, np.nan), where=total > 0)


def destinations(matrix: Int64[np.ndarray, "c c"], split: Split, *, top: int) -> list[Destination]:
    """Return the most frequent predictions on the pixels of each unseen class."""
    ids = [*split.unseen, *split.seen]
    shares = row_normalised(matrix, ids)
    found = []
    for row, true_id in enumerate(split.unseen):
        order = np.argsort(-np.nan_to_num(shares[row]), kind="stable")[:top]
        largest = tuple(
            (split.classes[ids[c]], float(shares[row, c]), ids[c] == true_id)
            for c in order
            if shares[row, c] >= 0.005
        )
        found.append(Destination(split.classes[true_id], largest))
    return found


def heat_map(title: str, matrix: Int64[np.ndarray, "c c"], split: Split) -> Markup:
    """Return a labelled heat map as SVG; the picture inside is one PNG pixel per cell."""
    ids = [*split.unseen, *split.seen]
    names = [split.classes[c] for c in ids]
    shares = row_normalised(matrix, ids)
    font = min(11.0, max(9.0, 440 / len(ids)))
    margin = 8 + 0.58 * font * max(map(len, names))
    cell = max(9.0, min(24.0, (_SIDE - margin) / len(ids)))
    side = cell * len(ids)
    size = margin + side + 1
    edge = margin + cell * len(split.unseen)
    parts = [
        f'<image x="{margin:.1f}" y="{margin:.1f}" width="{side:.1f}" height="{side:.1f}" '
        f'preserveAspectRatio="none" href="{_png(colours(shares))}"/>',
        f'<rect x="{margin:.1f}" y="{margin:.1f}" width="{side:.1f}" height="{side:.1f}" '
        'fill="none" stroke="#9a958a"/>',
    ]
    if split.unseen:
        parts.append(
            f'<path d="M{edge:.1f} {margin:.1f}V{margin + side:.1f}M{margin:.1f} {edge:.1f}'
            f'H{margin + side:.1f}" stroke="{UNSEEN}" stroke-width="1.2"/>'
        )
    for index, name in enumerate(names):
        parts += _labels(name, margin, margin + cell * (index + 0.5), index < len(split.unseen))
    values = ";".join(" ".join(_per_mille(v) for v in row) for row in shares)
    return Markup(
        f'<svg class="matrix" viewBox="0 0 {size:.1f} {size:.1f}" style="width:{size:.0f}px" '
        f'font-size="{font:.1f}" role="img" aria-label="{escape(title)}" '
        f'data-names="{escape("|".join(names))}" data-values="{values}" '
        f'data-origin="{margin:.1f}" data-cell="{cell:.4f}">{"".join(parts)}</svg>'
    )


def colours(shares: Float[np.ndarray, "k k"]) -> UInt8[np.ndarray, "k k 3"]:
    """Return the colour of each share: white to dark blue over its square root, grey for absent."""
    place = np.sqrt(np.nan_to_num(shares)) * (len(_RAMP) - 1)
    below = np.minimum(place.astype(int), len(_RAMP) - 2)
    fraction = (place - below)[..., None]
    rgb = _RAMP[below] * (1 - fraction) + _RAMP[below + 1] * fraction
    rgb[np.isnan(shares)] = _NO_TRUTH
    return rgb.round().astype(np.uint8)


def _labels(name: str, margin: float, middle: float, unseen: bool) -> list[str]:
    style = f' fill="{UNSEEN}" font-weight="700"' if unseen else ""
    text = escape(name)
    row, column = f'x="{margin - 4:.1f}" y="{middle:.1f}"', f"{middle:.1f} {margin - 4:.1f}"
    return [
        f'<text {row} dy=".35em" text-anchor="end"{style}>{text}</text>',
        f'<text transform="translate({column}) rotate(-90)" dy=".35em"{style}>{text}</text>',
    ]


def _per_mille(share: float) -> str:
    return "" if np.isnan(share) else str(round(1000 * share))


def _png(pixels: UInt8[np.ndarray, "k k 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
