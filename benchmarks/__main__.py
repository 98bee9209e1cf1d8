"""Run benchmarks and print their tables: python -m benchmarks [NAME ...] [--json FILE].

Each one runs in a process of its own, so that its peak memory and torch's global switches belong to
it alone. What is compared within a benchmark takes turns in that one process.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import click

from benchmarks import NAMES
from benchmarks.measure import Result, machine


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write here.")
@click.option("--repeats", type=click.IntRange(min=1), help="Timed rounds of each benchmark.")
def main(names: Sequence[str], out: Path | None, repeats: int | None) -> None:
    """Time the hot paths against their alternatives; without a NAME, all of them."""
    if out is not None:
        # A folder that cannot be made is better found now than after minutes of work.
        out.parent.mkdir(parents=True, exist_ok=True)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    results = {}
    for name in names or NAMES:
        results[name] = _in_own_process(name, {} if repeats is None else {"repeats": repeats})
        for result in results[name]:
            print(f"\n{result.table()}", flush=True)
    if out is not None:
        tables = {name: [result.as_json() for result in found] for name, found in results.items()}
        text = json.dumps({"machine": machine(), "benchmarks": tables}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")


def _in_own_process(name: str, options: dict[str, int]) -> list[Result]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, name, options).result()


def _measure(name: str, options: dict[str, int]) -> list[Result]:
    return import_module(f"benchmarks.{name}").measure(**options)


if __name__ == "__main__":
    main()
