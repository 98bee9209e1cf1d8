"""The stages of the benchmark in force as DVC sees them: what is done, what is cached, what will run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zslib.code import CODE_STAGE, edited_stages
from zslib.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

State = Literal["up to date", "cached", "to run"]


@dataclass(frozen=True)
class Stage:
    """One stage: its command says what it does, its outputs where that lies."""

    name: str
    command: str
    outs: tuple[str, ...]
    state: State

    @property
    def module(self) -> str:
        """NAME of `python -m stages.NAME`."""
        words = self.command.split()
        return words[words.index("-m") + 1].removeprefix("stages.") if "-m" in words else ""

    def option(self, name: str) -> str | None:
        """Return the value of an option of the command."""
        return next(iter(self.options(name)), None)

    def options(self, name: str) -> list[str]:
        """Return the same of an option that may be given several times."""
        words = self.command.split()
        return [value for word, value in pairwise(words) if word == name]


def read_stages(project: Path) -> list[Stage]:
    """Return every stage, each after those that it depends on.

    Raises:
        InputError: the folder is no DVC project, or another DVC process holds it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        repo = Repo(str(project))
        with lock_repo(repo):
            return list(_stages(repo, set(repo.status())))
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{project}: DVC cannot read its stages ({reason}); correct that"
        ) from error


def _stages(repo: "Repo", changed: set[str]) -> Iterator[Stage]:
    graph = repo.index.graph
    named = {stage.addressing: stage for stage in graph}
    needs = {name: {d.addressing for d in graph.successors(s)} for name, s in named.items()}
    states: dict[str, State] = {}
    edited = edited_stages() if CODE_STAGE in changed else set()
    for name in TopologicalSorter(needs).static_order():
        stage = named[name]
        outs = tuple(out.def_path for out in stage.outs if out.use_cache)
        found = Stage(name, stage.cmd or "", outs, "to run")
        if found.module not in edited:
            before = [states[n] for n in needs[name] - {CODE_STAGE}]
            found = replace(found, state=_state(stage, name in changed, before))
        states[name] = found.state
        yield found


def _state(stage: Any, is_changed: bool, before: list[State]) -> State:
    """What will happen to a stage; behind one that runs, nothing is known to be cached."""
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    if any(state != "up to date" for state in before):
        return "to run"
    if not is_changed:
        return "up to date"
    try:
        if stage.changed_deps() or stage.changed_stage():
            stage.save_deps()
            for out in stage.outs:  # else DVC takes what the old dependencies gave for cached
                out.hash_info = HashInfo()
        stage.repo.stage_cache.restore(stage, dry=True)
    except (DvcException, OSError):
        return "to run"
    return "cached"


def split_of(stage: Stage, splits: Sequence[str]) -> str | None:
    """Return the split that a stage of a matrix belongs to: a folder of its outputs' paths."""
    parts = {part for out in stage.outs for part in Path(out).parts}
    return next((split for split in splits if split in parts), None)
