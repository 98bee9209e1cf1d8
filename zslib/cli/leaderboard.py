"""`zslib leaderboard`: several runs in one table."""

from pathlib import Path

import click

from zslib.cli.command import PATH, command
from zslib.errors import InputError


@command
@click.argument("files", nargs=-1, type=PATH)
@click.option("--experiments", is_flag=True, help="The DVC experiments of the last commit instead.")
def leaderboard(files: tuple[Path, ...], experiments: bool) -> None:
    """Summarise leaderboards: mean ± sd over the seeds.

    Each of FILES is a leaderboard.csv, of one or more seeds. A row need not be in every file; the
    column `seeds` says over how many it is. What is in print for a benchmark and split stands in the
    last column, marked where it is from memory.

    With --experiments, the rows are those of the last commit and of the DVC experiments that were made
    from it. Seeds are averaged where all other parameters, and the code, agree; where they do not, the
    column `variant` keeps them apart, and the lines below the table say in what they differ.
    """
    from zslib.report import aggregate, read_leaderboard
    from zslib.report.experiments import read_runs, rows_of, variants

    if bool(files) == experiments:
        raise InputError("leaderboard: needs files of a report, or --experiments; give one of both")
    found = variants(read_runs(Path.cwd())) if experiments else []
    rows = [row for path in files for row in read_leaderboard(path)]
    click.echo(aggregate([*rows, *rows_of(found)]))
    for number, variant in enumerate(found, start=1):
        click.echo(f"variant {number}: {variant}")
