"""Fault 22: wrong parameters end a stage with one line that names file and key, before torch."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
STAGES = sorted(
    path.stem
    for path in (PROJECT / "stages").glob("*.py")
    if path.stem not in ("__init__", "command", "end_to_end")
)

# Runs a stage as `python -m` does, and tells afterwards which heavy modules it has imported.
RUNNER = """
import runpy, sys
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    heavy = {"torch", "torchvision", "timm", "gensim", "lightning_fabric", "matplotlib"}
    print("imported:", *sorted(heavy & set(sys.modules)))
"""


def run(stage: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in `folder` on its params.yaml, with some file for each required option."""
    command: click.Command = importlib.import_module(f"stages.{stage}").main
    some_file = folder / "input"
    some_file.touch()
    arguments = [*flags, "--out", "out/artifact"]
    for option in command.params:
        if option.required and option.name != "out":
            arguments += [option.opts[0], *some_values(option.type, some_file)]
    return subprocess.run(
        [sys.executable, "-c", RUNNER, f"stages.{stage}", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def some_values(kind: click.ParamType, some_file: Path) -> list[str]:
    if isinstance(kind, click.Tuple):
        return [value for part in kind.types for value in some_values(part, some_file)]
    if isinstance(kind, click.Choice):
        return [str(kind.choices[0])]
    return [str(some_file) if isinstance(kind, click.Path) else "u4"]


@pytest.fixture
def write_params(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Write the project's params.yaml with one change into an empty folder; return the folder."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        content = yaml.safe_load((PROJECT / "params.yaml").read_text())
        change(content)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
        return tmp_path

    return write


def assert_refused(result: subprocess.CompletedProcess[str], folder: Path, *named: str) -> None:
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: params.yaml: ")
    assert all(name in line for name in named)
    assert result.stdout.split() == ["imported:"]
    assert not (folder / "out" / "artifact").exists()


def test_an_entry_that_a_table_lacks_is_named(write_params: Callable[..., Path]) -> None:
    folder = write_params(lambda _: None)
    assert_refused(run("self_train", folder), folder, "self_training.u4: missing", "cagnet")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_a_misspelt_key(stage: str, write_params: Callable[..., Path]) -> None:
    folder = write_params(lambda p: p["zs3net"]["generator"].update(lrr=1e-4))
    assert_refused(run(stage, folder), folder, "zs3net.generator.lrr", "unknown key")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p["backbone"].update(epochs="many"), ["backbone.epochs", "'many'"]),
        (lambda p: p["backbone"].update(epochs=2.5), ["backbone.epochs"]),
        (lambda p: p["backbone"].update(epochs=0), ["backbone.epochs", "got 0"]),
        (lambda p: p["zs3net"]["generator"].update(root="yes"), ["zs3net.generator.root"]),
        (lambda p: p["zs3net"]["generator"].update(noise="pink"), ["noise", "gaussian"]),
        (lambda p: p.pop("selection"), ["selection", "missing"]),
        (lambda p: p["backbone"].pop("epochs"), ["backbone.epochs", "missing"]),
        (lambda p: p.update(spnet=None), ["spnet"]),
        (lambda p: p.update(extra={}), ["extra", "unknown key"]),
        (lambda p: p.update(splits=["u3"]), ["splits", "u3"]),
        (lambda p: p.update(splits=["u4", "u4"]), ["splits", "twice"]),
        (lambda p: p["joem"].update(end_to_end_splits=["u99"]), ["joem.end_to_end_splits", "u99"]),
        (lambda p: p["zs3net"]["graph"].update(splits=["u2"]), ["zs3net.graph.splits", "u2"]),
        (lambda p: p.update(seed=-1), ["seed", "got -1"]),
        (lambda p: p.update(seed=2**70), ["seed"]),
        (lambda p: p["backbone"]["optimiser"].update(lr=float("inf")), ["backbone.optimiser.lr"]),
        (lambda p: p["benchmark"].update(name="a/b"), ["benchmark.name", "a/b"]),
        (lambda p: p["benchmark"]["unseen"].update(u4=[]), ["benchmark.unseen.u4"]),
        (lambda p: p["benchmark"]["unseen"].update(u4=["zebra"] * 2), ["unseen.u4", "twice"]),
        (
            lambda p: p["benchmark"]["unseen"].update(u4=p["benchmark"]["classes"]),
            ["unseen.u4", "no class that is seen"],
        ),
        (lambda p: p["benchmark"]["classes"].append(""), ["benchmark.classes"]),
        (lambda p: p["dataset"].update(root=""), ["dataset.root"]),
        (lambda p: p["benchmark"]["unseen"].update(u4=["zebu"]), ["u4", "zebu"]),
        (lambda p: p["spnet"]["vectors"].update(sources=["glove"]), ["spnet.vectors", "glove"]),
        (lambda p: p["vectors"].update(source="glove"), ["vectors: source", "'glove'", "word2vec"]),
        (
            lambda p: p["sazs"]["objectives"].update(others="background"),
            ["sazs.objectives.others", "no class is called 'background'"],
        ),
        (
            lambda p: p["vision_language"].update(models=[]),
            ["simbaseline.splits", "needs a vision-language model"],
        ),
        (
            lambda p: (
                p["vision_language"].update(models=[]),
                p["simbaseline"].update(
                    splits=[], self_training=p["simbaseline"]["self_training"] | {"splits": []}
                ),
            ),
            ["simbaseline.proposal_splits", "text_tables"],
        ),
        (
            lambda p: p["vision_language"].update(text_tables=["fasttext"]),
            ["vision_language", "text_tables", "empty one"],
        ),
        (
            lambda p: p["vision_language"].update(models=[], text_tables=["glove"]),
            ["vision_language.text_tables", "glove"],
        ),
        (
            lambda p: p["simbaseline"].update(proposal_splits=[]),
            ["simbaseline", "u4", "proposal_splits"],
        ),
        (
            lambda p: p["simbaseline"].update(splits=[]),
            ["simbaseline", "self_training.splits", "u4"],
        ),
        (
            lambda p: p["benchmark"]["classes"].append("background"),
            ["sazs.objectives.others", "no pixel would ever be 'background'"],
        ),
    ],
)
def test_what_is_wrong_is_named(
    change: Callable[[dict], object], named: list[str], write_params: Callable[..., Path]
) -> None:
    folder = write_params(change)
    assert_refused(run("backbone", folder), folder, *named)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("seed: [0", "line 1"),
        ("seed: 0\n\tsplits: [u4]", "line 2"),
        ("- seed", "mapping"),
        ("", "mapping"),
        ("seed: 2020-01-01", "seed"),
        (None, "No such file; run this in the project's folder"),
    ],
)
def test_a_broken_file_is_named(text: str | None, named: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    assert_refused(run("backbone", tmp_path), tmp_path, named)


def test_debug_shows_the_traceback(write_params: Callable[..., Path]) -> None:
    folder = write_params(lambda p: p.pop("selection"))
    result = run("backbone", folder, "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "InputError" in result.stderr


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as text; people and `dvc exp run -S` mean the number."""
    from zslib.params import load_params

    text = (PROJECT / "params.yaml").read_text()
    assert "lr: 0.0002" in text
    (tmp_path / "params.yaml").write_text(text.replace("lr: 0.0002", "lr: 2e-4"))
    assert load_params(tmp_path / "params.yaml").zs3net.generator.lr == 2e-4
