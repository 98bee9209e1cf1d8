"""Train SPNet on cached features."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--bank", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    bank: Path,
    maps: Path,
    labels: Path,
    embeddings: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train SPNet's projection and choose gamma on held-out seen classes.

    Reads params.yaml:spnet.training, spnet.gammas, selection, seed. Example: python -m stages.spnet
    --bank artifacts/world/u4/features/train/bank.h5 ... --out artifacts/world/u4/spnet/frozen
    """
    training, gammas = section("spnet.training"), section("spnet.gammas")
    selection, seed = section("selection"), section("seed")

    import torch

    from zslib.artifacts.features import DenseMaps, PixelBank
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.spnet import frozen
    from zslib.training import Curves

    inputs = frozen.Inputs(
        PixelBank.open(bank),
        DenseMaps.open(maps).tuning,
        open_labels(labels),
        torch.from_numpy(load_class_vectors(embeddings).rows),
    )
    recorded = Curves(curves, every=50)
    classifiers = frozen.fit(inputs, training, gammas, selection, seed=seed, curves=recorded)
    classifiers.save(out)
    recorded.write()


if __name__ == "__main__":
    main()
