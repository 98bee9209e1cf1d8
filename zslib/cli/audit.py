"""`zslib audit`: can a label of an unseen pixel reach training?"""

import os
import tempfile
from pathlib import Path

import click

from zslib.cli.command import PARAMS, command, conclude
from zslib.params import load_params


@command
@PARAMS
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the random exchange of labels.",
)
def audit(params: Path, seed: int) -> None:
    """Try to leak labels of unseen pixels into training.

    They are exchanged in a copy of the dataset, and what training stages read is compared.
    """
    from zslib.audit import audit_split, mask_readers

    known = load_params(params)
    leaks = 0
    for name in known.splits:
        in_place = Path("artifacts") / known.benchmark.name / name / "seen_labels.h5"
        with tempfile.TemporaryDirectory(prefix="zslib-audit-") as folder:
            exchange = audit_split(
                known,
                name,
                Path(folder),
                seed=seed,
                workers=len(os.sched_getaffinity(0)),
                in_place=in_place,
            )
        click.echo(str(exchange))
        leaks += len(exchange.leaks)
    for readers in mask_readers(Path.cwd(), known.dataset.root):
        click.echo(str(readers))
        leaks += len(readers.leaks)
    conclude(leaks, "leak(s)")
