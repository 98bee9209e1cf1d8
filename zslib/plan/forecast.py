"""The table of what every stage will take, its sums, and the refusal of what the disk does not hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zslib.errors import InputError
from zslib.params import Params
from zslib.plan.facts import Cost, Facts
from zslib.plan.graph import Stage, split_of
from zslib.plan.pace import Pace
from zslib.plan.rules import RULES
from zslib.plan.survey import Survey
from zslib.report.tables import read_costs

_FOLDERS = ("artifacts", "data", "evaluations")
"""Of the stages' outputs."""

_LARGEST = 3
"""Artifacts named in a refusal."""


@dataclass(frozen=True)
class Forecast:
    """A stage and its cost."""

    stage: Stage
    cost: Cost

    @property
    def runs(self) -> bool:
        return self.stage.state == "to run"


def forecast(
    stages: Sequence[Stage], params: Params, survey: Survey, pace: Pace, timings: Path
) -> list[Forecast]:
    """Return the cost of every stage; where no rule tells its seconds, those it last took here."""
    facts = Facts(params, survey, pace)
    last = {cost.out: cost.seconds for cost in read_costs(timings, _FOLDERS)}
    found = []
    for stage in stages:
        rule = RULES.get(stage.module)
        cost = rule(facts, stage, split_of(stage, params.splits) or "all") if rule else Cost()
        known = next((last[out] for out in stage.outs if out in last), None)
        seconds = cost.seconds if cost.seconds is not None else known
        found.append(Forecast(stage, Cost(seconds, cost.memory, cost.disk)))
    return found


def refuse_what_does_not_fit(forecasts: Sequence[Forecast], free: int) -> None:
    """Raise InputError, with the numbers, if the stages to run need more than `free` bytes of disk."""
    runs = [f for f in forecasts if f.runs and f.cost.disk]
    needed = sum(f.cost.disk or 0 for f in runs)
    if needed <= free:
        return
    largest = sorted(runs, key=lambda f: -(f.cost.disk or 0))[:_LARGEST]
    named = ", ".join(f"{f.stage.name} {readable(f.cost.disk)}" for f in largest)
    raise InputError(
        f"artifacts: the stages to run need {readable(needed)} of disk, {readable(free)} are free "
        f"(most: {named}); lower features.train_maps, features.short_side or simbaseline.test.short_sides, "
        "take fewer `splits`, empty simbaseline.self_training.splits, or move the project to a larger disk"
    )


def table(forecasts: Iterable[Forecast]) -> Iterable[str]:
    """Yield the lines of the table, and of its sums over what will run."""
    forecasts = list(forecasts)
    width = max((len(f.stage.name) for f in forecasts), default=5)
    yield f"{'stage':{width}}  {'state':10}  {'time':>8}  {'memory':>9}  {'disk':>9}"
    for f in forecasts:
        seconds = duration(f.cost.seconds)
        yield (
            f"{f.stage.name:{width}}  {f.stage.state:10}  {seconds:>8}  "
            f"{readable(f.cost.memory):>9}  {readable(f.cost.disk):>9}"
        )
    runs = [f for f in forecasts if f.runs]
    unknown = sum(f.cost.seconds is None for f in runs)
    seconds = duration(sum(f.cost.seconds or 0 for f in runs))
    memory = max((f.cost.memory or 0 for f in runs), default=0)
    disk = sum(f.cost.disk or 0 for f in runs)
    yield (
        f"to run: {len(runs)} of {len(forecasts)} stages, {seconds} one after another "
        f"(without {unknown} that nobody can tell), at most {readable(memory)} of memory, "
        f"{readable(disk)} of disk"
    )


def readable(count: int | None) -> str:
    """Return bytes as GiB or MiB."""
    if count is None:
        return "-"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def duration(seconds: float | None) -> str:
    """Return seconds as hours, minutes or seconds."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
