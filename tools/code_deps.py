"""Write the modules that each stage runs into the `deps` of the dvc.yaml files: `make deps`.

DVC does not follow imports. A stage's own file and every module of zslib that it imports, directly
or not, within functions or not, come from the import graph; all else in the files stays as it is.
`python -m tools.code_deps --check` changes nothing and fails if a list is out of date.
"""

import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import click
import grimp
from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[1]

# None of these can change a byte of an artifact, and they change often: listed, a new method's
# parameters would make every backbone train again. Values of parameters are tracked by `params:`
# (a test keeps all of them in params.yaml, so that no default in zslib/params is ever in force);
# stages/command.py runs the stage, errors.py words its errors.
NOT_TRACKED = ("zslib.params", "zslib.errors", "stages.command")


@click.command()
@click.option("--check", is_flag=True, help="Only say whether something is out of date.")
def main(check: bool) -> None:
    """Write the code dependencies of all stages."""
    stale = {path: text for path, text in updated(PROJECT) if path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        verdict = "out of date; run `make deps`" if check else "written"
        print(f"{path.relative_to(PROJECT)}: {verdict}")
    sys.exit(bool(check and stale))


def updated(project: Path) -> Iterator[tuple[Path, str]]:
    """Yield each dvc.yaml of the project, with the text it should have."""
    graph = grimp.build_graph("stages", "zslib", cache_dir=None)
    for path in [project / "dvc.yaml", *sorted(project.glob("pipelines/*/dvc.yaml"))]:
        yaml = _round_trip()
        document = yaml.load(path.read_text())
        for stage in document["stages"].values():
            _set_code(stage.get("do", stage), graph)
        text = StringIO()
        yaml.dump(document, text)
        yield path, text.getvalue()


def code_of(module: str, graph: grimp.ImportGraph) -> list[str]:
    """Return the files behind a module of stages: itself and all that it imports, sorted."""
    if module not in graph.modules:
        sys.exit(f"{module}: a stage runs this module, and there is none of that name")
    modules = {module, *graph.find_upstream_modules(module)}
    return sorted(_file(name, graph) for name in modules if not name.startswith(NOT_TRACKED))


def stage_module(command: str) -> str:
    """Return the module that a stage's command runs: `exec python -m stages.NAME ...`."""
    words = command.split()
    return words[words.index("-m") + 1]


def is_code(dependency: str) -> bool:
    """Return whether a dependency is a file of ours rather than an artifact or data."""
    return dependency.endswith(".py")


def _set_code(stage: Any, graph: grimp.ImportGraph) -> None:
    """Replace the code at the end of a stage's dependencies; what stands before it stays."""
    if "deps" not in stage:
        position = list(stage).index("cmd") + 1
        stage.insert(position, "deps", [])
    deps = stage["deps"]
    code = code_of(stage_module(stage["cmd"]), graph)
    if [path for path in deps if is_code(path)] != code:
        for path in [path for path in deps if is_code(path)]:
            deps.remove(path)
        deps.extend(code)


def _file(module: str, graph: grimp.ImportGraph) -> str:
    stem = module.replace(".", "/")
    return f"{stem}/__init__.py" if graph.find_children(module) else f"{stem}.py"


def _round_trip() -> YAML:
    """A reader and writer that keeps comments and our layout."""
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


if __name__ == "__main__":
    main()
