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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
BOUNDED = ("hiou", "miou_seen", "miou_unseen")
RESTRICTED = "miou_unseen_restricted"
COLUMNS = (
    *IDENTITY,
    *FIGURES,
    *(f"{name}_{bound}" for name in BOUNDED for bound in ("low", "high")),
    RESTRICTED,
)
"""`_low` and `_high` bound the bootstrap's 95 % interval; `restricted` is the ZSL protocol."""

Row = dict[str, Any]
_log = logging.getLogger(__name__)


class Scores(BaseModel):
    """One score file, as `zslib.evaluation.save` writes it; it may hold more figures."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    split: str
    method: str
    protocol: Literal["clean", "official"]
    setting: Literal["inductive", "transductive"]
    seed: int
    miou_seen: float = Field(ge=0, le=1)
    miou_unseen: float = Field(ge=0, le=1)
    hiou: float = Field(ge=0, le=1)
    miou: float = Field(ge=0, le=1)
    pixel_accuracy: float = Field(ge=0, le=1)
    mean_accuracy: float = Field(ge=0, le=1)
    fwiou: float = Field(ge=0, le=1)
    interval95: dict[str, tuple[float, float]]
    protocols: dict[str, dict[str, float]]
    class_iou: dict[str, float | None]

    @property
    def restricted(self) -> float:
        """Unseen mean IoU when only unseen pixels and unseen classes count (ZSL)."""
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


def read_scores(folder: Path, *, splits: Sequence[str] | None = None) -> list[Scores]:
    """Read every score file of a folder, in leaderboard order.

    Raises:
        InputError: there is none; a file is not a score file, names an unknown method, or describes
            the same row as another.
    """
    found: dict[tuple[Any, ...], Path] = {}
    kept = []
    for path in sorted(Path(folder).glob("*.json")):
        scores = _read(path)
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


def row_of(benchmark: str, scores: Scores) -> Row:
    """Return one row of the leaderboard."""
    row: Row = {"benchmark": benchmark}
    row |= {name: getattr(scores, name) for name in (*IDENTITY[1:], *FIGURES)}
    for name in BOUNDED:
        row[f"{name}_low"], row[f"{name}_high"] = scores.interval95[name]
    return row | {RESTRICTED: scores.restricted}


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as CSV; fractions with six decimals, lines end in a bare newline."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def read_leaderboard(path: Path) -> list[Row]:
    """Read rows back from a file of `to_csv`.

    Raises:
        InputError: the file cannot be read, lacks a column, or holds something else in one.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if missing := [c for c in COLUMNS if c not in (table.fieldnames or ())]:
                raise InputError(
                    f"{path}: column '{missing[0]}' is missing; give a report's leaderboard.csv"
                )
            return [{name: _parsed(name, line[name]) for name in COLUMNS} for line in table]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: is no leaderboard ({error}); rerun the stage 'report'"
        ) from error


def aggregate(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table, in percent: mean ± sample standard deviation over the seeds.

    The column `seeds` says over how many, and of how many where others in the table have more. Where
    any row is of a published split, the last column shows what is in print.

    Raises:
        InputError: a row occurs twice, as when two files come from the same experiment.
    """
    groups: dict[tuple[str, ...], dict[int, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=_order):
        seeds = groups.setdefault(tuple(row[name] for name in IDENTITY[:-1]), {})
        if row["seed"] in seeds:
            name = " ".join(str(row[key]) for key in IDENTITY[:-1])
            raise InputError(f"{name}, seed {row['seed']}: occurs twice; give each run once")
        seeds[row["seed"]] = row
    most = max(map(len, groups.values()), default=0)
    figures = (*FIGURES, RESTRICTED)
    head = ["benchmark", "split", "method", "protocol", "setting", "seeds", *figures]
    lines = [head, ["---"] * 5 + ["---:"] * (len(head) - 5)]
    for identity, seeds in groups.items():
        cells = [_mean_and_sd([row[name] for row in seeds.values()]) for name in figures]
        count = f"{len(seeds)}" if len(seeds) == most else f"{len(seeds)} of {most}"
        lines.append([*identity, count, *cells])
    in_print = [triple(method, benchmark, split) for benchmark, split, method, *_ in groups]
    if any(in_print):
        column = ["published seen / unseen / hIoU", "---:", *in_print]
        lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
    note = f"\n{MEMORY_NOTE}\n" if is_marked(in_print) else ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def _mean_and_sd(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _read(path: Path) -> Scores:
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        scores = Scores.model_validate_json(text)
        row_of("", scores)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{path}: {key}: {fault['msg']}; {_RERUN}") from None
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; {_RERUN}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no JSON ({error}); {_RERUN}") from error
    if scores.method not in METHODS:
        raise InputError(
            f"{path}: method '{scores.method}' is not one of the leaderboard "
            f"({', '.join(METHODS)}); correct `--method` or add it to zslib/report/leaderboard.py"
        )
    return scores


def is_fused(method: str) -> bool:
    """Whether a row is another one's, fused with eigenvectors."""
    return method.endswith(FUSED)


_RERUN = "delete it and rerun the stage 'evaluate' that writes it"


def _order(row: Mapping[str, Any], splits: Sequence[str] | None = None) -> tuple[Any, ...]:
    method = list(METHODS).index(row["method"])
    split = splits.index(row["split"]) if splits else _natural(row["split"])
    return (row.get("benchmark", ""), split, method, row["protocol"], row["setting"], row["seed"])


def _natural(name: str) -> tuple[Any, ...]:
    """Sort key by which u2 comes before u10."""
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name))


def _parsed(name: str, value: str) -> Any:
    if name == "seed":
        return int(value)
    if name == "method" and value not in METHODS:
        raise ValueError(f"unknown method '{value}'")
    return value if name in IDENTITY else float(value)
