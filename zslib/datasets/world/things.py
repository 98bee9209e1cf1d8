"""One thing as a small picture: its outline, its coat, its colours, antialiased."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zslib.datasets.world.facts import Thing
from zslib.datasets.world.shapes import BEAK, COAT, DARK, GLASS, LIMB, outline

Plane = NDArray[np.floating]
Mask = NDArray[np.bool_]

SUPERSAMPLING = 2
"""Samples per pixel and direction; `_reduced` is written for two."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (236, 234, 228),
    "black": (36, 34, 38),
    "grey": (134, 136, 142),
    "brown": (122, 76, 40),
    "orange": (234, 128, 30),
    "yellow": (236, 206, 64),
    "red": (198, 38, 36),
    "blue": (48, 84, 190),
    "green": (52, 138, 62),
}

_FIXED = {DARK: (28, 28, 32), GLASS: (176, 206, 222), BEAK: (240, 196, 90)}


@dataclass(frozen=True)
class Sprite:
    """A drawn thing: colour (n, n, 3), already multiplied by its alpha (n, n) in [0, 1]."""

    colour: Plane
    alpha: Plane


def draw_thing(
    thing: Thing, *, half_length: float, angle: float, flip: bool, rng: np.random.Generator
) -> Sprite:
    """Draw one individual `2 * half_length` pixels long, turned by `angle` radians."""
    half = int(np.ceil(1.2 * half_length))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    frame = turn @ np.diag([-1.0 if flip else 1.0, 1.0]) * half_length
    kinds = _paint_parts(thing.shape, frame, half, rng)
    pixels = _colours(thing, rng)[kinds]
    u, v = _unit_grid(frame, half)
    marked = (kinds == COAT) & pattern(thing.texture, u, v, rng=rng)
    pixels[marked] = _jittered(COLOURS.get(thing.marks, (0, 0, 0)), rng)
    pixels *= (1.0 - 0.22 * np.clip(v, -0.8, 0.8))[..., None]
    alpha = (kinds > 0).astype(np.float32)
    return Sprite(colour=_reduced(pixels * alpha[..., None]), alpha=_reduced(alpha))


def pattern(texture: str, u: Plane, v: Plane, *, rng: np.random.Generator) -> Mask:
    """Where the marks of `texture` lie, for unit-frame coordinates u, v of any one shape (...)."""
    phase_u, phase_v = rng.uniform(0, 2 * np.pi, size=2)
    pitch = rng.uniform(0.9, 1.12)
    if texture == "striped":
        stripes: Plane = np.sin(18 * pitch * u + 0.9 * np.sin(3 * v + phase_v) + phase_u)
        return stripes > 0.1
    if texture == "checked":
        checks: Plane = np.sin(11 * pitch * u + phase_u) * np.sin(11 * pitch * v + phase_v)
        return checks > 0
    if texture == "spotted":
        return _spots(u * pitch / 0.34 + phase_u, v * pitch / 0.3 + phase_v)
    if texture == "patched":
        return _patches(u, v, rng)
    return np.zeros(u.shape, dtype=bool)


def _spots(u: Plane, v: Plane) -> Mask:
    """Round dots on a lattice whose every other row is shifted by half a step."""
    row = np.floor(v)
    column = u + 0.5 * (row % 2)
    radius: Plane = np.hypot(column - np.floor(column) - 0.5, 0.88 * (v - row - 0.5))
    return radius < 0.3


def _patches(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    """A few large blobs: a sum of slow waves above a threshold."""
    field = np.zeros_like(u)
    for _ in range(4):
        wave_u, wave_v = rng.uniform(3.0, 6.5, size=2) * rng.choice([-1, 1], size=2)
        field += np.sin(wave_u * u + wave_v * v + rng.uniform(0, 2 * np.pi))
    return field > 0.3


def _paint_parts(
    shape: str, frame: NDArray[np.float64], half: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    canvas = Image.new("L", (2 * half * SUPERSAMPLING,) * 2, 0)
    brush = ImageDraw.Draw(canvas)
    for kind, polygon in outline(shape, rng=rng):
        placed = (polygon @ frame.T + half) * SUPERSAMPLING
        brush.polygon([tuple(point) for point in placed.tolist()], fill=kind)
    return np.asarray(canvas)


def _unit_grid(frame: NDArray[np.float64], half: int) -> tuple[Plane, Plane]:
    steps = ((np.arange(2 * half * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - half).astype(np.float32)
    inverse = np.linalg.inv(frame).astype(np.float32)
    x, y = steps[None, :], steps[:, None]
    return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def _colours(thing: Thing, rng: np.random.Generator) -> Plane:
    """Part kind -> colour (6, 3)."""
    table = np.zeros((6, 3), dtype=np.float32)
    table[COAT] = _jittered(COLOURS[thing.colour], rng)
    table[LIMB] = 0.82 * table[COAT]
    for kind, colour in _FIXED.items():
        table[kind] = colour
    return table


def _jittered(colour: tuple[int, int, int], rng: np.random.Generator) -> Plane:
    """The colour of this individual: lighter or darker, and a little off in hue."""
    jittered = np.array(colour) * rng.uniform(0.84, 1.14) + rng.normal(0, 9, size=3)
    clipped: Plane = np.clip(jittered, 8, 255).astype(np.float32)
    return clipped


def _reduced(plane: Plane) -> Plane:
    """Average blocks of 2 x 2 samples into pixels; slices are faster than a mean over axes."""
    rows = plane[0::2] + plane[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
