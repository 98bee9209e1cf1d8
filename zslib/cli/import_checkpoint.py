"""`zslib import-checkpoint`: what authors released, as an artifact."""

from pathlib import Path
from typing import Any

import click

from zslib.artifacts.place import refuse_place
from zslib.cli.command import PARAMS, PATH, SPLIT, chosen_split, command
from zslib.errors import InputError
from zslib.params import load_params


@command
@PARAMS
@click.argument("file", type=PATH)
@click.option("--as", "kind", required=True, help="What it is, see above.")
@click.option("--out", type=PATH, required=True, help="The artifact.")
@SPLIT
@click.option("--entry", help="Which entry of the file holds the tensors, where several do.")
@click.option("--semantic", type=PATH, help="JoEm: its semantic encoder.")
@click.option("--embeddings", type=PATH, help="JoEm, SPNet: the artifact.")
@click.option("--calibration", type=float, help="sigma of JoEm, gamma of SPNet.")
@click.option("--source", default="imported", help="Name of a source of class vectors.")
def import_checkpoint(
    params: Path, kind: str, out: Path, split: str | None, **options: Any
) -> None:
    """Make an artifact of a file that authors released.

    It is one of imagenet-encoder, zs3net-backbone, zs3net-generator, joem, spnet, cagnet-backbone and
    vectors; zslib/checkpoints/official.py says what each becomes. No code in it is run. Every tensor has
    to find its place, or the file is refused with a list of those that do not.

    Where a stage would have made the artifact, `dvc repro code`, then `dvc commit -f STAGE` say that
    it is made; the stage's folder of curves has to exist for that.
    """
    known = load_params(params)
    chosen = chosen_split(known, split)

    from zslib.checkpoints import FOLDERS, IMPORTS, Request

    if kind not in IMPORTS:
        raise InputError(f"--as: '{kind}' is not one of {', '.join(IMPORTS)}; choose one of them")
    request = Request(params=known, split=chosen, out=out, **options)
    refuse_place(out, FOLDERS.get(kind, ()))
    if out.absolute() == request.file.absolute():
        raise InputError(f"--out: {out} is the file to be imported; choose another place")
    if kind == "imagenet-encoder" and out.exists():
        raise InputError(
            f"--out: {out} is there, and DVC does not look into files that params.yaml names: what was "
            "trained from it would pass for up to date; choose another name"
        )
    for remark in IMPORTS[kind](request):
        click.echo(remark)
    click.echo(f"{out}: written")
