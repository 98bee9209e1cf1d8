"""What a calibration trades: seen against unseen mIoU, one curve per method over all its strengths.

The curves come from the validation images, unseen classes included, so nothing may be chosen by them.
What held-out seen classes chose is marked; the rest shows what that choice was worth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.report.leaderboard import METHODS
from zslib.report.svg import FAINT, chart, hint, line, polyline, shared_top, text, ticks
from zslib.report.trends import Style, mark, names

_WIDTH, _HEIGHT, _LETTER = 700, 390, 7.4
"""Of the drawing, and of a letter of a name beside it."""

_CONTOUR, _STEPS = "#cfcabf", 32
"""Colour and pieces of a line of equal hIoU."""


class Rule(NamedTuple):
    """A calibration in words."""

    strength: str
    off: float
    """The strength that changes nothing."""
    explanation: str


RULES = {
    "stacking": Rule("gamma", 0, "is taken from the probability of every seen class"),
    "apollonius": Rule("sigma", 1, "weighs the squared distances to unseen prototypes"),
}


class Point(BaseModel):
    """The scores at one strength."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    strength: float
    miou_seen: float = Field(ge=0, le=1)
    miou_unseen: float = Field(ge=0, le=1)
    hiou: float = Field(ge=0, le=1)


class Curve(BaseModel):
    """One file of the stage `sweep`: a method's scores over the strength of its calibration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: str
    classes: dict[str, Literal["seen", "unseen", "void"]]
    method: str
    seed: int
    rule: Literal["stacking", "apollonius"]
    chosen: float
    points: tuple[Point, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_known(self) -> "Curve":
        if self.method not in METHODS:
            raise ValueError(f"method '{self.method}' is not one of the leaderboard")
        if self.at(self.chosen) is None:
            raise ValueError(f"the chosen strength {self.chosen} is not on the curve")
        return self

    @property
    def scored(self) -> Split:
        """The split it was scored on."""
        unseen, void = (
            [name for name, role in self.classes.items() if role == wanted]
            for wanted in ("unseen", "void")
        )
        return Split.named(self.split, list(self.classes), unseen=unseen, void=void)

    @property
    def title(self) -> str:
        return METHODS[self.method]

    @property
    def style(self) -> Style:
        return Style.of(self.method, "inductive")

    def at(self, strength: float) -> Point | None:
        """Return the point of a strength, if the curve has it."""
        return next((point for point in self.points if point.strength == strength), None)

    def named(self, strength: float) -> str:
        """Return a strength as it is printed."""
        return f"{RULES[self.rule].strength} = {strength:g}"


@dataclass(frozen=True)
class Calibration:
    """All that the page says about the calibrations of one split."""

    chart: Markup
    lines: tuple[tuple[str, str, Point], ...]
    """Method, strength, scores: without calibration, then as chosen."""
    explanations: tuple[str, ...]


def read_curves(folder: Path) -> list[Curve]:
    """Read every curve of a folder, in the order of the leaderboard's methods.

    Raises:
        InputError: a file is not one of the stage `sweep`.
    """
    curves = [_read(path) for path in sorted(folder.glob("*.json"))]
    return sorted(curves, key=lambda curve: list(METHODS).index(curve.method))


def calibration_of(curves: Sequence[Curve], split: Split, *, seed: int) -> Calibration | None:
    """Return the chart of one split's curves, or None where it has none.

    Raises:
        InputError: a curve is of another seed, of other classes, or other ones were unseen.
    """
    found = [curve for curve in curves if curve.split == split.name]
    for curve in found:
        if curve.seed != seed or curve.scored != split:
            raise InputError(
                f"calibration curve of {curve.method}, split '{split.name}': is of another seed, or of "
                "other classes, than params.yaml has; rerun its stages (dvc repro)"
            )
    if not found:
        return None
    rules = {curve.rule: RULES[curve.rule] for curve in found}
    return Calibration(
        _chart(found),
        tuple(line for curve in found for line in _lines(curve)),
        tuple(f"{rule.strength} {rule.explanation}" for rule in rules.values()),
    )


def _read(path: Path) -> Curve:
    try:
        return Curve.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        fault = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(
            f"{path}: is no calibration curve ({fault}); "
            "delete it and rerun the stage 'sweep' that writes it"
        ) from None


def _lines(curve: Curve) -> list[tuple[str, str, Point]]:
    plain, chosen = curve.at(RULES[curve.rule].off), curve.at(curve.chosen)
    lines = [(curve.title, "without", plain), (curve.title, curve.named(curve.chosen), chosen)]
    return [(title, name, point) for title, name, point in lines if point is not None]


def _chart(curves: Sequence[Curve]) -> Markup:
    points = [point for curve in curves for point in curve.points]
    labels = [f"{curve.title}, {curve.named(curve.chosen)}" for curve in curves]
    plane = Plane(
        shared_top([point.miou_seen for point in points]),
        shared_top([point.miou_unseen for point in points]),
        right=_WIDTH - 32 - _LETTER * max(map(len, labels)),
    )
    parts = [*plane.axes(), *plane.contours()]
    for curve in curves:
        parts += _drawn(curve, plane)
    marked = [
        (plane.place(point), label, curve.style.colour)
        for curve, label in zip(curves, labels, strict=True)
        if (point := curve.at(curve.chosen))
    ]
    parts += names(marked, plane.right, plane.upper, plane.lower)
    return chart(_WIDTH, _HEIGHT, "Seen against unseen mIoU over the calibration", parts)


@dataclass(frozen=True)
class Plane:
    """Seen mIoU across, unseen mIoU upwards, both from 0; places are pixels of the drawing."""

    seen_top: float
    unseen_top: float
    right: float
    left: float = 44
    upper: float = 36
    lower: float = _HEIGHT - 44

    def place(self, point: Point) -> tuple[float, float]:
        return self.at(point.miou_seen, point.miou_unseen)

    def at(self, seen: float, unseen: float) -> tuple[float, float]:
        across, upwards = seen / self.seen_top, unseen / self.unseen_top
        width, height = self.right - self.left, self.lower - self.upper
        return self.left + width * across, self.lower - height * upwards

    def axes(self) -> list[str]:
        parts = []
        for tick in ticks(self.unseen_top):
            _, y = self.at(0, tick)
            parts.append(line(self.left, y, self.right, y, FAINT))
            parts.append(text(self.left - 8, y + 4, f"{100 * tick:.0f}", "tick", "end"))
        for tick in ticks(self.seen_top):
            x, _ = self.at(tick, 0)
            parts.append(line(x, self.upper, x, self.lower, FAINT))
            parts.append(text(x, self.lower + 18, f"{100 * tick:.0f}", "tick", "middle"))
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.lower + 36, "seen mIoU", "tick", "middle"))
        return [*parts, text(0, self.upper - 26, "unseen mIoU", "tick", "start")]

    def contours(self) -> list[str]:
        """Lines of equal hIoU, each named where it leaves the plane at the top."""
        corner = 2 * self.seen_top * self.unseen_top / (self.seen_top + self.unseen_top)
        parts = [text(self.left - 8, self.upper - 10, "hIoU", "tick", "end")]
        for level in [tenth / 10 for tenth in range(1, math.ceil(10 * corner))]:
            # u = h s / (2 s - h), and the same for s where u is at the top.
            start = level * self.unseen_top / (2 * self.unseen_top - level)
            # Steps grow: the line is steep where it begins.
            steps = [start + (self.seen_top - start) * (i / _STEPS) ** 2 for i in range(_STEPS + 1)]
            curve = [self.at(seen, level * seen / (2 * seen - level)) for seen in steps]
            parts.append(polyline(curve, _CONTOUR, 1, dash="2 3"))
            place = (curve[0][0], self.upper - 10)
            parts.append(text(*place, f"{100 * level:.0f}", "tick", "middle"))
        return parts


def _drawn(curve: Curve, plane: Plane) -> list[str]:
    """The line, a dot per strength, a ring where calibration is off, a large mark where chosen."""
    style = curve.style
    parts = [polyline([plane.place(point) for point in curve.points], style.colour, 2.2)]
    for point in curve.points:
        kind, radius, paint = "disc", 2.4, f'fill="{style.colour}"'
        if point.strength == RULES[curve.rule].off:
            radius, paint = 4.6, f'fill="white" stroke="{style.colour}" stroke-width="1.8"'
        if point.strength == curve.chosen:
            kind, radius = style.mark, 6.5
            paint = f'fill="{style.colour}" stroke="white" stroke-width="1.6"'
        words = hint(
            f"{curve.title}, {curve.named(point.strength)}: seen {100 * point.miou_seen:.1f} %, "
            f"unseen {100 * point.miou_unseen:.1f} %, hIoU {100 * point.hiou:.1f} %"
        )
        parts.append(mark(kind, *plane.place(point), radius, paint, words))
    return parts
