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
