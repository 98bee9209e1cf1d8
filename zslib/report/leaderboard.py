"""The leaderboard (DESIGN §7): one row per benchmark, split, method, protocol and seed.

Rows come from the score files of the evaluate stages, in a fixed order and a fixed number format,
so that the same results give the same bytes. `aggregate` puts the rows of several seeds together.
"""

import csv
import io
import json
import logging
import re
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zslib.benchmark import ProtocolName, Setting
from zslib.errors import InputError
from zslib.published import MEMORY_NOTE, is_marked, triple

METHODS = {
    "spnet": "SPNet",
    "spnet-c": "SPNet-c",
    "spnet-c+eig": "SPNet-c + eig",
    "spnet-e2e": "SPNet, end to end",
    "spnet-c-e2e": "SPNet-c, end to end",
    "zs3net": "ZS3Net",
    "zs3net+eig": "ZS3Net + eig",
    "zs3net+st": "ZS3Net + ST",
    "zs5net": "ZS5Net",
    "zs3net-gc": "ZS3Net-GC",
    "zs3net-gc+eig": "ZS3Net-GC + eig",
    "zs3net-gc+st": "ZS3Net-GC + ST",
    "cagnet": "CaGNet",
    "cagnet+eig": "CaGNet + eig",
    "cagnet+st": "CaGNet + ST",
    "cagnet-e2e": "CaGNet, end to end",
    "cagnet-v2": "CaGNet v2",
    "joem": "JoEm",
    "joem-frozen": "JoEm-frozen",
    "joem-frozen+eig": "JoEm-frozen + eig",
    "joem-frozen-head": "JoEm-frozen, head",
    "sazs": "SAZS",
    "simbaseline": "SimBaseline",
    "simbaseline-queries": "SimBaseline, queries",
    "simbaseline-regions": "SimBaseline, regions",
    "simbaseline-oracle": "SimBaseline, oracle",
    "simbaseline-fcn": "SimBaseline, FCN",
    "simbaseline-fcn-clip": "SimBaseline, FCN by CLIP",
    "simbaseline-fcn-fused": "SimBaseline, FCN fused",
    "simbaseline+st": "SimBaseline + ST",
    "supervised": "Supervised",
}
"""Names in the leaderboard and in print, in the order of the field; the ceiling comes last."""

FUSED = "+eig"
"""What the name of a row ends with that is fused with eigenvectors; the rest is that row's without."""

IDENTITY = ("benchmark", "split", "method", "protocol", "setting", "seed")
FIGURES = (
    *("miou_seen", "miou_unseen", "hiou", "miou"),
    *("pixel_accuracy", "mean_accuracy", "fwiou"),
)
BOUNDED = ("hiou", "miou_seen", "miou_unseen", "miou")
RESTRICTED = "miou_unseen_restricted"
COLUMNS = (
    *IDENTITY,
    *FIGURES,
    *(f"{name}_{bound}" for name in BOUNDED for bound in ("low", "high")),
    RESTRICTED,
    "pretrained",
)
"""`_low` and `_high` bound the bootstrap's 95 % interval; `restricted` is the ZSL protocol; `pretrained`
is what the networks began from (`zslib.report.pretraining`)."""

_KEPT_APART = ("variant", "pretrained")
"""What rows may differ in beside their identity, and are not averaged over then."""

_YOUNGER = ("miou_low", "miou_high", "pretrained")
"""Columns that files of earlier versions lack."""

Row = dict[str, Any]
_log = logging.getLogger(__name__)


class Scores(BaseModel):
    """One score file, as `zslib.evaluation.score` writes it; it may hold more figures.

    Across datasets, what tells seen and unseen classes apart is None.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    split: str
    method: str
    protocol: ProtocolName
    setting: Setting
    seed: int
    miou_seen: float | None = Field(ge=0, le=1)
    miou_unseen: float | None = Field(ge=0, le=1)
    hiou: float | None = Field(ge=0, le=1)
    miou: float = Field(ge=0, le=1)
    pixel_accuracy: float = Field(ge=0, le=1)
    mean_accuracy: float = Field(ge=0, le=1)
    fwiou: float = Field(ge=0, le=1)
    interval95: dict[str, tuple[float, float] | None]
    protocols: dict[str, dict[str, float | None]]
    class_iou: dict[str, float | None]

    @property
    def restricted(self) -> float | None:
        """Unseen mean IoU when only unseen pixels and unseen classes count (ZSL)."""
        if self.setting == "cross-dataset":
            return None
        return self.protocols["restricted_to_unseen"]["miou_unseen"]


def leaderboard_rows(scores_folder: Path, *, splits: Sequence[str] | None = None) -> list[Row]:
    """Return the rows of a folder of score files, `results/<benchmark>`, in leaderboard order.

    With `splits`, rows of other splits are left out (with a line in the log) and the given order is
    the order of the splits.

    Raises:
        InputError: as `read_scores`.
    """
    benchmark = Path(scores_folder).absolute().name
    return [row_of(benchmark, scores) for scores in read_scores(scores_folder, splits=splits)]


def read_scores(
    folder: Path, *, splits: Sequence[str] | None = None, others: Collection[str] = ()
) -> list[Scores]:
    """Read every score file of a folder but the `others`, by name, in leaderboard order.

    Raises:
        InputError: there is none; a file is not a score file, names an unknown method, or describes
            the same row as another.
    """
    found: dict[tuple[Any, ...], Path] = {}
    kept = []
    for path in sorted(Path(folder).glob("*.json")):
        if path.name in others:
            continue
        scores = parse_scores(str(path), _text(path))
        if splits is not None and scores.split not in splits:
            _log.info("%s: left out, split '%s' is not among `splits`", path, scores.split)
            continue
        key = (scores.split, scores.method, scores.protocol, scores.seed)
        if key in found:
            raise InputError(f"{path}: describes the same row as {found[key]}; remove one of them")
        found[key] = path
        kept.append(scores)
    if not kept:
        raise InputError(f"{folder}: no score file of a wanted split; run the evaluate stages")
    return sorted(kept, key=lambda scores: _order(scores.model_dump(), splits))


def parse_scores(name: str, text: str) -> Scores:
    """Return the scores that a score file holds; `name` is what an error calls it.

    Raises:
        InputError: it is no score file, or of an unknown method.
    """
    try:
        json.loads(text)
        scores = Scores.model_validate_json(text)
        row_of("", scores)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{name}: {key}: {fault['msg']}; {_RERUN}") from None
    except KeyError as error:
        raise InputError(f"{name}: {error} is missing; {_RERUN}") from None
    except ValueError as error:
        raise InputError(f"{name}: is no JSON ({error}); {_RERUN}") from error
    if scores.method not in METHODS:
        raise InputError(
            f"{name}: method '{scores.method}' is not one of the leaderboard "
            f"({', '.join(METHODS)}); correct it in its dvc.yaml or add it to zslib/report/leaderboard.py"
        )
    return scores


def row_of(benchmark: str, scores: Scores) -> Row:
    """Return one row of the leaderboard."""
    row: Row = {"benchmark": benchmark}
    row |= {name: getattr(scores, name) for name in (*IDENTITY[1:], *FIGURES)}
    for name in BOUNDED:
        row[f"{name}_low"], row[f"{name}_high"] = scores.interval95[name] or (None, None)
    return row | {RESTRICTED: scores.restricted}


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as CSV; fractions with six decimals, lines end in a bare newline.

    A figure that does not exist is an empty cell.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def read_leaderboard(path: Path) -> list[Row]:
    """Read rows back from a file of `to_csv`.

    Raises:
        InputError: the file cannot be read, is empty, lacks a column, or holds something else in one.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if missing := [c for c in COLUMNS if c not in {*(table.fieldnames or ()), *_YOUNGER}]:
                raise InputError(
                    f"{path}: column '{missing[0]}' is missing; give a report's leaderboard.csv"
                )
            rows = [_read_row(line) for line in table]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: is no leaderboard ({error}); rerun the stage 'report'"
        ) from error
    if not rows:
        raise InputError(f"{path}: has no rows; rerun the stage 'report'")
    return rows


def aggregate(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table, in percent: mean ± sample standard deviation over the seeds.

    The column `seeds` says over how many, and of how many where others in the table have more. Rows
    of several variants (see `zslib.report.experiments`), or that began from different weights, are kept
    apart, in columns of their own. Where any row is of a published split, the last column shows what
    is in print.

    Raises:
        InputError: a row occurs twice, as when two files come from the same experiment.
    """
    ordered = sorted(rows, key=_order)
    groups: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
    for row in ordered:
        identity = tuple(row.get(name) for name in (*IDENTITY[:-1], *_KEPT_APART))
        seeds = groups.setdefault(identity, {})
        if row["seed"] in seeds:
            name = " ".join(str(row[key]) for key in IDENTITY[:-1])
            raise InputError(f"{name}, seed {row['seed']}: occurs twice; give each run once")
        seeds[row["seed"]] = row
    most = max(map(len, groups.values()), default=0)
    differing = [name for name in _KEPT_APART if len({row.get(name) for row in ordered}) > 1]
    labels, figures = [*IDENTITY[:-1], *differing], (*FIGURES, RESTRICTED)
    head = [*labels, "seeds", *figures]
    lines = [head, ["---"] * len(labels) + ["---:"] * (len(head) - len(labels))]
    for seeds in groups.values():
        one, *_ = seeds.values()
        cells = [_mean_and_sd([row[name] for row in seeds.values()]) for name in figures]
        count = f"{len(seeds)}" if len(seeds) == most else f"{len(seeds)} of {most}"
        lines.append([*(str(one.get(name)) for name in labels), count, *cells])
    in_print = [triple(method, benchmark, split) for benchmark, split, method, *_ in groups]
    if any(in_print):
        column = ["published seen / unseen / hIoU", "---:", *in_print]
        lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
    note = f"\n{MEMORY_NOTE}\n" if is_marked(in_print) else ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def _mean_and_sd(values: Sequence[float | None]) -> str:
    existing = [value for value in values if value is not None]
    if not existing:
        return "\N{EN DASH}"
    mean = f"{100 * statistics.fmean(existing):.1f}"
    return mean if len(existing) < 2 else f"{mean} ± {100 * statistics.stdev(existing):.1f}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_RERUN}") from error


def is_fused(method: str) -> bool:
    """Whether a row is another one's, fused with eigenvectors."""
    return method.endswith(FUSED)


_RERUN = "delete it and rerun the stage 'evaluate' that writes it"


def _order(row: Mapping[str, Any], splits: Sequence[str] | None = None) -> tuple[Any, ...]:
    method = list(METHODS).index(row["method"])
    split = splits.index(row["split"]) if splits else _natural(row["split"])
    kind = (row["protocol"], row["setting"], row.get("variant", 0), row["seed"])
    return (row.get("benchmark", ""), split, method, *kind)


def _natural(name: str) -> tuple[Any, ...]:
    """Sort key by which u2 comes before u10."""
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name))


def _read_row(line: Mapping[Any, Any]) -> Row:
    if None in line or None in line.values():
        raise ValueError("a line has more or fewer cells than the header")
    return {name: _parsed(name, line.get(name, "")) for name in COLUMNS}


def _parsed(name: str, value: str) -> Any:
    if name == "seed":
        return int(value)
    if name == "method" and value not in METHODS:
        raise ValueError(f"unknown method '{value}'")
    if name in (*IDENTITY, "pretrained"):
        return value
    if not value:
        return None
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value}: fractions are in [0, 1]")
    return float(value)
