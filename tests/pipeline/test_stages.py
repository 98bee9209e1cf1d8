"""What a dvc.yaml says of a stage is what the stage's code does."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tests.pipeline.conftest import Declared

OURS = re.compile(r"^(artifacts|curves|data|evaluations|report|results)\b")


def sections_asked_for(source: str, options: dict[str, str]) -> set[str]:
    """The arguments of every `section(...)` call; `name` or `{name}` in one is the command's --name.

    What stands under `if name:` counts where the command gives --name.
    """
    asked = set()
    for node in _walk(ast.parse(source), options):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "section":
            name = ast.unparse(node.args[0]).removeprefix("f").strip("'\"")
            if isinstance(node.args[0], ast.Name):
                name = f"{{{name}}}"
            asked.add(re.sub(r"\{(\w+)\}", lambda match: options[match[1]], name))
    return asked


def _walk(node: ast.AST, options: dict[str, str]) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id not in options:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, options)


def test_params_are_the_sections_that_the_code_asks_for(
    declared: "Declared", project: Path
) -> None:
    source = (project / declared.module.replace(".", "/")).with_suffix(".py").read_text()
    asked = sections_asked_for(source, declared.options)
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
    options = {"split": "${item.split}"}
    asked = {"seed", "benchmark.unseen.${item.split}", "${item.split}"}
    assert sections_asked_for(source, options) == asked
    assert sections_asked_for(source, options | {"graph": ""}) == asked | {"graph"}


def test_the_command_fits_the_stage(declared: "Declared") -> None:
    command: click.Command = importlib.import_module(declared.module).main
    known = {option.name: option for option in command.params}
    given = {name.replace("-", "_") for name in declared.options}
    assert given <= set(known)
    assert {name for name, option in known.items() if option.required} <= given


def test_every_path_of_the_command_is_declared(declared: "Declared") -> None:
    outputs = [*declared.paths("outs"), *declared.paths("metrics"), *declared.paths("plots")]
    for option, value in declared.options.items():
        if OURS.match(value) and value not in outputs:
            # A folder will do of which the stage reads, and declares, a part.
            path, deps = Path(value), declared.paths("deps")
            assert any(path.is_relative_to(d) or Path(d).is_relative_to(path) for d in deps), (
                f"--{option} {value} is neither under deps nor among the outputs"
            )


def test_every_output_is_written_by_the_command(declared: "Declared") -> None:
    for kind in ("outs", "metrics", "plots"):
        for path in declared.paths(kind):
            assert path in declared.options.values()
