"""Stuff of the world: sky, forest, grass, sand, snow, water and road, painted over regions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.floating]

_PALETTE: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "sky": ((122, 172, 226), (238, 240, 244)),
    "forest": ((30, 66, 40), (70, 104, 50)),
    "grass": ((96, 150, 58), (142, 180, 82)),
    "sand": ((206, 178, 124), (228, 206, 160)),
    "snow": ((224, 230, 240), (196, 208, 228)),
    "water": ((38, 98, 142), (88, 152, 184)),
    "road": ((98, 98, 104), (124, 124, 128)),
}


def paint_stuff(name: str, *, height: int, width: int, rng: np.random.Generator) -> Plane:
    """A picture (height, width, 3), values 0-255, covered with the stuff `name`."""
    dark, light = (
        np.array(colour) + rng.normal(0, 9, size=3) + rng.normal(0, 8) for colour in _PALETTE[name]
    )
    blend = np.clip(_BLENDS[name](height, width, rng), 0, 1)[..., None]
    picture: Plane = (dark + (light - dark) * blend).astype(np.float32)
    if name == "road":
        _mark_lane(picture, rng)
    return picture


def soft_noise(
    height: int, width: int, *, cell: tuple[float, float], rng: np.random.Generator
) -> Plane:
    """Smooth noise (height, width) in about [0, 1]; a grain is `cell` = (rows, columns) pixels."""
    rows, columns = (
        max(2, round(side / size)) for side, size in zip((height, width), cell, strict=True)
    )
    coarse = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    noise: Plane = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return noise


def _sky(height: int, width: int, rng: np.random.Generator) -> Plane:
    clouds = soft_noise(height, width, cell=(10, 26), rng=rng)
    haze = np.linspace(0, rng.uniform(0.2, 0.9), height, dtype=np.float32)[:, None]
    cover: Plane = np.clip(3 * (clouds - rng.uniform(0.5, 0.9)), 0, 1)
    return cover + haze


def _forest(height: int, width: int, rng: np.random.Generator) -> Plane:
    leaves = soft_noise(height, width, cell=(4, 4), rng=rng)
    trunks = soft_noise(height, width, cell=(50, 3), rng=rng)
    return 1.3 * leaves - 0.9 * (trunks > 0.72)


def _grass(height: int, width: int, rng: np.random.Generator) -> Plane:
    blades = soft_noise(height, width, cell=(4, 1.3), rng=rng)
    return 0.65 * blades + 0.6 * soft_noise(height, width, cell=(14, 22), rng=rng)


def _sand(height: int, width: int, rng: np.random.Generator) -> Plane:
    rows = np.arange(height, dtype=np.float32)[:, None]
    drift = 14 * soft_noise(height, width, cell=(30, 30), rng=rng)
    ripples: Plane = np.sin((rows + drift) * rng.uniform(0.7, 1.0))
    return 0.5 + 0.3 * ripples + 0.4 * (soft_noise(height, width, cell=(1, 1), rng=rng) - 0.5)


def _snow(height: int, width: int, rng: np.random.Generator) -> Plane:
    return 1.5 * soft_noise(height, width, cell=(12, 24), rng=rng) - 0.3


def _water(height: int, width: int, rng: np.random.Generator) -> Plane:
    waves = soft_noise(height, width, cell=(2, 11), rng=rng)
    return 1.3 * waves - 0.35 + 0.3 * soft_noise(height, width, cell=(30, 30), rng=rng)


def _road(height: int, width: int, rng: np.random.Generator) -> Plane:
    return soft_noise(height, width, cell=(1, 1), rng=rng)


_BLENDS: dict[str, Callable[[int, int, np.random.Generator], Plane]] = {
    "sky": _sky,
    "forest": _forest,
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "road": _road,
}


def _mark_lane(picture: Plane, rng: np.random.Generator) -> None:
    """Dashes of white paint along one row."""
    height, width, _ = picture.shape
    row = int(rng.integers(height // 2, height - 4))
    dashes = (np.arange(width) + rng.integers(24)) % 24 < 13
    picture[row : row + 3, dashes] = 214 + rng.normal(0, 6)
