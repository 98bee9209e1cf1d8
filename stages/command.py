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

from zslib.code import edited_file
from zslib.errors import InputError, one_line_errors
from zslib.params import load_params, select

SCRATCH = Path("scratch")
"""Locks, timings, and the state of unfinished runs; known to neither git nor DVC."""

EXISTING = click.Path(path_type=Path, exists=True)
PATH = click.Path(path_type=Path)


class Sections:
    """The sections of params.yaml by dotted name; a stage's dvc.yaml entry lists those it asks for.

    In `compute`, a stage of one process finds one device.
    """

    def __init__(self, path: Path, *, parallel: bool) -> None:
        params = load_params(path)
        compute = params.compute if parallel else params.compute.on_one_device()
        self._params = params.model_copy(update={"compute": compute})

    def __call__(self, name: str) -> Any:
        return select(self._params, name)


def stage(function: Callable[..., None]) -> click.Command:
    """Make a command of `function(section, *, out, ...)`, with --params, --out and --debug.

    It refuses to be one of several processes, all of which would do the same work.
    """
    return _command(function, parallel=False)


def parallel_stage(function: Callable[..., None]) -> click.Command:
    """Make a stage whose work is shared by as many processes as there are."""
    return _command(function, parallel=True)


def _command(function: Callable[..., None], *, parallel: bool) -> click.Command:
    @click.command(help=function.__doc__)
    @click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
    @click.option("--out", type=PATH, required=True, help="The artifact to write.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def command(params: Path, out: Path, debug: bool, **options: Any) -> None:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        _die_with_parent()
        with one_line_errors(debug=debug):
            if not parallel:
                _require_one_process(out)
            _require_listed_code()
            with _lock(out), _timed(out):
                function(Sections(params, parallel=parallel), out=out, **options)

    return command


def _require_one_process(out: Path) -> None:
    """Raise InputError if torchrun or srun has started other processes beside this one."""
    processes = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1"
    if int(processes) > 1:
        raise InputError(
            f"{out}: is made by one process, and {processes} were started; start it without "
            "torchrun, or with --ntasks=1 (docs/cluster.md says which stages share their work)"
        )


def _require_listed_code() -> None:
    """Raise InputError if DVC would note down other code for the stage than that which it runs.

    It notes down the stage's list, which was written when the run began, be it hours ago. DVC itself
    may not see the edit: it looks at the code when the lists have been written, not before.
    """
    spec = sys.modules["__main__"].__spec__
    if "DVC_STAGE" not in os.environ or spec is None:
        return
    if path := edited_file(spec.name.removeprefix("stages.")):
        raise InputError(
            f"{path}: has been edited since the run began; run `dvc repro --force code`, then start again"
        )


@contextmanager
def scratch(out: Path, inputs: Sequence[Path], sections: Sequence[Any]) -> Iterator[Path]:
    """Yield a folder that a rerun with the same inputs, parameters and code finds again.

    Code is that of the project's modules loaded by now: a stage imports what it runs before this.
    What runs with other inputs, parameters or code have left of this output goes first: it may be
    most of the disk. The folder itself goes when the stage has published its artifact.
    """
    digest = hashlib.sha256()
    for name, source in _loaded_sources():
        digest.update(name.encode() + hashlib.sha256(source.read_bytes()).digest())
    for path in inputs:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for value in sections:
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        digest.update(json.dumps(plain, sort_keys=True).encode())
    runs = SCRATCH / "runs" / _flat(out)
    folder = runs / digest.hexdigest()[:16]
    if _is_first_process():  # which holds the output's lock
        for stale in set(runs.glob("*")) - {folder}:
            shutil.rmtree(stale, ignore_errors=True)
    yield folder
    if _is_first_process():
        shutil.rmtree(runs, ignore_errors=True)


def _loaded_sources() -> list[tuple[str, Path]]:
    """Return the loaded modules of the project and their files, in the order of their names.

    Of `zslib.params` only the values count, which are in the key: most of it is of other stages.
    """
    # By their specs: the stage itself is loaded as `__main__`.
    packages = ("__main__", "stages", "zslib")
    specs = [m.__spec__ for name, m in sys.modules.items() if name.split(".")[0] in packages]
    files = {spec.name: Path(spec.origin) for spec in specs if spec and spec.origin}
    return sorted(item for item in files.items() if not item[0].startswith("zslib.params"))


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
