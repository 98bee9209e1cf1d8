"""Fit JoEm on cached features."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--form", type=click.Choice(["closed_form", "head"]), required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, help="Of the head's training.")
def main(
    section: Sections,
    *,
    form: str,
    maps: Path,
    labels: Path,
    embeddings: Path,
    curves: Path | None,
    out: Path,
) -> None:
    """Solve for the prototypes, or train a head with them; choose sigma on held-out seen classes.

    Reads params.yaml:joem.<form>, joem.objectives, joem.sigmas, selection, seed. Example:
    python -m stages.joem_frozen --form closed_form --maps artifacts/world/u4/features/train/maps.h5
    ... --out artifacts/world/u4/joem/frozen
    """
    params, objectives = section(f"joem.{form}"), section("joem.objectives")
    sigmas, selection = section("joem.sigmas"), section("selection")
    seed, compute = section("seed"), section("compute")

    import torch

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.joem.cells import Inputs
    from zslib.methods.joem.frozen import fit_closed_form, fit_with_head
    from zslib.training import Curves, start_runtime

    words = torch.from_numpy(load_class_vectors(embeddings).rows)
    inputs = Inputs(DenseMaps.open(maps), open_labels(labels), words)
    if form == "closed_form":
        fit_closed_form(inputs, params, objectives, sigmas, selection, seed=seed).save(out)
        return
    recorded = Curves(curves, every=50) if curves else None
    runtime = start_runtime(compute)
    options = {"seed": seed, "runtime": runtime, "curves": recorded}
    fit_with_head(inputs, params, objectives, sigmas, selection, **options).save(out)
    if recorded is not None:
        recorded.write()


if __name__ == "__main__":
    main()
