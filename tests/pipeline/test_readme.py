"""The commands of the README exist, and its overrides compose to valid parameters."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tools.compose_params import compose
from zslib.cli import main
from zslib.params import load_params
from zslib.report import aggregate, read_leaderboard

PROJECT = Path(__file__).resolve().parents[2]


def commands() -> Iterator[list[str]]:
    """Every command of the README's code blocks, as words."""
    for block in re.findall(r"^```\n(.*?)^```", (PROJECT / "README.md").read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words and words[0] in {"make", "dvc", "zslib"}:
                    yield words


COMMANDS = list(commands())


def test_the_readme_shows_commands_of_each_kind() -> None:
    assert {words[0] for words in COMMANDS} == {"make", "dvc", "zslib"}


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "make"], ids=" ".join)
def test_make_targets_exist(words: list[str]) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    assert re.search(rf"^{words[1]}:.*##", makefile, re.M)


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "zslib"], ids=" ".join)
def test_cli_commands_and_options_exist(words: list[str]) -> None:
    command = main.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= known
    assert isinstance(command, click.Command)


@pytest.mark.parametrize("words", [w for w in COMMANDS if "-S" in w], ids=" ".join)
def test_overrides_compose_to_valid_parameters(words: list[str], tmp_path: Path) -> None:
    overrides = [after for word, after in itertools.pairwise(words) if word == "-S"]
    # A sweep `key=a,b` stands for its first value here.
    single = [re.sub(r"^([^=\[]+=[^,\[]+),.*", r"\1", override) for override in overrides]
    compose(tmp_path / "params.yaml", *single)
    load_params(tmp_path / "params.yaml")


def table_rows() -> Iterator[tuple[tuple[str, str], list[str]]]:
    """The rows of the world in README and docs: (method, protocol), and the cells after them."""
    text = (PROJECT / "README.md").read_text() + (PROJECT / "docs/results.md").read_text()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].startswith("`"):
            yield (cells[0].strip("`"), cells[1]), cells[2:]


def test_the_results_are_those_of_the_leaderboards() -> None:
    files = sorted((PROJECT / "docs" / "leaderboards").glob("world-u4-seed*.csv"))
    lines = aggregate([row for path in files for row in read_leaderboard(path)]).splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    found = {
        (row["method"], row["protocol"]): row
        for row in (dict(zip(head, r, strict=True)) for r in rows)
    }
    shown = dict(table_rows())
    assert len(shown) > 10
    columns = ("seeds", "miou_seen", "miou_unseen", "hiou", "miou", "miou_unseen_restricted")
    for row, cells in shown.items():
        assert cells == [found[row][column] for column in columns], row
