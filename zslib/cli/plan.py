"""`zslib plan`: what will a benchmark take?"""

import shutil
from pathlib import Path

import click

from zslib.cli.command import command
from zslib.params import load_params


@command
def plan() -> None:
    """Say what the benchmark in force will take here.

    Each stage has its time, memory and disk. Seconds come from a short measurement on the device of
    `compute`, disk from the sizes of the images. Where the disk does not hold it, the numbers end in
    exit code 2.
    """
    project = Path.cwd()
    params = load_params(project / "params.yaml")

    from zslib.plan import (
        Survey,
        forecast,
        measure,
        read_stages,
        refuse_what_does_not_fit,
        table,
    )

    survey = Survey.of(params, project / "artifacts" / params.benchmark.name)
    stages, pace = read_stages(project), measure(params)
    forecasts = forecast(stages, params, survey, pace, project / "scratch" / "timings.jsonl")
    counts = "the dataset" if survey.is_counted else "published counts, no dataset yet"
    click.echo(
        f"{params.benchmark.name}: {len(survey.train)} training and {len(survey.val)} validation "
        f"images ({counts}); measured on {pace.device}"
    )
    for line in table(forecasts):
        click.echo(line)
    refuse_what_does_not_fit(forecasts, shutil.disk_usage(project).free)
