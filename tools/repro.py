"""Bring the benchmark up to date with several stages at a time: `make repro JOBS=4`.

`dvc repro` runs one stage after another. This starts every stage that is out of date, or stands
behind one that is, as soon as what it depends on is there, and ends with a plain `dvc repro`: that one
runs nothing if all went well, and has the last word in any case. Killed at any point, it goes on
where it stopped.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock
from typing import Any

import click

DVC = [sys.executable, "-m", "dvc"]
LONGEST_NAME = 30


@click.command()
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--gpus", default="", help="Which GPUs the stages take turns on, as in '0,1'.")
@click.argument("targets", nargs=-1)
def main(jobs: int, gpus: str, targets: Sequence[str]) -> None:
    """Run what is out of date; TARGETS are stages, with all they depend on. Default: everything."""
    waiting = stale_stages(targets)
    if waiting:
        failed = Workers(jobs, gpus.split(",") if gpus else []).run(waiting)
        if failed:
            sys.exit(f"{failed}: failed (see above); nothing new was started, the rest is kept")
    sys.exit(subprocess.run([*DVC, "repro", *targets], check=False).returncode)


def stale_stages(targets: Sequence[str]) -> dict[str, set[str]]:
    """Return each stage that may have to run, with those of them that it depends on.

    Stages that most others stand behind come first.
    """
    from dvc.repo import Repo

    repo = Repo()
    graph = repo.index.graph
    changed = set(repo.status([*targets] or None, with_deps=True))
    wanted = {stage.addressing for stage in _with_dependencies(repo, targets)}
    needs = {stage.addressing: {d.addressing for d in graph.successors(stage)} for stage in graph}
    stale: set[str] = set()
    for name in _in_order(needs):
        if name in wanted and (name in changed or needs[name] & stale):
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


class Workers:
    """Some processes of DVC at once, each running one stage."""

    def __init__(self, jobs: int, gpus: Sequence[str]) -> None:
        self._jobs = jobs
        self._gpus: SimpleQueue[str] = SimpleQueue()
        self._shared = [gpus[i % len(gpus)] for i in range(jobs)] if gpus else []
        for gpu in self._shared:
            self._gpus.put(gpu)
        self._running: set[subprocess.Popen[str]] = set()
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
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self._jobs)))
        gpu = self._gpus.get() if self._shared else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        process = subprocess.Popen(
            [*DVC, "--wait-for-lock", "repro", "--single-item", name],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        with self._lock:
            self._running.add(process)
        assert process.stdout is not None
        label = name.removeprefix("pipelines/").replace("/dvc.yaml", "")[-LONGEST_NAME:]
        for line in process.stdout:
            if line.strip():
                print(f"{label:>{LONGEST_NAME}} | {line.rstrip()}", flush=True)
        with self._lock:
            self._running.discard(process)
        if gpu is not None:
            self._gpus.put(gpu)
        return process.wait() == 0

    @contextmanager
    def _ended_with_us(self) -> Iterator[None]:
        """End what runs, DVC and stage, when we are asked to end; a stage resumes later."""

        def end(number: int, _: Any) -> None:
            with self._lock:
                for process in self._running:
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
