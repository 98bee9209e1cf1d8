"""What a dvc.yaml says of a stage is what the stage's code does."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zslib.params import load_params, select
from zslib.report.declared import declared_scores

if TYPE_CHECKING:
    from tests.pipeline.conftest import Declared

OURS = re.compile(r"^(artifacts|curves|data|evaluations|report|results)\b")


def sections_asked_for(source: str, options: dict[str, list[str]]) -> set[str]:
    """The arguments of every `section(...)` call; `name` or `{name}` in one is each of the command's --name.

    What stands under `if name:` counts where the command gives --name.
    """
    asked = set()
    for node in _walk(ast.parse(source), options):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "section":
            name = ast.unparse(node.args[0]).removeprefix("f").strip("'\"")
            if isinstance(node.args[0], ast.Name):
                name = f"{{{name}}}"
            option = re.search(r"\{(\w+)\}", name)
            values = options[option[1]] if option else [""]
            asked |= {re.sub(r"\{\w+\}", value, name) for value in values}
    return asked


def _walk(node: ast.AST, options: dict[str, list[str]]) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id not in options:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, options)


def sections_handed_to(source: str) -> set[str]:
    """The functions that are given `section` itself, and ask for what the source does not show."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.func)
        for call in calls
        if any(isinstance(arg, ast.Name) and arg.id == "section" for arg in call.args)
    }


def sections_of_declared_scores(project: Path, known: set[str]) -> set[str]:
    """What `declared_scores` asks for, beside what lies within the known sections."""
    params, asked = load_params(project / "params.yaml"), set()

    def section(name: str) -> Any:
        asked.add(name)
        return select(params, name)

    declared_scores(project, section)
    return {name for name in asked if name.split(".")[0] not in known}


def test_params_are_the_sections_that_the_code_asks_for(
    declared: "Declared", project: Path
) -> None:
    source = (project / declared.module.replace(".", "/")).with_suffix(".py").read_text()
    asked = sections_asked_for(source, declared.options)
    readers = sections_handed_to(source)
    assert readers <= {"declared_scores"}
    if readers:
        asked |= sections_of_declared_scores(project, asked)
    # Where the work runs must not make a stage stale: results do not depend on it.
    assert set(declared.entry.get("params", [])) == asked - {"compute"}


def test_sections_are_found_in_code() -> None:
    source = """
def main(section, *, split):
    a, b = section("seed"), section(f"benchmark.unseen.{split}")
    d = section(split)
    if graph:
        c = section("graph")
"""
    options = {"split": ["${item.split}"]}
    asked = {"seed", "benchmark.unseen.${item.split}", "${item.split}"}
    assert sections_asked_for(source, options) == asked
    assert sections_asked_for(source, options | {"graph": []}) == asked | {"graph"}
    both = {"seed", "benchmark.unseen.a", "benchmark.unseen.b", "a", "b"}
    assert sections_asked_for(source, {"split": ["a", "b"]}) == both


def test_a_function_that_is_given_the_sections_is_found() -> None:
    assert sections_handed_to('f(section("seed"), g(Path(), section))') == {"g"}


def test_no_stage_depends_on_where_the_dataset_lies(declared: "Declared") -> None:
    """That stands in root.json; a stage depends on the files beside it."""
    assert not [path for path in declared.paths("deps") if path.endswith("/index")]


def test_the_command_fits_the_stage(declared: "Declared") -> None:
    command: click.Command = importlib.import_module(declared.module).main
    known = {option.opts[0].removeprefix("--"): option for option in command.params}
    given = set(declared.options)
    assert given <= set(known)
    assert {name for name, option in known.items() if option.required} <= given


def test_every_path_of_the_command_is_declared(declared: "Declared") -> None:
    outputs = [*declared.paths("outs"), *declared.paths("metrics"), *declared.paths("plots")]
    given = [(option, value) for option, values in declared.options.items() for value in values]
    for option, value in given:
        if OURS.match(value) and value not in outputs and option != "scores":
            # A folder will do of which the stage reads, and declares, a part.
            path, deps = Path(value), declared.paths("deps")
            assert any(path.is_relative_to(d) or Path(d).is_relative_to(path) for d in deps), (
                f"--{option} {value} is neither under deps nor among the outputs"
            )


def test_every_output_is_written_by_the_command(declared: "Declared") -> None:
    written = [value for values in declared.options.values() for value in values]
    for path in [*declared.paths("outs"), *declared.paths("plots")]:
        assert path in written
    if "row" in declared.options:
        written += declared.scores
        assert len(declared.paths("metrics")) == len(declared.scores)
    for path in declared.paths("metrics"):
        assert path in written
