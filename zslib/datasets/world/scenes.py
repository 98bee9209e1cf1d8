"""Scenes of the world (DESIGN §5): stuff in wavy bands, with things standing or swimming in it.

A scene is a pure function of its generator and of the thing it is about. Values of the label map
are class ids; a line of about one pixel around each thing is void, as in Pascal VOC.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.world.facts import CLASS_ID, FACTS, NEIGHBOURS, THINGS, Thing
from zslib.datasets.world.stuff import paint_stuff, soft_noise
from zslib.datasets.world.things import draw_thing

Plane = NDArray[np.floating]
LabelMap = NDArray[np.uint8]

SIZES = ((96, 96), (96, 128), (128, 96))
"""(height, width) of the pictures, a third each."""

MIN_VISIBLE = 30
"""Pixels that must be left of a thing for a caption to mention it."""


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3), its label map (H, W), and what a caption may mention, in class order."""

    image: NDArray[np.uint8]
    label_map: LabelMap
    things: tuple[str, ...]
    stuff: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    """Bands of stuff from top to bottom; `tops` (bands, width) are their upper edges in pixels."""

    bands: tuple[str, ...]
    tops: NDArray[np.float64]
    height: int
    width: int

    def extent(self, band: int) -> tuple[float, float]:
        ends = [*self.tops.mean(axis=1)[1:], self.height]
        return max(0.0, float(self.tops[band].mean())), float(ends[band])


@dataclass(frozen=True)
class _Placed:
    """A thing and the centre of its frame, in pixels."""

    thing: Thing
    half_length: float
    x: float
    y: float

    @property
    def foot(self) -> float:
        return self.y + 0.65 * self.half_length


def draw_scene(about: str, *, rng: np.random.Generator) -> Scene:
    """Draw one scene that shows the thing class `about`, usually where it lives and in company."""
    layout = _choose_layout(FACTS[about], rng)
    image, label_map = _paint_bands(layout, rng)
    _scatter_clutter(image, rng)
    for placed in _place_all(_choose_company(about, layout, rng), layout, rng):
        _add(placed, image, label_map, rng)
    return Scene(
        image=_photographed(image, rng),
        label_map=label_map,
        things=_visible(THINGS, label_map, at_least=MIN_VISIBLE),
        stuff=_visible(layout.bands, label_map, at_least=label_map.size // 40),
    )


def _choose_layout(about: Thing, rng: np.random.Generator) -> _Layout:
    """Two or three kinds of stuff: sky (mostly), the ground, a second ground above or below it."""
    height, width = SIZES[rng.integers(len(SIZES))]
    grounds = tuple(NEIGHBOURS)
    ground = about.habitat if rng.random() < 0.85 else grounds[rng.integers(len(grounds))]
    second = NEIGHBOURS[ground][rng.integers(len(NEIGHBOURS[ground]))]
    with_sky, above = rng.random() < 0.75, rng.random() < 0.5
    bands = [ground]
    if not with_sky or rng.random() < 0.5:
        bands.insert(0 if above or second == "forest" else 1, second)
    if with_sky:
        bands.insert(0, "sky")
    tops = _wavy_tops(len(bands), height, width, rng)
    return _Layout(bands=tuple(bands), tops=tops, height=height, width=width)


def _wavy_tops(
    bands: int, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    columns = np.arange(width)
    tops = [np.full(width, -1.0)]
    for start in (0.38,) if bands == 2 else (0.27, 0.6):
        top = height * (start + rng.uniform(-0.1, 0.1)) + rng.uniform(-0.07, 0.07) * columns
        for _ in range(2):
            slow = rng.uniform(7, 26)
            top = top + rng.uniform(0.5, 3.0) * np.sin(columns / slow + rng.uniform(0, 6.3))
        tops.append(top)
    return np.stack(tops)


def _paint_bands(layout: _Layout, rng: np.random.Generator) -> tuple[Plane, LabelMap]:
    image = np.zeros((layout.height, layout.width, 3), dtype=np.float32)
    label_map = np.zeros((layout.height, layout.width), dtype=np.uint8)
    rows = np.arange(layout.height)[:, None]
    for name, top in zip(layout.bands, layout.tops, strict=True):
        below = rows >= top
        image[below] = paint_stuff(name, height=layout.height, width=layout.width, rng=rng)[below]
        label_map[below] = CLASS_ID[name]
    return image, label_map


def _scatter_clutter(image: Plane, rng: np.random.Generator) -> None:
    """Rocks and litter: small nameless blobs that belong to the stuff they lie on."""
    height, width, _ = image.shape
    for _ in range(rng.integers(0, 6)):
        canvas = Image.new("L", (width, height), 0)
        x, y, radius = rng.uniform(0, width), rng.uniform(0.4 * height, height), rng.uniform(1.5, 5)
        turns = np.sort(rng.uniform(0, 2 * np.pi, size=7))
        corners = np.stack([x + 1.4 * radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
        image[np.asarray(canvas) > 0] = rng.uniform(50, 190) + rng.normal(0, 14, size=3)


def _choose_company(about: str, layout: _Layout, rng: np.random.Generator) -> list[Thing]:
    """The scene's own thing and up to three more, most of which live in this kind of place."""
    at_home = [name for name in THINGS if FACTS[name].habitat in layout.bands]
    company = [about]
    for _ in range(rng.choice(4, p=[0.25, 0.4, 0.25, 0.1])):
        choices = at_home if at_home and rng.random() < 0.7 else THINGS
        company.append(choices[rng.integers(len(choices))])
    return [FACTS[name] for name in company]


def _place_all(things: list[Thing], layout: _Layout, rng: np.random.Generator) -> list[_Placed]:
    """Give each thing a size and a place with little overlap; the nearest (lowest) come last."""
    placed: list[_Placed] = []
    for thing in things:
        placed.append(_place_apart(thing, placed, layout, rng))
    return sorted(placed, key=lambda one: one.foot)


def _place_apart(
    thing: Thing, others: list[_Placed], layout: _Layout, rng: np.random.Generator
) -> _Placed:
    """Try a few places; take the first that is nearly free, else the least crowded."""
    crowded: list[tuple[float, _Placed]] = []
    for _ in range(8):
        here = _place(thing, layout, rng)
        share = sum(_overlap(here, other) for other in others)
        if share < 0.2:
            return here
        crowded.append((share, here))
    return min(crowded, key=lambda one: one[0])[1]


def _place(thing: Thing, layout: _Layout, rng: np.random.Generator) -> _Placed:
    half_length = float(np.exp(rng.uniform(np.log(17), np.log(36))))
    x = rng.uniform(0.4 * half_length, layout.width - 0.4 * half_length)
    top, bottom = layout.extent(_band_for(thing, layout, rng))
    if thing.shape in ("fish", "bird") and rng.random() < 0.6:
        y = rng.uniform(top + 0.3 * half_length, max(top + 0.4 * half_length, bottom))
    else:
        y = rng.uniform(top, max(top, bottom - 2)) + 4 - 0.65 * half_length
    y = float(np.clip(y, 0.5 * half_length, layout.height - 0.6 * half_length))
    return _Placed(thing=thing, half_length=half_length, x=x, y=y)


def _band_for(thing: Thing, layout: _Layout, rng: np.random.Generator) -> int:
    """Where the thing lives if that is in the scene, else some ground; birds may be in the sky."""
    grounds = [i for i, name in enumerate(layout.bands) if name != "sky"]
    if thing.shape == "bird" and len(grounds) < len(layout.bands) and rng.random() < 0.35:
        return 0
    if thing.habitat in layout.bands:
        return layout.bands.index(thing.habitat)
    return grounds[rng.integers(len(grounds))]


def _overlap(one: _Placed, other: _Placed) -> float:
    """How much of the smaller of two things the other may hide: shared box / smaller box."""
    smaller = min(one.half_length, other.half_length)
    sides = [
        min(2 * smaller, max(0.0, one.half_length + other.half_length - abs(gap)))
        for gap in (one.x - other.x, (one.y - other.y) * 1.2)
    ]
    return sides[0] * sides[1] / (2 * smaller) ** 2


def _add(placed: _Placed, image: Plane, label_map: LabelMap, rng: np.random.Generator) -> None:
    """Paint one thing, its shadow below it and its void border, over what is there."""
    if placed.thing.shape != "fish":
        _cast_shadow(placed, image, rng)
    sprite = draw_thing(
        placed.thing,
        half_length=placed.half_length,
        angle=float(rng.normal(0, 0.12)),
        flip=bool(rng.random() < 0.5),
        rng=rng,
    )
    half = sprite.alpha.shape[0] // 2
    left, top = round(placed.x) - half, round(placed.y) - half
    here = np.s_[max(0, top) : max(0, top + 2 * half), max(0, left) : max(0, left + 2 * half)]
    height, width = label_map[here].shape
    there = np.s_[max(0, -top) : max(0, -top) + height, max(0, -left) : max(0, -left) + width]
    alpha = sprite.alpha[there]
    image[here] = image[here] * (1 - alpha[..., None]) + sprite.colour[there]
    inside = alpha > 0.5
    label_map[here][_grown(inside) & ~inside] = IGNORE_INDEX
    label_map[here][inside] = CLASS_ID[placed.thing.name]


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add the pixels above, below, left and right of a mask."""
    grown = inside.copy()
    grown[1:] |= inside[:-1]
    grown[:-1] |= inside[1:]
    grown[:, 1:] |= inside[:, :-1]
    grown[:, :-1] |= inside[:, 1:]
    return grown


def _cast_shadow(placed: _Placed, image: Plane, rng: np.random.Generator) -> None:
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    across = (columns - placed.x - rng.uniform(-4, 4)) / (0.9 * placed.half_length)
    down = (rows - placed.foot) / (0.2 * placed.half_length)
    depth = rng.uniform(0.15, 0.45) * np.clip(1.3 - across**2 - down**2, 0, 1)
    image *= (1 - depth).astype(np.float32)[..., None]


def _photographed(image: Plane, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light, colour cast, uneven exposure, lens blur and sensor noise."""
    height, width, _ = image.shape
    light = rng.uniform(0.72, 1.2) * rng.normal(1, 0.05, size=3)
    uneven = 1 + rng.uniform(0, 0.4) * (soft_noise(height, width, cell=(48, 48), rng=rng) - 0.5)
    contrast = rng.uniform(0.75, 1.1)
    exposed = (image * light * uneven[..., None] - 128) * contrast + 128
    if rng.random() < 0.4:
        exposed = _blurred(exposed, radius=rng.uniform(0.4, 1.0))
    noisy = exposed + rng.normal(0, rng.uniform(3, 13), size=image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _blurred(image: NDArray[np.float64], *, radius: float) -> NDArray[np.float64]:
    picture = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64)


def _visible(names: tuple[str, ...], label_map: LabelMap, *, at_least: int) -> tuple[str, ...]:
    pixels = np.bincount(label_map.ravel(), minlength=256)
    return tuple(name for name in names if pixels[CLASS_ID[name]] >= at_least)
