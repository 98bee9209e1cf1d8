"""Bring the benchmark up to date with several stages at a time: `make repro JOBS=4`.

`dvc repro` runs one stage after another. This runs every stage that is out of date, or stands behind
one that is, as soon as what it depends on is there, each by a `dvc repro` of its own. `dvc repro` after
it finds nothing to do. Killed at any point, it goes on where it stopped.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Lock
from typing import Any

import click

from zslib.code import CODE_LISTS, CODE_STAGE, edited_stages
from zslib.errors import InputError, one_line_errors

LONGEST_NAME = 30

# Every stage has a process of DVC, and half of what that takes to start is imports: one server has
# them, and the processes fork from it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce"])


@click.command()
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--gpus", default="", help="Which GPUs the stages take turns on, as in '0,1'.")
@click.argument("targets", nargs=-1)
def main(jobs: int, gpus: str, targets: Sequence[str]) -> None:
    """Run what is out of date; TARGETS are stages, with all they depend on. Default: everything."""
    with one_line_errors(debug=False), _dvc_errors():
        failed = bring_up_to_date(Workers(jobs, gpus.split(",") if gpus else []), targets)
    if failed:
        sys.exit(f"{failed}: failed (see above); nothing new was started, the rest is kept")
    print("Data and pipelines are up to date.")


def bring_up_to_date(workers: "Workers", targets: Sequence[str]) -> str | None:
    """Run what is out of date; return the first stage that failed."""
    stale = stale_stages(targets)
    # An edit while the lists were written escapes DVC, which looks at the code only afterwards.
    if CODE_STAGE in stale or (CODE_LISTS.is_dir() and edited_stages()):
        if failed := workers.run({CODE_STAGE: set()}):
            return failed
        stale = stale_stages(targets)
    return workers.run(stale)


@contextmanager
def _dvc_errors() -> Iterator[None]:
    """Raise what DVC says of the user's files and targets as an InputError of one line."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise InputError(" ".join(str(error).split())) from error


def stale_stages(targets: Sequence[str]) -> dict[str, set[str]]:
    """Return each stage that may have to run, with those of them that it depends on.

    Stages that most others stand behind come first. What stands behind a stale stage is not looked
    at: in a fresh clone that would take DVC seconds for nothing.
    """
    from dvc.repo import Repo

    repo = Repo()
    graph = repo.index.graph
    wanted = {stage.addressing: stage for stage in _with_dependencies(repo, targets)}
    needs = {stage.addressing: {d.addressing for d in graph.successors(stage)} for stage in graph}
    stale: set[str] = set()
    with repo.lock:
        for name in _in_order(needs):
            if name in wanted and (needs[name] & stale or wanted[name].status()):
                stale.add(name)
    behind = _count_behind(needs)
    return {
        name: needs[name] & stale for name in sorted(stale, key=lambda n: behind[n], reverse=True)
    }


def _with_dependencies(repo: Any, targets: Sequence[str]) -> set[Any]:
    """Return the stages of the targets and all that they depend on."""
    if not targets:
        return set(repo.index.graph)
    return {stage for t in targets for stage in repo.stage.collect(t, with_deps=True)}


def _in_order(needs: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield every stage after all that it depends on."""
    from graphlib import TopologicalSorter

    yield from TopologicalSorter(needs).static_order()


def _count_behind(needs: Mapping[str, set[str]]) -> dict[str, int]:
    """Return how many stages need each stage, directly or not."""
    behind: dict[str, set[str]] = {name: set() for name in needs}
    for name in reversed(list(_in_order(needs))):
        for needed in needs[name]:
            behind[needed] |= behind[name] | {name}
    return {name: len(names) for name, names in behind.items()}


def be_dvc(stage: str, environment: Mapping[str, str], output: Connection) -> None:
    """Run one stage, as `dvc repro --single-item` does, in a group of processes of its own."""
    os.setsid()
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    from dvc.cli import main

    force = ["--force"] if stage == CODE_STAGE else []
    sys.exit(main(["--wait-for-lock", "repro", "--single-item", *force, stage]))


class Workers:
    """Some processes of DVC at once, each running one stage."""

    def __init__(self, jobs: int, gpus: Sequence[str]) -> None:
        self._jobs = jobs
        self._gpus: SimpleQueue[str] = SimpleQueue()
        self._shared = [gpus[i % len(gpus)] for i in range(jobs)] if gpus else []
        for gpu in self._shared:
            self._gpus.put(gpu)
        self._running: set[BaseProcess] = set()
        self._lock = Lock()

    def run(self, waiting: dict[str, set[str]]) -> str | None:
        """Run all stages; return the first that failed, once those running beside it have ended."""
        failed = None
        running: dict[Future[bool], str] = {}
        with self._ended_with_us(), ThreadPoolExecutor(self._jobs) as pool:
            while running or (waiting and not failed):
                ready = [name for name, needed in waiting.items() if not needed]
                for name in ready[: self._jobs - len(running)] if not failed else []:
                    del waiting[name]
                    running[pool.submit(self._run_stage, name)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if not future.result():
                        failed = failed or name
                    for needed in waiting.values():
                        needed.discard(name)
        return failed

    def _run_stage(self, name: str) -> bool:
        """Run one stage, its output line by line under its name; return whether it succeeded."""
        threads = max(1, len(os.sched_getaffinity(0)) // self._jobs)
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        gpu = self._gpus.get() if self._shared else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        said, output = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=be_dvc, args=(name, environment, output))
        with self._lock:
            process.start()
            self._running.add(process)
        output.close()
        label = name.removeprefix("pipelines/").replace("/dvc.yaml", "")[-LONGEST_NAME:]
        with open(said.fileno(), closefd=False) as lines:
            for line in lines:
                if line.strip():
                    print(f"{label:>{LONGEST_NAME}} | {line.rstrip()}", flush=True)
        process.join()
        with self._lock:
            self._running.discard(process)
        if gpu is not None:
            self._gpus.put(gpu)
        return process.exitcode == 0

    @contextmanager
    def _ended_with_us(self) -> Iterator[None]:
        """End what runs, DVC and stage, when we are asked to end; a stage resumes later."""

        def end(number: int, _: Any) -> None:
            with self._lock:
                for process in self._running:
                    assert process.pid is not None, "it has been started"
                    process.terminate()
                    with suppress(ProcessLookupError):  # it has ended, or begins no group any more
                        os.killpg(process.pid, signal.SIGTERM)
            sys.exit(128 + number)

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


if __name__ == "__main__":
    main()
