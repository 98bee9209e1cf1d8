"""Charts as inline SVG: bars with intervals, curves of a choice. Nothing is loaded.

Colours are of Okabe and Ito's palette, which colour-blind readers tell apart too; what a
colour says is always said by a place or a label as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

SEEN, UNSEEN, HARMONIC = "#0072B2", "#D55E00", "#5B4B8A"
_CEILING, _INK, _FAINT = "#b9b9b3", "#22252b", "#e4e2dc"
_WIDTH = 372


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; `low` and `high` bound its interval."""

    label: str
    note: str
    kind: str
    """clean, official or ceiling."""
    value: float
    low: float
    high: float


def bar_chart(title: str, colour: str, bars: Sequence[Bar], *, top: float) -> Markup:
    """Return horizontal bars from 0 to `top`, each with its interval and its value in percent."""
    left, right, row, head = 106, _WIDTH - 46, 34, 16
    height = head + row * len(bars) + 6
    parts = []
    for tick in _ticks(top):
        x = left + (right - left) * tick / top
        parts.append(_line(x, head, x, height - 6, _FAINT))
        parts.append(_text(x, head - 5, f"{100 * tick:.0f}", "tick", "middle"))
    for index, bar in enumerate(bars):
        middle = head + row * (index + 0.5)
        parts += _bar(bar, colour, middle, lambda v: left + (right - left) * min(v, top) / top)
        parts.append(_text(_WIDTH, middle + 4, f"{100 * bar.value:.1f}", "value", "end"))
    return _svg(_WIDTH, height, title, parts)


def shared_top(values: Sequence[float]) -> float:
    """Return the end of an axis that holds all values: the next tenth, at least 0.2."""
    return max(0.2, math.ceil(max(values, default=0) * 10 - 1e-9) / 10)


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
    for tick in _ticks(top):
        y = lower - (lower - upper) * tick / top
        parts.append(_line(left, y, right, y, _FAINT))
        parts.append(_text(left - 6, y + 4, f"{100 * tick:.0f}", "tick", "end"))
    for index in _labelled(len(candidates)):
        x = left + (right - left) * place[index]
        parts.append(_text(x, lower + 16, f"{candidates[index]:g}", "tick", "middle"))
    parts += [_polyline(points(curve), "#b8b3a8", 1.2) for curve in curves]
    parts.append(_polyline(points(mean), HARMONIC, 2.4))
    x, y = points(mean)[list(candidates).index(chosen)]
    parts.append(_line(x, y, x, lower, UNSEEN, dash="3 3"))
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{UNSEEN}" stroke="white"/>')
    anchor = "start" if x < left + 60 else "end" if x > right - 60 else "middle"
    parts.append(_text(x, upper - 10, f"chosen {chosen:g}", "chosen", anchor))
    return _svg(_WIDTH, lower + 24, title, parts)


def _bar(bar: Bar, colour: str, middle: float, x_of: Callable[[float], float]) -> list[str]:
    start, end, low, high = map(x_of, (0, bar.value, bar.low, bar.high))
    fill = _CEILING if bar.kind == "ceiling" else colour
    # The released code's rows are hollow: they are not to be ranked with the clean ones.
    hollow = f'fill-opacity="0.18" stroke="{fill}" stroke-dasharray="4 2"'
    style = hollow if bar.kind == "official" else ""
    hint = (
        f"{bar.label}: {100 * bar.value:.1f} %, 95 % interval {100 * bar.low:.1f} to "
        f"{100 * bar.high:.1f} %"
    )
    return [
        _text(0, middle - 1 if bar.note else middle + 4, bar.label, "label", "start"),
        _text(0, middle + 10, bar.note, "note", "start"),
        f'<rect x="{start:.1f}" y="{middle - 9:.1f}" width="{end - start:.1f}" height="18" rx="2" '
        f'fill="{fill}" {style}><title>{escape(hint)}</title></rect>',
        _line(low, middle, high, middle, "white", width=4.5),
        _line(low, middle, high, middle, _INK, width=1.6),
        _line(low, middle - 4, low, middle + 4, _INK, width=1.6),
        _line(high, middle - 4, high, middle + 4, _INK, width=1.6),
    ]


def _positions(candidates: Sequence[float]) -> list[float]:
    """Places in [0, 1]: logarithmic where the candidates are spread over more than a decade."""
    low, high = min(candidates), max(candidates)
    if low > 0 and high / low > 15:
        low, high, candidates = math.log(low), math.log(high), [math.log(c) for c in candidates]
    return [(c - low) / ((high - low) or 1) for c in candidates]


def _labelled(count: int) -> range:
    """Which candidates get a label: all of a few, every fifth of many."""
    return range(0, count, 1 if count <= 9 else math.ceil((count - 1) / 5))


def _ticks(top: float) -> list[float]:
    step = 0.2 if top > 0.5 else 0.1
    return [step * i for i in range(int(top / step + 1e-9) + 1)]


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dash: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
    )


def _polyline(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
        'stroke-linejoin="round"/>'
    )


def _text(x: float, y: float, text: str, role: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{role}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
