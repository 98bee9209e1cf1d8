"""What every stage command shares: options, locking, clean errors, scratch space, timing.

A stage checks its parameters before it imports torch, holds a lock on its output, dies with the DVC
process that started it (killing DVC alone would leave it running), and turns a user's mistake into
one line and exit code 2.
"""

import ctypes
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from zslib.errors import InputError, one_line_errors
from zslib.params import load_params, select

SCRATCH = Path("scratch")
"""Locks, timings, and the state of unfinished runs; known to neither git nor DVC."""

EXISTING = click.Path(path_type=Path, exists=True)
PATH = click.Path(path_type=Path)


class Sections:
    """The sections of params.yaml by dotted name; a stage's dvc.yaml entry lists those it asks for."""

    def __init__(self, path: Path) -> None:
        self._params = load_params(path)

    def __call__(self, name: str) -> Any:
        return select(self._params, name)


def stage(function: Callable[..., None]) -> click.Command:
    """Make a command of `function(section, *, out, ...)`, with --params, --out and --debug."""

    @click.command(help=function.__doc__)
    @click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
    @click.option("--out", type=PATH, required=True, help="The artifact to write.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def command(params: Path, out: Path, debug: bool, **options: Any) -> None:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        _die_with_parent()
        with one_line_errors(debug=debug), _lock(out), _timed(out):
            function(Sections(params), out=out, **options)

    return command


@contextmanager
def scratch(out: Path, inputs: Sequence[Path], sections: Sequence[Any]) -> Iterator[Path]:
    """Yield a folder that a rerun with the same inputs and parameters finds again.

    It goes when the stage has published its artifact, together with what runs with other inputs
    or parameters have left behind.
    """
    digest = hashlib.sha256()
    for path in inputs:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for value in sections:
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        digest.update(json.dumps(plain, sort_keys=True).encode())
    folder = SCRATCH / "runs" / _flat(out)
    yield folder / digest.hexdigest()[:16]
    if _is_first_process():
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Hold the lock of an output for as long as the process lives."""
    if not _is_first_process():
        yield
        return
    path = SCRATCH / "locks" / f"{_flat(out)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{out}: another process is writing it; wait for it or end it, then rerun"
            ) from None
        yield


def _flat(out: Path) -> str:
    """Name an output in one word: an absolute path must not lead out of the scratch folder."""
    return str(out).strip("/").replace("/", "--")


@contextmanager
def _timed(out: Path) -> Iterator[None]:
    """Note how long the stage took, for the report's table of costs."""
    started = time.monotonic()
    yield
    if _is_first_process():
        line = {"out": str(out), "seconds": round(time.monotonic() - started, 2)}
        SCRATCH.mkdir(exist_ok=True)
        with (SCRATCH / "timings.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _is_first_process() -> bool:
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_PROCID")
    return int(rank or 0) == 0


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        parent = os.getppid()
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the process that started this stage is gone")
