"""What the commands share: one-line errors, parameters, splits, and how a list of problems ends."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zslib.errors import InputError, one_line_errors
from zslib.params import Params

PATH = click.Path(path_type=Path)
PARAMS = click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
SPLIT = click.option("--split", help="Which classes were unseen; default: the first of `splits`.")


def command(function: Callable[..., None]) -> click.Command:
    """Make a command; what the user gave wrongly ends in one line and exit code 2."""

    @click.command(help=function.__doc__)
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(debug: bool, **options: Any) -> None:
        with one_line_errors(debug=debug):
            function(**options)

    return run


def chosen_split(params: Params, given: str | None) -> str:
    """Return the split asked for, or the one that comes first.

    Raises:
        InputError: nothing is trained in this benchmark, or it has no such split.
    """
    described = params.benchmark
    if given in described.unseen:
        return given
    if not params.splits:
        raise InputError(
            f"benchmark {described.name}: nothing is trained there; take {described.trained_on}"
        )
    if given is not None:
        known = ", ".join(described.unseen)
        raise InputError(
            f"--split: '{given}' is not one of {described.name}'s, {known}; choose one of them"
        )
    return params.splits[0]


def conclude(problems: int, what: str) -> None:
    """Say how many problems there are; any ends in exit code 2."""
    click.echo(f"{problems or 'no'} {what}")
    if problems:
        sys.exit(2)
