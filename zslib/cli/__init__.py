"""The command `zslib`: look after datasets, results and the cache. Stages are run by DVC.

One module per command, `command` holds what they share. They import what takes time, such as torch
and DVC, only when they run: help and wrong parameters need none of it.
"""

import click

from zslib.cli.audit import audit
from zslib.cli.doctor import doctor
from zslib.cli.fsck import fsck
from zslib.cli.import_checkpoint import import_checkpoint
from zslib.cli.leaderboard import leaderboard
from zslib.cli.plan import plan
from zslib.cli.predict import predict
from zslib.cli.text_vectors import text_vectors

__all__ = ["main"]

main = click.Group(
    "zslib",
    commands=[audit, doctor, fsck, import_checkpoint, leaderboard, plan, predict, text_vectors],
    help="Zero-shot segmentation, one pipeline: `dvc repro` runs it, this looks after what it needs.",
)
