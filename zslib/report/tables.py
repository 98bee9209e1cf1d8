"""The tables of the page, as plain data for its template."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zslib.benchmark import Split
from zslib.embeddings.table import ClassVectors
from zslib.errors import InputError
from zslib.published import Published, beside
from zslib.report.leaderboard import BOUNDED, FIGURES, RESTRICTED, row_of
from zslib.report.results import Result

HEADINGS = {
    "miou_seen": "mIoU seen",
    "miou_unseen": "mIoU unseen",
    "hiou": "hIoU",
    "miou": "mIoU all",
    "pixel_accuracy": "Pixel acc.",
    "mean_accuracy": "Mean acc.",
    "fwiou": "fwIoU",
    RESTRICTED: "mIoU unseen, restricted",
}

PROTOCOLS = {
    "generalised": (
        "Generalised",
        "Every pixel is classified among all classes; a class with neither label nor prediction "
        "leaves the mean. This is the leaderboard.",
    ),
    "absent_classes_zero": (
        "Absent classes as zero",
        "The same predictions, but a class with nothing to count scores 0 instead of leaving the "
        "mean, as ZS3Net and JoEm released it.",
    ),
    "labelled_classes_only": (
        "Labelled classes only",
        "The same predictions, but a class that no image shows leaves the mean even where it is "
        "predicted, as detectron2 scores today.",
    ),
    "without_background": (
        "Without background",
        "Pixels labelled background are not scored, as where background is no class of the "
        "benchmark.",
    ),
    "restricted_to_unseen": (
        "Restricted to unseen",
        "Only pixels of unseen classes, classified among unseen classes alone: the zero-shot task "
        "without the pull of the seen classes.",
    ),
}
_log = logging.getLogger(__name__)

_PARTS = ("miou_seen", "miou_unseen", "hiou")
_HEADINGS = {"miou_seen": "seen", "miou_unseen": "unseen", "hiou": "hIoU", "miou": "all"}


@dataclass(frozen=True)
class Cell:
    """One number in percent; `best` marks the best clean inductive one of its column."""

    value: float | None
    interval: tuple[float, float] | None = None
    best: bool = False


@dataclass(frozen=True)
class ScoreLine:
    """One line of a table of scores."""

    result: Result
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ProtocolColumns:
    """One evaluation protocol: its sentence and its columns."""

    key: str
    title: str
    sentence: str
    parts: tuple[str, ...]
    same_as_first: bool
    """Whether all figures equal the generalised ones, with as many columns."""

    @property
    def headings(self) -> list[str]:
        return [_HEADINGS[part] for part in self.parts]


@dataclass(frozen=True)
class PublishedLine:
    """One of our rows and what is in print for it, per figure: ours, and the published one."""

    result: Result
    cells: tuple[tuple[float, Published | None], ...]

    @property
    def sources(self) -> list[str]:
        return sorted({figure.source for _, figure in self.cells if figure})


ProtocolLines = list[tuple[Result, list[list[float | None]]]]
"""Per result, per protocol, its figures."""


@dataclass(frozen=True)
class ClassLine:
    """One class and its IoU under every method; None where nothing counts."""

    name: str
    unseen: bool
    pixels: int
    iou: tuple[float | None, ...]


@dataclass(frozen=True)
class Neighbours:
    """The seen classes nearest to one unseen class, per source of vectors."""

    name: str
    sources: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class Cost:
    """Seconds that the stage writing `out` took when it last ran here."""

    out: str
    seconds: float


def existing_figures(results: Sequence[Result]) -> list[str]:
    """Return the figures of the leaderboard that any of the results has."""
    rows = [row_of("", result.scores) for result in results]
    return [name for name in HEADINGS if any(row[name] is not None for row in rows)]


def score_lines(results: Sequence[Result]) -> list[ScoreLine]:
    """Return the leaderboard's lines; only clean inductive results compete for the best."""
    names = existing_figures(results)
    rows = [row_of("", result.scores) for result in results]
    ranked = [row for row, result in zip(rows, results, strict=True) if result.kind == "clean"]
    best = {name: max((round(row[name], 4) for row in ranked), default=None) for name in names}

    def cell(row: Mapping[str, Any], name: str) -> Cell:
        bounds = (row[f"{name}_low"], row[f"{name}_high"]) if name in BOUNDED else None
        competes = any(row is other for other in ranked)
        return Cell(row[name], bounds, competes and round(row[name], 4) == best[name])

    lines = zip(results, rows, strict=True)
    return [ScoreLine(result, tuple(cell(row, name) for name in names)) for result, row in lines]


def printed_figures(results: Sequence[Result]) -> list[str]:
    """Return those of them that papers print."""
    return [name for name in existing_figures(results) if name in FIGURES]


def published_lines(results: Sequence[Result], benchmark: str) -> list[PublishedLine]:
    """Return the rows of which anything is in print for this benchmark and split."""
    lines, names = [], printed_figures(results)
    for result in results:
        method, split = result.scores.method, result.split.name
        figures = [beside(method, benchmark, split, name) for name in names]
        if any(figures):
            ours = [getattr(result.scores, name) for name in names]
            lines.append(PublishedLine(result, tuple(zip(ours, figures, strict=True))))
    return lines


def protocol_columns(results: Sequence[Result]) -> list[ProtocolColumns]:
    """Return the protocols that any result was scored under."""
    found, divided = [], _PARTS if results[0].split.unseen else ("miou",)
    for key, (title, sentence) in PROTOCOLS.items():
        scored = [_figures(result, key) for result in results]
        if any(scored):
            parts = _PARTS[1:2] if key == "restricted_to_unseen" else divided
            plain = [_figures(result, "generalised") for result in results]
            same = (
                key != "generalised"
                and parts == divided
                and all(
                    figures.get(part) == other[part]
                    for figures, other in zip(scored, plain, strict=True)
                    for part in parts
                )
            )
            found.append(ProtocolColumns(key, title, sentence, parts, same))
    return found


def protocol_lines(columns: Sequence[ProtocolColumns], results: Sequence[Result]) -> ProtocolLines:
    """Return the figures of these results under every protocol."""
    return [
        (r, [[_figures(r, column.key).get(part) for part in column.parts] for column in columns])
        for r in results
    ]


def _figures(result: Result, protocol: str) -> Mapping[str, Any]:
    if protocol == "generalised":
        return result.scores.model_dump(include={*_PARTS, "miou"})
    return result.scores.protocols.get(protocol, {})


def class_lines(results: Sequence[Result]) -> list[ClassLine]:
    """Return every scored class, unseen ones first, with its IoU under each result."""
    split, truth = results[0].split, results[0].matrix.sum(1)
    return [
        ClassLine(
            split.classes[c],
            c in split.unseen,
            int(truth[c]),
            tuple(r.scores.class_iou.get(split.classes[c]) for r in results),
        )
        for c in (*split.unseen, *split.seen)
    ]


def nearest_seen(sources: Sequence[ClassVectors], split: Split, *, count: int) -> list[Neighbours]:
    """Return the `count` seen classes with the largest cosine to each unseen class, per source.

    Raises:
        InputError: a source was made for other classes.
    """
    tables = {}
    for source in sources:
        if source.classes != split.classes:
            raise InputError(
                f"class vectors '{source.source}': were made for other classes than params.yaml "
                "has; rerun the stage 'vectors'"
            )
        unit = source.rows.astype(float)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        tables[source.source] = unit @ unit[list(split.seen)].T
    return [
        Neighbours(
            split.classes[c],
            tuple((name, _largest(cosine[c], split, count)) for name, cosine in tables.items()),
        )
        for c in split.unseen
    ]


def read_costs(timings: Path, prefixes: Sequence[str]) -> list[Cost]:
    """Return the last entry of each output at or below one of `prefixes`, the costliest first.

    A line that a killed process left half written is left out, with a warning in the log: a note of
    this machine is no reason to refuse a report.
    """
    if not timings.is_file():
        return []
    last: dict[str, float] = {}
    for number, line in enumerate(timings.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            last[str(entry["out"])] = float(entry["seconds"])
        except (ValueError, KeyError, TypeError):
            _log.warning("%s:%d: left out, is no timing of a stage", timings, number)
    wanted = tuple(f"{prefix}/" for prefix in prefixes)
    costs = [Cost(out, s) for out, s in last.items() if f"{out}/".startswith(wanted)]
    return sorted(costs, key=lambda cost: (-cost.seconds, cost.out))


def _largest(cosines: np.ndarray, split: Split, count: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-cosines, kind="stable")[:count]
    return tuple((split.classes[split.seen[i]], float(cosines[i])) for i in order)
