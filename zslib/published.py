"""Published numbers as data: what papers and their code's pages print, beside which ours are shown.

`published.csv` holds every figure that the methods' specs give, as a fraction with the digits it was
printed with. `source` is the section of the spec; `status` is "verified" where the spec found the
figure in print, or "memory" where nobody could check it: such a figure is never shown unmarked.

Benchmarks and splits have the names of conf/benchmark; what a method was published with elsewhere
(other networks, ablations, users' reruns) stands under names of its own, which no row of ours has.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from zslib.benchmark import ALL_SEEN

FILE = Path(__file__).with_suffix(".csv")
MEMORY_MARK = "†"
MEMORY_NOTE = f"{MEMORY_MARK} from memory: not checked against the paper."
_TRIPLE = ("miou_seen", "miou_unseen", "hiou")


@dataclass(frozen=True)
class Published:
    """One figure in print."""

    method: str
    benchmark: str
    split: str
    metric: str
    """As the leaderboard's columns; with `_seen` or `_unseen` where the figure is of one group."""
    value: float
    """A fraction in [0, 1]."""
    source: str
    status: Literal["verified", "memory"]

    @property
    def percent(self) -> str:
        """The figure with one decimal; the mark says if it is from memory."""
        mark = MEMORY_MARK if self.status == "memory" else ""
        return f"{100 * self.value:.1f}{mark}"


@cache
def published() -> tuple[Published, ...]:
    """Return every figure, in the order of the file."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return TypeAdapter(tuple[Published, ...]).validate_python(tuple(csv.DictReader(file)))


def beside(method: str, benchmark: str, split: str, metric: str) -> Published | None:
    """Return the figure to show beside ours, verified ones first; None where none is in print.

    SPNet, JoEm and CaGNet were published end to end, so those rows of ours have it too.
    """
    wanted = (method.removesuffix("-e2e"), benchmark, metric)
    found = [
        figure
        for figure in published()
        if (figure.method, figure.benchmark, figure.metric) == wanted
        and figure.split in (split, ALL_SEEN)
    ]
    return min(found, key=lambda figure: figure.status != "verified", default=None)


def triple(method: str, benchmark: str, split: str) -> str:
    """Return "seen / unseen / hIoU" in percent as published; empty where none of them is in print."""
    figures = [beside(method, benchmark, split, metric) for metric in _TRIPLE]
    if not any(figures):
        return ""
    return " / ".join(figure.percent if figure else "\N{EN DASH}" for figure in figures)


def is_marked(texts: Iterable[str]) -> bool:
    """Return whether any of these texts shows a figure from memory: then the note belongs below."""
    return any(MEMORY_MARK in text for text in texts)
