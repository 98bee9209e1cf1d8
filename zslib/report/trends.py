"""Figures against K, the number of unseen classes: one line per method over the splits u2, u4, ...

A colour (Okabe and Ito's palette) is a family of methods and the shape of the marks a variant in it; a
transductive line is dashed, the ceiling grey; what has no colour here is black. Each line of the large
chart ends in its name.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zslib.report.leaderboard import METHODS, is_fused
from zslib.report.results import Result
from zslib.report.svg import CEILING, FAINT, chart, hint, line, polyline, shared_top, text, ticks

_FAMILIES = {
    "spnet": "#E69F00",
    "zs3net": "#0072B2",
    "cagnet": "#D55E00",
    "zs5net": "#A6761D",
    "joem": "#009E73",
    "sazs": "#CC79A7",
    "simbaseline": "#56B4E9",
    "supervised": CEILING,
}
_OTHER = "#000000"
"""Of every family that has no colour of its own."""

_MARKS = {
    "disc": None,
    "square": (4, 45),
    "triangle": (3, -90),
    "diamond": (4, 0),
    "wedge": (3, 90),
    "pentagon": (5, -90),
    "arrow": (3, 180),
}
"""Corners, and the direction of the first in degrees, of the shapes that a family's variants take."""

_NAME_GAP = 15
"""Pixels between the middles of two names."""

_LARGE, _SMALL = (700, 348, 150), (372, 152, 22)
"""Width, height, and what of the width is right of the last K."""


@dataclass(frozen=True)
class Style:
    """How a method's line looks."""

    colour: str
    mark: str
    dashed: bool

    @classmethod
    def of(cls, method: str, setting: str) -> "Style":
        """Return the style of a row of the leaderboard."""
        inductive = method.removesuffix("+st")
        colour = _colour(inductive)
        alike = [name for name in METHODS if "+" not in name and _colour(name) == colour]
        mark = [*_MARKS][alike.index(inductive) % len(_MARKS)]
        return cls(colour, mark, setting == "transductive")


@dataclass(frozen=True)
class Trend:
    """One figure of one method, by K."""

    title: str
    style: Style
    points: tuple[tuple[int, float], ...]


def unseen_count(split: str) -> int | None:
    """Return K of a split that is named for it (u4), None of another (fold0)."""
    match = re.fullmatch(r"u(\d+)", split)
    return int(match[1]) if match else None


def trends(results: Sequence[Result], figure: str) -> list[Trend]:
    """Return a figure of all but official and fused rows, one trend per method, ordered by K."""
    found: dict[tuple[str, Style], dict[int, float]] = {}
    for result in results:
        count = unseen_count(result.split.name)
        if count is not None and not (result.is_official or is_fused(result.scores.method)):
            style = Style.of(result.scores.method, result.scores.setting)
            points = found.setdefault((result.title, style), {})
            points[count] = getattr(result.scores, figure)
    return [
        Trend(title, style, tuple(sorted(points.items())))
        for (title, style), points in found.items()
    ]


def trend_charts(results: Sequence[Result]) -> list[tuple[str, Markup]]:
    """Return titled charts: hIoU, large and with names, then seen and unseen mIoU on one scale.

    There are none where fewer than two splits are named for their K.
    """
    counts = sorted({k for r in results if (k := unseen_count(r.split.name)) is not None})
    if len(counts) < 2:
        return []
    hiou, seen, unseen = (trends(results, name) for name in ("hiou", "miou_seen", "miou_unseen"))
    top = shared_top([value for trend in seen + unseen for _, value in trend.points])
    return [
        ("hIoU", _chart("hIoU against K", hiou, counts, top=_top(hiou), named=True)),
        ("mIoU seen", _chart("Seen mIoU against K", seen, counts, top=top, named=False)),
        ("mIoU unseen", _chart("Unseen mIoU against K", unseen, counts, top=top, named=False)),
    ]


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move ascending places as little as need be: `gap` apart, and within [low, high] if they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    limit = high
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def names(
    ends: Sequence[tuple[tuple[float, float], str, str]], right: float, upper: float, lower: float
) -> list[str]:
    """Names to the right of points, each led to by a thin line of its colour.

    `ends` holds (point, name, colour); the names stand right of `right`, within [upper, lower].
    """
    ordered = sorted(ends, key=lambda end: end[0][1])
    places = spread([y for (_, y), *_ in ordered], gap=_NAME_GAP, low=upper, high=lower)
    parts = []
    for ((x, y), name, colour), place in zip(ordered, places, strict=True):
        parts.append(polyline([(x + 7, y), (right + 12, y), (right + 24, place)], colour, 1))
        parts.append(text(right + 28, place + 4, name, "name", "start"))
    return parts


def mark(kind: str, x: float, y: float, radius: float, paint: str, words: str) -> str:
    """Return a mark of a style, with what the pointer is told over it; all kinds look equally large."""
    if (corners := _MARKS[kind]) is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {paint}>{words}</circle>'
    count, first = corners
    angles = [math.radians(first + 360 * i / count) for i in range(count)]
    outer = 1.27 * radius
    points = " ".join(
        f"{x + outer * math.cos(a):.1f},{y + outer * math.sin(a):.1f}" for a in angles
    )
    return f'<polygon points="{points}" {paint}>{words}</polygon>'


def _colour(method: str) -> str:
    return _FAMILIES.get(method.split("-")[0], _OTHER)


def _top(lines: Sequence[Trend]) -> float:
    return shared_top([value for trend in lines for _, value in trend.points])


def _chart(
    title: str, lines: Sequence[Trend], counts: Sequence[int], *, top: float, named: bool
) -> Markup:
    width, height, margin = _LARGE if named else _SMALL
    left, right, upper, lower = 34, width - margin, 12, height - 34

    def place(count: int, value: float) -> tuple[float, float]:
        across = (count - counts[0]) / (counts[-1] - counts[0])
        return left + (right - left) * across, lower - (lower - upper) * value / top

    parts = []
    for tick in ticks(top):
        _, y = place(counts[0], tick)
        parts += [line(left, y, right, y, FAINT)]
        parts += [text(left - 8, y + 4, f"{100 * tick:.0f}", "tick", "end")]
    for count in counts:
        x, _ = place(count, 0)
        parts.append(text(x, lower + 18, f"K = {count}", "tick", "middle"))
    ends = []
    for trend in lines:
        points = [place(*point) for point in trend.points]
        parts += _drawn(trend, points)
        ends.append((points[-1], trend.title, trend.style.colour))
    return chart(width, height, title, parts + (names(ends, right, upper, lower) if named else []))


def _drawn(trend: Trend, points: Sequence[tuple[float, float]]) -> list[str]:
    """A line with a mark on every point that was measured."""
    style = trend.style
    parts = [polyline(points, style.colour, 2.2, dash="6 4" if style.dashed else "")]
    for (count, value), (x, y) in zip(trend.points, points, strict=True):
        words = hint(f"{trend.title}, K = {count}: {100 * value:.1f} %")
        paint = f'fill="{"white" if style.dashed else style.colour}" stroke="{style.colour}"'
        parts.append(mark(style.mark, x, y, 4.4, f'{paint} stroke-width="1.6"', words))
    return parts
