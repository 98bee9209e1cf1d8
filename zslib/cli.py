"""The command `zslib`: look after datasets, results and the cache. Stages are run by DVC."""

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from zslib.errors import InputError, one_line_errors
from zslib.params import DatasetParams, Params, load_params
from zslib.params.benchmark import Layout, Role, VocLists

if TYPE_CHECKING:
    from zslib.datasets.doctor import RoleSummary

PARAMS = click.option(
    "--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True
)


@click.group()
def main() -> None:
    """Zero-shot segmentation, one pipeline: `dvc repro` runs it, this looks after what it needs."""


def command(function: Callable[..., None]) -> click.Command:
    """Register a subcommand; what the user gave wrongly ends in one line and exit code 2."""

    @main.command(help=function.__doc__)
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(debug: bool, **options: Any) -> None:
        with one_line_errors(debug=debug):
            function(**options)

    return run


@command
@PARAMS
@click.option("--root", help="Dataset folder instead of dataset.root.")
@click.option("--layout", type=click.Choice(get_args(Layout)), help="Instead of dataset.layout.")
@click.option("--lists", type=click.Choice(get_args(VocLists)), help="Instead of dataset.lists.")
def doctor(params: Path, root: str | None, layout: str | None, lists: str | None) -> None:
    """Check every file of a dataset, say what is wrong and what its images hold.

    Its classes are taken to be those of the benchmark in the parameters.
    """
    from zslib.datasets.doctor import diagnose

    known = load_params(params)
    given = {"root": root, "layout": layout, "lists": lists}
    chosen = known.dataset.model_dump() | {k: v for k, v in given.items() if v is not None}
    classes = known.benchmark.classes
    found = diagnose(DatasetParams(**chosen), num_classes=len(classes), workers=os.cpu_count() or 1)
    for problem in found.problems:
        click.echo(str(problem))
    for summary in found.summary:
        if summary.images:
            click.echo(_described(summary, classes, known.dataset.published or {}))
    benchmark = f"with the {len(classes)} classes of benchmark '{known.benchmark.name}' ({params})"
    _close(len(found.problems), f"problem(s) in {chosen['root']}, {benchmark}")


@command
@PARAMS
@click.option("--seed", default=0, show_default=True, help="Of the random exchange of labels.")
def audit(params: Path, seed: int) -> None:
    """Try to leak: exchange the labels of unseen pixels and compare what training stages read."""
    from zslib.audit import audit_split, mask_readers

    known = load_params(params)
    leaks = 0
    for name in known.splits:
        in_place = Path("artifacts") / known.benchmark.name / name / "seen_labels.h5"
        with tempfile.TemporaryDirectory(prefix="zslib-audit-") as folder:
            exchange = audit_split(
                known, name, Path(folder), seed=seed, workers=os.cpu_count() or 1, in_place=in_place
            )
        click.echo(str(exchange))
        leaks += len(exchange.leaks)
    for readers in mask_readers(Path.cwd(), known.dataset.root):
        click.echo(str(readers))
        leaks += len(readers.leaks)
    _close(leaks, "leak(s)")


@command
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--experiments", is_flag=True, help="The DVC experiments of the last commit instead.")
def leaderboard(files: tuple[Path, ...], experiments: bool) -> None:
    """Summarise several leaderboard.csv, one or more seeds in each: mean ± sd over the seeds.

    A row need not be in every file; the column `seeds` says over how many it is. What is in print for
    a benchmark and split stands in the last column, marked where it is from memory.

    With --experiments, the rows are those of the last commit and of the DVC experiments that were made
    from it. Seeds are averaged where all other parameters, and the code, agree; where they do not, the
    column `variant` keeps them apart, and the lines below the table say in what they differ.
    """
    from zslib.report import aggregate, read_leaderboard
    from zslib.report.experiments import read_runs, rows_of, variants

    if bool(files) == experiments:
        raise InputError("leaderboard: needs files of a report, or --experiments; give one of both")
    found = variants(read_runs(Path.cwd())) if experiments else []
    rows = [row for path in files for row in read_leaderboard(path)]
    click.echo(aggregate([*rows, *rows_of(found)]))
    for number, variant in enumerate(found, start=1):
        click.echo(f"variant {number}: {variant}")


@command
def plan() -> None:
    """Say what the benchmark in force will take here: stages, time, memory, disk.

    Seconds come from a short measurement on the device of `compute`, disk from the sizes of the
    images. Where the disk does not hold it, the numbers end in exit code 2.
    """
    from zslib.plan import (
        Survey,
        forecast,
        measure,
        read_stages,
        refuse_what_does_not_fit,
        table,
    )

    project = Path.cwd()
    params = load_params(project / "params.yaml")
    survey = Survey.of(params, project / "artifacts" / params.benchmark.name)
    stages, pace = read_stages(project), measure(params)
    forecasts = forecast(stages, params, survey, pace, project / "scratch" / "timings.jsonl")
    counts = "the index" if survey.is_counted else "published counts, no index yet"
    click.echo(
        f"{params.benchmark.name}: {len(survey.train)} training and {len(survey.val)} validation "
        f"images ({counts}); measured on {pace.device}"
    )
    for line in table(forecasts):
        click.echo(line)
    refuse_what_does_not_fit(forecasts, shutil.disk_usage(project).free)


@command
@PARAMS
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "kind", required=True, help="What it is, see above.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The artifact.")
@click.option("--split", help="Which classes were unseen; default: the first of `splits`.")
@click.option("--entry", help="Which entry of the file holds the tensors, where several do.")
@click.option("--semantic", type=click.Path(path_type=Path), help="JoEm: its semantic encoder.")
@click.option("--embeddings", type=click.Path(path_type=Path), help="JoEm, SPNet: the artifact.")
@click.option("--calibration", type=float, help="sigma of JoEm, gamma of SPNet.")
@click.option("--source", default="imported", help="Name of a source of class vectors.")
def import_checkpoint(params: Path, kind: str, split: str | None, **options: Any) -> None:
    """Make an artifact of a file that a method's authors released; no code in it is run.

    It is one of imagenet-encoder, zs3net-backbone, zs3net-generator, joem, spnet, cagnet-backbone and
    vectors; zslib/checkpoints/official.py says what each becomes. Every tensor has to find its place,
    or the file is refused with a list of those that do not.

    Where a stage would have made the artifact, `dvc commit -f STAGE` says that it is made; the
    stage's folder of curves has to exist for that.
    """
    from zslib.checkpoints import IMPORTS, Request

    if kind not in IMPORTS:
        raise InputError(f"--as: '{kind}' is not one of {', '.join(IMPORTS)}; choose one of them")
    known = load_params(params)
    request = Request(params=known, split=_split(known, split), **options)
    for remark in IMPORTS[kind](request):
        click.echo(remark)
    click.echo(f"{request.out}: written")


@command
@PARAMS
@click.argument("model")
@click.option("--source", default="clip", show_default=True, help="Whose aliases are in force.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def text_vectors(params: Path, model: str, source: str, out: Path) -> None:
    """Write CLIP's text vectors of the classes as a file of word vectors, for `vectors.sources`.

    MODEL is a name on transformers' hub, or a folder. Names are read as they are, in no template, and
    their vectors are not normalised. An alias that the source has for a class is read in its place.
    """
    from zslib.artifacts import publish
    from zslib.vision_language.model import VisionLanguageModel
    from zslib.vision_language.text import bare_names, write_word_vectors

    known = load_params(params)
    sources = known.vectors.sources
    if source not in sources:
        raise InputError(f"--source: '{source}' is not one of {', '.join(sources)}; choose one")
    aliases = sources[source].aliases
    names = [aliases.get(name, name) for name in known.benchmark.classes]
    vectors = bare_names(VisionLanguageModel.named(model), names)
    with publish(out) as temporary:
        write_word_vectors(temporary, vectors)
    click.echo(f"{out}: written")


def _split(params: Params, given: str | None) -> str:
    """Return the split asked for, or the one that comes first.

    Raises:
        InputError: nothing is trained in this benchmark, or it has no such split.
    """
    described = params.benchmark
    if given in described.unseen:
        return given
    if not params.splits:
        raise InputError(
            f"benchmark {described.name}: nothing is trained there; take {described.trained_on}"
        )
    if given is not None:
        known = ", ".join(described.unseen)
        raise InputError(
            f"--split: '{given}' is not one of {described.name}'s, {known}; choose one of them"
        )
    return params.splits[0]


@command
@PARAMS
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--classes", required=True, help="Names with commas: zebra,horse,grass.")
@click.option("--method", default="simbaseline", show_default=True, help="As in the leaderboard.")
@click.option("--benchmark", help="Whose training; default: that of the parameters.")
@click.option("--split", help="Which classes were unseen; default: the first of `splits`.")
@click.option(
    "--artifact",
    "given",
    multiple=True,
    metavar="NAME=PATH",
    help="Instead of its place below artifacts/<benchmark>; prediction.json tells the names.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Default: IMAGE-METHOD, without suffix."
)
def predict(
    *,
    params: Path,
    image: Path,
    classes: str,
    method: str,
    benchmark: str | None,
    split: str | None,
    given: tuple[str, ...],
    out: Path | None,
) -> None:
    """Divide a photograph among class names, which need not have been in training.

    Writes picture.png with a legend, labels.png, confidence.png (white is sure) and prediction.json
    into a folder.
    """
    from zslib.predict import Artifacts, chosen_params, class_names, named_paths, readable
    from zslib.predict import predict as predicted

    names, known = class_names(classes), chosen_params(params, benchmark)
    artifacts = Artifacts.of(
        known, _split(known, split), named_paths(given), in_force=load_params(params)
    )
    folder = out or Path(f"{image.stem}-{method}")
    for entry in predicted(method, image, names, known, artifacts, out=folder):
        sure = "" if entry["share"] == 0 else f", confidence {entry['mean_confidence']:.2f}"
        kind = "seen" if entry["seen"] else "unseen"
        click.echo(f"{entry['name']} ({kind}): {entry['share']:.1%} of the pixels{sure}")
    click.echo(f"{readable(str(folder))}: written")


@command
@click.option("--cache", type=click.Path(path_type=Path), help="Instead of the project's cache.")
@click.option("--delete", is_flag=True, help="Remove what is damaged; `dvc repro` makes it anew.")
def fsck(cache: Path | None, delete: bool) -> None:
    """Hash every object of the DVC cache again and compare with its name.

    Files that are no objects of DVC stay as they are.
    """
    from zslib.fsck import examine, find_cache, given_cache, remove_damage

    project = Path.cwd()
    folder = given_cache(cache) if cache else find_cache(project)
    found = examine(folder)
    for damage in found.damages:
        click.echo(str(damage))
    if found.foreign:
        count, first = len(found.foreign), found.foreign[0]
        click.echo(f"{folder}: {count} file(s) are no objects of DVC and stay, such as {first}")
    if not found.objects:
        click.echo(f"{folder}: holds no objects; is it the folder of a DVC cache?")
    if found.damages and delete:
        for path in remove_damage(project, found.damages):
            click.echo(f"{path}: removed, its content was damaged too")
        click.echo(f"{len(found.damages)} of {found.objects} objects removed; now run `dvc repro`")
    _close(len(found.damages), f"damaged of {found.objects} objects")


def _close(problems: int, what: str) -> None:
    click.echo(f"{problems or 'no'} {what}")
    if problems:
        sys.exit(2)


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


if __name__ == "__main__":
    main()
