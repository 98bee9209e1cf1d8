"""Outlines of the six shapes of the world, as polygons in a unit frame.

The frame is right-facing: u in [-1, 1] from tail to head, v in about [-1, 0.8] downwards, the feet
(or keel) at the largest v. A shape is a list of parts painted in order; the texture covers only
the `COAT`.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
Part = tuple[int, Polygon]

COAT, LIMB, DARK, GLASS, BEAK = 1, 2, 3, 4, 5


def outline(shape: str, *, rng: np.random.Generator) -> list[Part]:
    """The parts of one individual of `shape`: (kind, polygon (n, 2)); poses differ a little."""
    return _OUTLINES[shape](rng)


def _quadruped(rng: np.random.Generator) -> list[Part]:
    swing = rng.uniform(-0.1, 0.1, size=4)
    head_u, head_v = 0.72 + rng.uniform(-0.06, 0.04), -0.48 + rng.uniform(-0.1, 0.22)
    hips = (-0.52, -0.32, 0.2, 0.38)
    legs = [
        (LIMB, _stroke((hip, 0.15), (hip + step, 0.72), width=0.13))
        for hip, step in zip(hips, swing, strict=True)
    ]
    return [
        (LIMB, _stroke((-0.62, -0.15), (-0.9, 0.25), width=0.07)),
        *legs,
        (COAT, _ellipse(-0.1, -0.02, 0.6, 0.34, power=2.6)),
        (COAT, _stroke((0.34, -0.1), (head_u - 0.06, head_v), width=0.3)),
        (COAT, _ellipse(head_u, head_v, 0.26, 0.16)),
        (LIMB, _stroke((head_u - 0.12, head_v - 0.05), (head_u - 0.17, head_v - 0.28), width=0.09)),
        (DARK, _ellipse(head_u + 0.06, head_v - 0.03, 0.04, 0.04)),
        (DARK, _ellipse(head_u + 0.24, head_v + 0.03, 0.05, 0.05)),
    ]


def _bird(rng: np.random.Generator) -> list[Part]:
    tip = rng.uniform(-0.95, -0.55)
    tail = rng.uniform(-0.1, 0.25)
    return [
        (DARK, _stroke((-0.05, 0.3), (-0.08, 0.72), width=0.06)),
        (DARK, _stroke((0.15, 0.3), (0.16, 0.72), width=0.06)),
        (LIMB, _points((-0.35, -0.12), (-0.98, tail - 0.14), (-0.92, tail + 0.14), (-0.35, 0.2))),
        (COAT, _points((-0.3, 0.0), (-0.42, tip), (-0.1, tip + 0.1), (0.3, -0.08))),
        (COAT, _ellipse(0.02, 0.05, 0.54, 0.38)),
        (BEAK, _points((0.66, -0.42), (1.0, -0.28), (0.66, -0.2))),
        (COAT, _ellipse(0.52, -0.32, 0.24, 0.22)),
        (DARK, _ellipse(0.6, -0.36, 0.05, 0.05)),
    ]


def _fish(rng: np.random.Generator) -> list[Part]:
    flick = rng.uniform(-0.12, 0.12)
    height = rng.uniform(0.4, 0.5)
    return [
        (LIMB, _points((-0.4, 0), (-0.98, flick - 0.42), (-0.8, flick), (-0.98, flick + 0.42))),
        (LIMB, _points((-0.2, -0.25), (-0.02, -height - 0.24), (0.32, -0.25))),
        (LIMB, _points((-0.05, 0.25), (-0.15, height + 0.18), (0.22, 0.25))),
        (COAT, _ellipse(0.15, 0, 0.72, height, power=1.8)),
        (BEAK, _ellipse(0.58, -0.1, 0.09, 0.09)),
        (DARK, _ellipse(0.6, -0.1, 0.05, 0.05)),
    ]


def _vehicle(rng: np.random.Generator) -> list[Part]:
    roof = rng.uniform(-0.62, -0.48)
    panes = int(rng.integers(3, 5))
    edges = np.linspace(-0.82, 0.86, panes + 1)
    windows = [
        (GLASS, _box(left + 0.05, roof + 0.1, right - 0.05, roof + 0.32))
        for left, right in pairwise(edges)
    ]
    wheels = [
        (kind, _ellipse(u, 0.44, radius, radius))
        for u in (-0.55, 0.55)
        for kind, radius in ((DARK, 0.2), (GLASS, 0.08))
    ]
    return [
        (COAT, _ellipse(0, (roof + 0.44) / 2, 0.97, (0.44 - roof) / 2, power=9)),
        *windows,
        *wheels,
    ]


def _boat(rng: np.random.Generator) -> list[Part]:
    mast = rng.uniform(-0.2, 0.1)
    top = rng.uniform(-1.0, -0.8)
    return [
        (DARK, _stroke((mast, top), (mast, 0.2), width=0.06)),
        (COAT, _points((mast + 0.06, top), (mast + 0.78, 0.02), (mast + 0.06, 0.02))),
        (LIMB, _points((mast - 0.06, top + 0.15), (mast - 0.5, 0.02), (mast - 0.06, 0.02))),
        (COAT, _points((-0.98, 0.1), (0.98, 0.1), (0.7, 0.55), (-0.72, 0.55))),
        (DARK, _points((-0.98, 0.08), (0.98, 0.08), (0.96, 0.15), (-0.96, 0.15))),
    ]


def _shell(rng: np.random.Generator) -> list[Part]:
    height = rng.uniform(0.85, 1.05)
    turn = np.linspace(np.pi, 2 * np.pi, 25)
    dome = np.stack([0.8 * np.cos(turn) - 0.08, height * np.sin(turn) + 0.45], axis=1)
    legs = [
        (DARK, _stroke((u, 0.4), (u + rng.uniform(-0.08, 0.08), 0.66), width=0.1))
        for u in (-0.55, -0.1, 0.35)
    ]
    return [
        *legs,
        (LIMB, _ellipse(0.76, 0.22, 0.23, 0.2)),
        (COAT, dome),
        (DARK, _ellipse(0.83, 0.16, 0.05, 0.05)),
        (DARK, _stroke((-0.88, 0.45), (0.72, 0.45), width=0.07)),
    ]


_OUTLINES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "quadruped": _quadruped,
    "bird": _bird,
    "fish": _fish,
    "vehicle": _vehicle,
    "boat": _boat,
    "shell": _shell,
}


def _points(*points: tuple[float, float]) -> Polygon:
    return np.array(points, dtype=np.float64)


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return _points((left, top), (right, top), (right, bottom), (left, bottom))


def _ellipse(u: float, v: float, radius_u: float, radius_v: float, *, power: float = 2) -> Polygon:
    """A superellipse: power 2 is an ellipse, a large power a box with round corners."""
    turn = np.linspace(0, 2 * np.pi, 33)[:-1]
    cos, sin = np.cos(turn), np.sin(turn)
    edge_u = np.sign(cos) * np.abs(cos) ** (2 / power)
    edge_v = np.sign(sin) * np.abs(sin) ** (2 / power)
    return np.stack([u + radius_u * edge_u, v + radius_v * edge_v], axis=1)


def _stroke(start: tuple[float, float], end: tuple[float, float], *, width: float) -> Polygon:
    along = np.subtract(end, start)
    across = np.array([-along[1], along[0]]) * (width / 2 / np.hypot(*along))
    return np.stack([start + across, end + across, end - across, start - across])
