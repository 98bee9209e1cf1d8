"""`zslib predict`: a photograph, divided among any class names."""

from pathlib import Path

import click

from zslib.cli.command import PARAMS, PATH, SPLIT, chosen_split, command
from zslib.params import load_params


@command
@PARAMS
@click.argument("image", type=PATH)
@click.option("--classes", required=True, help="Names with commas: zebra,horse,grass.")
@click.option("--method", default="simbaseline", show_default=True, help="As in the leaderboard.")
@click.option("--benchmark", help="Whose training; default: that of the parameters.")
@SPLIT
@click.option(
    "--artifact",
    "given",
    multiple=True,
    metavar="NAME=PATH",
    help="Instead of its place below artifacts/<benchmark>; prediction.json tells the names.",
)
@click.option("--out", type=PATH, help="Default: IMAGE-METHOD, without suffix.")
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
    """Divide a photograph among class names.

    They need not have been in training. Writes picture.png with a legend, labels.png, confidence.png
    (white is sure) and prediction.json into a folder.
    """
    in_force = load_params(params)

    from zslib.predict import Artifacts, chosen_params, class_names, named_paths, readable
    from zslib.predict import predict as predicted

    names, known = class_names(classes), chosen_params(params, benchmark)
    artifacts = Artifacts.of(
        known, chosen_split(known, split), named_paths(given), in_force=in_force
    )
    folder = out or Path(f"{image.stem}-{method}")
    for entry in predicted(method, image, names, known, artifacts, out=folder):
        sure = "" if entry["share"] == 0 else f", confidence {entry['mean_confidence']:.2f}"
        kind = "seen" if entry["seen"] else "unseen"
        click.echo(f"{entry['name']} ({kind}): {entry['share']:.1%} of the pixels{sure}")
    click.echo(f"{readable(str(folder))}: written")
