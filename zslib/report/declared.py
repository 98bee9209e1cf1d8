"""Which score files the stages in force write, and where the evaluation of each lies.

DVC deletes nothing when a stage leaves the graph: of a variant that was switched off, or a split that is
no longer wanted, the scores stay in `results/`, made with whatever was in force then. So a report shows
what the dvc.yaml files declare. They are read as they stand: importing DVC takes longer than the report.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from zslib.errors import InputError

ValueOf = Callable[[str], Any]
"""The value in params.yaml at a dotted name."""

_VARIABLE = re.compile(r"\$\{([^}]+)\}")


def declared_scores(project: Path, value_of: ValueOf) -> dict[str, str]:
    """Return the name of every score file, and that of the folder its stage evaluates into.

    Raises:
        InputError: the project has no dvc.yaml, or one cannot be read.
    """
    files = [project / "dvc.yaml", *sorted(project.glob("pipelines/*/dvc.yaml"))]
    return {
        Path(score).name: Path(evaluation).name
        for file in files
        for stage in _read(file)["stages"].values()
        for score, evaluation in _scored(stage, value_of)
    }


def _read(file: Path) -> Any:
    try:
        return yaml.load(file.read_bytes(), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file}: cannot be read ({reason}); run in the project's folder"
        ) from error


def _scored(stage: Mapping[str, Any], value_of: ValueOf) -> Iterator[tuple[str, str]]:
    """Yield each metrics file of a stage with the stage's output, for all values of its matrix."""
    if "metrics" not in stage:
        return
    (evaluation,) = map(_path, stage["outs"])
    for item in _items(stage.get("matrix", {}), value_of):
        for score in map(_path, stage["metrics"]):
            yield _filled(score, item, value_of), _filled(evaluation, item, value_of)


def _items(matrix: Mapping[str, Any], value_of: ValueOf) -> Iterator[dict[str, Any]]:
    """Yield what each stage of a matrix fills in for `item.NAME`; a stage without one is one stage."""
    names = [f"item.{name}" for name in matrix]
    lists = (
        value_of(values.removeprefix("${").removesuffix("}")) if isinstance(values, str) else values
        for values in matrix.values()
    )
    for values in itertools.product(*lists):
        yield dict(zip(names, values, strict=True))


def _filled(template: str, item: Mapping[str, Any], value_of: ValueOf) -> str:
    def value(found: re.Match[str]) -> str:
        return str(item[found[1]] if found[1] in item else value_of(found[1]))

    return _VARIABLE.sub(value, template)


def _path(entry: str | Mapping[str, Any]) -> str:
    """Return the path of an output, with or without flags."""
    return entry if isinstance(entry, str) else next(iter(entry))
