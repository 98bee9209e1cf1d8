"""Scores of DVC experiments: those of the last commit, and of what `dvc exp run` made from it.

Every run tells by itself what its rows are: which score files its pipeline writes, with which
parameters and which code. Runs in which all of that agrees but for the seed are the seeds of one
variant, and can be averaged; others are kept apart.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zslib.code import CODE_LISTS
from zslib.errors import InputError
from zslib.report.leaderboard import IDENTITY, Row, parse_scores, row_of

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.repo.experiments.serialize import ExpState

_NO_SCORE_DEPENDS_ON = ("seed", "compute", "report")
"""Sections of params.yaml: the seed is what is averaged over; the others change no score."""

_CHOICE_OF_ROWS = "splits"
"""What the names of parameters end with that say which rows are made, not how."""

_DIGITS = 8
"""Of the checksum of a stage's code, in the description of a variant."""

_LISTED = 6
"""Parameters named in the description of a variant."""


@dataclass(frozen=True)
class Run:
    """The last commit or one experiment, with its rows and what they depend on."""

    name: str
    benchmark: str
    rows: tuple[Row, ...]
    params: Mapping[str, str]
    """Value of each parameter that scores depend on, by dotted name."""
    code: Mapping[str, str]
    """Checksum of the code of each stage that the scores were made by."""


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but the seed, and in what they differ from the other variants."""

    runs: tuple[Run, ...]
    settings: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.settings) - _LISTED
        listed = [*self.settings[:_LISTED], *[f"{more} more"] * (more > 0)]
        names = ", ".join(run.name for run in self.runs)
        return f"{'; '.join([self.runs[0].benchmark, *listed])}: {names}"


def read_runs(project: Path) -> list[Run]:
    """Return the runs that have scores: the last commit, then its experiments from old to new.

    Raises:
        InputError: the folder is no project of git and DVC, no experiment was made from the last
            commit, one cannot be read, or none has scores.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import Git

    try:
        with Repo(str(project)) as repo:
            if not isinstance(repo.scm, Git):
                raise InputError(f"{project}: is not under git, which keeps experiments; git init")
            runs = [run for state in _states(repo) if (run := _run(repo, state)).rows]
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{project}: DVC cannot read experiments ({reason}); correct that"
        ) from error
    if not runs:
        raise InputError(f"{project}: no experiment has a score in results/; run `evaluate` stages")
    return runs


def variants(runs: Sequence[Run]) -> list[Variant]:
    """Put the runs of each benchmark together that differ in nothing but the seed."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        of_benchmark = [other for other in runs if other.benchmark == run.benchmark]
        key = (run.benchmark, *_settings(run, of_benchmark))
        found.setdefault(key, []).append(run)
    return [Variant(tuple(alike), key[1:]) for key, alike in found.items()]


def rows_of(found: Iterable[Variant]) -> Iterator[Row]:
    """Yield the rows of all variants, numbered from 1 as `variant`; each seed of a row once.

    Raises:
        InputError: two runs of a variant have the same seed and other scores.
    """
    for number, variant in enumerate(found, start=1):
        known: dict[tuple[Any, ...], tuple[Run, Row]] = {}
        for run in variant.runs:
            for row in run.rows:
                key = tuple(row[name] for name in IDENTITY)
                first, same = known.setdefault(key, (run, row))
                if same != row:
                    raise InputError(
                        f"{run.name}: has other scores than {first.name} with the same parameters, "
                        f"code and seed ({' '.join(map(str, key))}); `dvc exp remove` one of them"
                    )
        yield from ({**row, "variant": number} for _, row in known.values())


def _states(repo: "Repo") -> list["ExpState"]:
    """Return the last commit and its finished experiments, as `dvc exp show` finds them."""
    shown = repo.experiments.show(hide_queued=True, hide_failed=True, hide_workspace=True)
    if not shown:
        raise InputError(f"{repo.root_dir}: has no commit; commit, then `dvc exp run -S seed=1`")
    (last,) = shown
    ranges = [r for r in last.experiments or () if not r.executor or r.executor.state == "success"]
    if not ranges:
        raise InputError(
            f"{repo.root_dir}: no experiment was made from the last commit ({last.rev[:7]}); "
            "`dvc exp run -S seed=1` makes one, `dvc exp list --all-commits` shows others"
        )
    return [last, *(made.revs[0] for made in reversed(ranges))]


def _run(repo: "Repo", state: "ExpState") -> Run:
    name = state.name or state.rev[:7]
    if state.data is None:
        reason = " ".join(state.error.msg.split()) if state.error else "no data"
        raise InputError(f"{name}: cannot be read ({reason}); correct or remove that experiment")
    files = [Path(path) for path in state.data.metrics]
    scores = [path for path in files if path.parts[:1] == ("results",) and len(path.parts) == 3]
    params = state.data.params.get("params.yaml", {}).get("data", {})
    lists = {Path(path): dep.hash for path, dep in state.data.deps.items()}
    code = {path.stem: hash for path, hash in lists.items() if path.parent == CODE_LISTS and hash}
    return Run(
        name=name,
        benchmark=scores[0].parent.name if scores else "",
        rows=tuple(_rows(repo, state.rev, name, scores)),
        params={key: value for key, value in _flat(params) if _matters(key)},
        code={name: checksum[:_DIGITS] for name, checksum in code.items() if name != "report"},
    )


def _rows(repo: "Repo", rev: str, name: str, files: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of those score files that the commit has; DVC's own copies lack lists."""
    committed = repo.scm.get_fs(rev)
    for path in files:
        if committed.exists(path.as_posix()):
            text = committed.read_text(path.as_posix(), encoding="utf-8")
            yield row_of(path.parent.name, parse_scores(f"{name}:{path}", text))


def _settings(run: Run, others: Sequence[Run]) -> Iterator[str]:
    """Yield `key=value` for all in which not every run agrees.

    A parameter that a run lacks is a difference; a stage that it lacks is only one that it did not need.
    """
    for key in sorted({key for other in others for key in other.params}):
        if len({other.params.get(key) for other in others}) > 1:
            yield f"{key}={run.params.get(key, 'none')}"
    for stage in sorted(run.code):
        if len({other.code[stage] for other in others if stage in other.code}) > 1:
            yield f"code of {stage}={run.code[stage]}"


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def _matters(key: str) -> bool:
    first = key.split(".", maxsplit=1)[0]
    return first not in _NO_SCORE_DEPENDS_ON and not key.endswith(_CHOICE_OF_ROWS)
