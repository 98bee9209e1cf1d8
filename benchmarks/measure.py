"""Timing contestants side by side, and the table and JSON that come of it.

A shared machine drifts by more than most differences of interest. So contestants take turns, round
by round, and what counts is the median over rounds of the ratio of two neighbours in time.
"""

import os
import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from platform import python_version
from statistics import median
from textwrap import wrap
from typing import Any, TypeVar

Input = TypeVar("Input")


def time_side_by_side(
    contestants: Mapping[str, Callable[[Input], object]],
    fresh_input: Callable[[], Input],
    *,
    repeats: int,
) -> dict[str, list[float]]:
    """Return each contestant's seconds in each round; one more round before them is not counted.

    Every run gets an input of its own, made outside the clock: with the same one the second
    contestant would find it in the processor's caches. Every other round goes backwards.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name in list(contestants)[:: 1 if turn % 2 else -1]:
            given = fresh_input()
            start = time.perf_counter()
            contestants[name](given)
            taken = time.perf_counter() - start
            if turn > 0:
                seconds[name].append(taken)
    return seconds


@dataclass(frozen=True)
class Goal:
    """What one contestant should reach."""

    contestant: str
    at_most: float
    """Of its time divided by the reference's."""
    words: str


@dataclass(frozen=True)
class Result:
    """The timings of one comparison."""

    title: str
    sizes: Mapping[str, int | str]
    seconds: Mapping[str, list[float]]
    """Of each contestant, by round."""
    reference: str
    """The contestant that times are divided by."""
    amount: int
    """How many of `unit` one run handles."""
    unit: str
    goal: Goal | None = None
    notes: Mapping[str, float] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """Return a contestant's time over the reference's, by round."""
        pairs = zip(self.seconds[name], self.seconds[self.reference], strict=True)
        return [own / reference for own, reference in pairs]

    def as_json(self) -> dict[str, Any]:
        """Return every figure of the table, and the single timings."""
        rows = {
            name: {
                "median_seconds": median(taken),
                f"{self.unit}_per_second": self.amount / median(taken),
                "ratio": median(self.ratios(name)),
                "ratio_range": [min(self.ratios(name)), max(self.ratios(name))],
                "seconds": taken,
            }
            for name, taken in self.seconds.items()
        }
        parts = {"title": self.title, "sizes": dict(self.sizes), "reference": self.reference}
        return parts | {"rows": rows, "goal": self._goal(), "notes": dict(self.notes)}

    def table(self) -> str:
        """Return the table as lines of text."""
        head = ("", "median", f"{self.unit}/s", f"time / {self.reference} (range)")
        rows = [head] + [self._row(name) for name in self.seconds]
        first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        sizes = ", ".join(f"{key} {value}" for key, value in self.sizes.items())
        lines = [self.title, *wrap(sizes, 98, initial_indent="  ", subsequent_indent="  ")]
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("   ".join([f"  {name.ljust(first)}", *padded]))
        lines += [f"  {name}: {value:.0f}" for name, value in self.notes.items()]
        if goal := self._goal():
            verdict = "met" if goal["met"] else "missed"
            lines.append(f"  goal: {goal['words']}: {verdict} ({goal['ratio']:.2f})")
        return "\n".join(lines)

    def _row(self, name: str) -> tuple[str, str, str, str]:
        ratios, middle = self.ratios(name), median(self.seconds[name])
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        if name == self.reference:
            spread = "1"
        return name, _duration(middle), _count(self.amount / middle), spread

    def _goal(self) -> dict[str, Any] | None:
        if self.goal is None:
            return None
        ratio = median(self.ratios(self.goal.contestant))
        met = ratio <= self.goal.at_most
        return {"words": self.goal.words, "at_most": self.goal.at_most, "ratio": ratio, "met": met}


def run_in_own_process(name: str, options: Mapping[str, Any]) -> list[Result]:
    """Run a benchmark where its peak memory and torch's global switches belong to it alone."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, name, options).result()


def peak_memory() -> float:
    """Return the most resident memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> dict[str, str | int]:
    """Return what timings depend on besides the code."""
    versions = {name: version(name) for name in ("torch", "numpy", "h5py")}
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    # Threads of torch wait for each other: where others keep the cores busy, its times mean little.
    load = f"{os.getloadavg()[0]:.1f}"
    cores = len(os.sched_getaffinity(0))
    parts: dict[str, str | int] = {"cores": cores, "load": load, "OMP_NUM_THREADS": threads}
    return parts | {"python": python_version()} | versions


def _measure(name: str, options: Mapping[str, Any]) -> list[Result]:
    return import_module(f"benchmarks.{name}").measure(**options)


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _count(number: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.2f}"
