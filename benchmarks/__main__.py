"""Run benchmarks and print their tables: python -m benchmarks [NAME ...] [--json FILE].

What is compared takes turns in one process; each benchmark has a process of its own.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import NAMES
from benchmarks.measure import machine, run_in_own_process


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write here.")
@click.option("--repeats", type=click.IntRange(min=1), help="Timed rounds of each benchmark.")
def main(names: Sequence[str], out: Path | None, repeats: int | None) -> None:
    """Time the hot paths against their alternatives; without a NAME, all of them."""
    if out is not None:
        # A folder that cannot be made is better found now than after minutes of work.
        out.parent.mkdir(parents=True, exist_ok=True)
    where = machine()
    print(", ".join(f"{key} {value}" for key, value in where.items()), flush=True)
    options = {} if repeats is None else {"repeats": repeats}
    results = {}
    for name in names or NAMES:
        results[name] = run_in_own_process(name, options)
        for result in results[name]:
            print(f"\n{result.table()}", flush=True)
    if out is not None:
        tables = {name: [result.as_json() for result in found] for name, found in results.items()}
        text = json.dumps({"machine": where, "benchmarks": tables}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
