"""The strokes that every chart is drawn with: inline SVG as text, nothing is loaded."""

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

INK, FAINT, CEILING = "#22252b", "#e4e2dc", "#b9b9b3"


def shared_top(values: Sequence[float]) -> float:
    """Return the end of an axis that holds all values: the next tenth, at least 0.2."""
    return max(0.2, math.ceil(max(values, default=0) * 10 - 1e-9) / 10)


def ticks(top: float) -> list[float]:
    """Return the round values from 0 to `top` that an axis names."""
    step = 0.2 if top > 0.5 else 0.1
    return [step * i for i in range(int(top / step + 1e-9) + 1)]


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dash: str = ""
) -> str:
    """Return one straight line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width:g}"{_dashed(dash)}/>'
    )


def polyline(
    points: Sequence[tuple[float, float]], colour: str, width: float, *, dash: str = ""
) -> str:
    """Return a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-linejoin="round"{_dashed(dash)}/>'
    )


def text(x: float, y: float, words: str, role: str, anchor: str) -> str:
    """Return words; `role` is their class in the page's style sheet."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{role}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def hint(words: str) -> str:
    """Return what the pointer is told over the shape that this stands in."""
    return f"<title>{escape(words)}</title>"


def chart(width: float, height: float, title: str, parts: Sequence[str]) -> Markup:
    """Return a drawing that scales to its place in the page; `title` is read out."""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""
