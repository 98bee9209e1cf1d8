"""`zslib doctor`: is a dataset in order?"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from zslib.cli.command import PARAMS, command, conclude
from zslib.errors import InputError
from zslib.params import load_params
from zslib.params.benchmark import DatasetParams, Layout, Role, VocLists

if TYPE_CHECKING:
    from zslib.datasets.doctor import RoleSummary


@command
@PARAMS
@click.option("--root", help="Dataset folder instead of dataset.root.")
@click.option("--layout", type=click.Choice(get_args(Layout)), help="Instead of dataset.layout.")
@click.option("--lists", type=click.Choice(get_args(VocLists)), help="Instead of dataset.lists.")
def doctor(params: Path, root: str | None, layout: str | None, lists: str | None) -> None:
    """Check every file of a dataset.

    Says what is wrong and what its images hold. Its classes are taken to be those of the benchmark in
    the parameters.
    """
    from zslib.datasets.doctor import diagnose

    if root == "":
        raise InputError("--root: is empty; give the folder of the dataset")
    known = load_params(params)
    given = {"root": root, "layout": layout, "lists": lists}
    chosen = known.dataset.model_dump() | {k: v for k, v in given.items() if v is not None}
    classes = known.benchmark.classes
    found = diagnose(
        DatasetParams(**chosen), num_classes=len(classes), workers=len(os.sched_getaffinity(0))
    )
    for problem in found.problems:
        click.echo(str(problem))
    for summary in found.summary:
        if summary.images:
            click.echo(_described(summary, classes, known.dataset.published or {}))
    benchmark = f"with the {len(classes)} classes of benchmark '{known.benchmark.name}' ({params})"
    conclude(len(found.problems), f"problem(s) in {chosen['root']}, {benchmark}")


def _described(
    summary: "RoleSummary", classes: Sequence[str], published: Mapping[Role, int]
) -> str:
    absent = ", ".join(classes[c] for c in summary.absent_classes) or "none"
    count = f"{summary.images} images"
    if summary.role in published:
        count += f" (published with {published[summary.role]})"
    return (
        f"{summary.role}: {count}, {summary.void_share:.2%} of the pixels void, "
        f"classes never present: {absent}"
    )
