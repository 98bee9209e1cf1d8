"""Charts of one split: bars with intervals, curves of a choice.

Colours are of Okabe and Ito's palette, which colour-blind readers tell apart too; what a
colour says is always said by a place or a label as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zslib.report.svg import (
    CEILING,
    FAINT,
    INK,
    chart,
    hint,
    line,
    polyline,
    shared_top,
    text,
    ticks,
)

SEEN, UNSEEN, HARMONIC = "#0072B2", "#D55E00", "#5B4B8A"
_WIDTH = 372
_LABEL, _LETTER = 106, 8.2
"""Pixels left of the bars: so many at least, and so many per letter of the longest name."""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; `low` and `high` bound its interval."""

    label: str
    note: str
    kind: str
    """clean, transductive, official or ceiling."""
    value: float
    low: float
    high: float


def bar_chart(title: str, colour: str, bars: Sequence[Bar], *, top: float) -> Markup:
    """Return horizontal bars from 0 to `top`, each with its interval and its value in percent."""
    left = max(_LABEL, _LETTER * max(len(bar.label) for bar in bars))
    right, row, head = _WIDTH - 46, 34, 16
    height = head + row * len(bars) + 6
    parts = []
    for tick in ticks(top):
        x = left + (right - left) * tick / top
        parts.append(line(x, head, x, height - 6, FAINT))
        parts.append(text(x, head - 5, f"{100 * tick:.0f}", "tick", "middle"))
    for index, bar in enumerate(bars):
        middle = head + row * (index + 0.5)
        parts += _bar(bar, colour, middle, lambda v: left + (right - left) * min(v, top) / top)
        parts.append(text(_WIDTH, middle + 4, f"{100 * bar.value:.1f}", "value", "end"))
    return chart(_WIDTH, height, title, parts)


def curve_chart(
    title: str,
    candidates: Sequence[float],
    curves: Sequence[Sequence[float]],
    *,
    chosen: float,
) -> Markup:
    """Return one faint curve per draw, their mean, and a mark on the chosen candidate."""
    left, right, upper, lower = 38, _WIDTH - 12, 24, 190
    mean = [sum(column) / len(column) for column in zip(*curves, strict=True)]
    top = shared_top([value for curve in curves for value in curve])
    place = _positions(candidates)

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        xs = [left + (right - left) * p for p in place]
        return [(x, lower - (lower - upper) * v / top) for x, v in zip(xs, values, strict=True)]

    parts = []
    for tick in ticks(top):
        y = lower - (lower - upper) * tick / top
        parts.append(line(left, y, right, y, FAINT))
        parts.append(text(left - 6, y + 4, f"{100 * tick:.0f}", "tick", "end"))
    for index in _labelled(len(candidates)):
        x = left + (right - left) * place[index]
        parts.append(text(x, lower + 16, f"{candidates[index]:g}", "tick", "middle"))
    parts += [polyline(points(curve), "#b8b3a8", 1.2) for curve in curves]
    parts.append(polyline(points(mean), HARMONIC, 2.4))
    x, y = points(mean)[list(candidates).index(chosen)]
    parts.append(line(x, y, x, lower, UNSEEN, dash="3 3"))
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{UNSEEN}" stroke="white"/>')
    anchor = "start" if x < left + 60 else "end" if x > right - 60 else "middle"
    parts.append(text(x, upper - 10, f"chosen {chosen:g}", "chosen", anchor))
    return chart(_WIDTH, lower + 24, title, parts)


def _bar(bar: Bar, colour: str, middle: float, x_of: Callable[[float], float]) -> list[str]:
    start, end, low, high = map(x_of, (0, bar.value, bar.low, bar.high))
    words = (
        f"{bar.label}: {100 * bar.value:.1f} %, 95 % interval {100 * bar.low:.1f} to "
        f"{100 * bar.high:.1f} %"
    )
    return [
        text(0, middle - 1 if bar.note else middle + 4, bar.label, "label", "start"),
        text(0, middle + 10, bar.note, "note", "start"),
        f'<rect x="{start:.1f}" y="{middle - 9:.1f}" width="{end - start:.1f}" height="18" rx="2" '
        f"{_fill(bar.kind, colour)}>{hint(words)}</rect>",
        line(low, middle, high, middle, "white", width=4.5),
        line(low, middle, high, middle, INK, width=1.6),
        line(low, middle - 4, low, middle + 4, INK, width=1.6),
        line(high, middle - 4, high, middle + 4, INK, width=1.6),
    ]


def _fill(kind: str, colour: str) -> str:
    """Rows that are not to be ranked with the clean inductive ones look less solid."""
    match kind:
        case "ceiling":
            return f'fill="{CEILING}"'
        case "transductive":
            return f'fill="{colour}" fill-opacity="0.45" stroke="{colour}"'
        case "official":
            return f'fill="{colour}" fill-opacity="0.15" stroke="{colour}" stroke-dasharray="4 2"'
    return f'fill="{colour}"'


def _positions(candidates: Sequence[float]) -> list[float]:
    """Places in [0, 1]: logarithmic where the candidates are spread over more than a decade."""
    low, high = min(candidates), max(candidates)
    if low > 0 and high / low > 15:
        low, high, candidates = math.log(low), math.log(high), [math.log(c) for c in candidates]
    return [(c - low) / ((high - low) or 1) for c in candidates]


def _labelled(count: int) -> range:
    """Which candidates get a label: all of a few, every fifth of many."""
    return range(0, count, 1 if count <= 9 else math.ceil((count - 1) / 5))
