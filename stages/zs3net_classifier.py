"""Train ZS3Net's classifier."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--bank", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--generator", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    bank: Path,
    maps: Path,
    labels: Path,
    embeddings: Path,
    generator: Path,
    curves: Path,
    out: Path,
) -> None:
    """Choose the weight of synthetic features on held-out seen classes, then train on all seen.

    Reads params.yaml:zs3net.classifier, seed. Example: python -m stages.zs3net_classifier
    --bank artifacts/world/u4/features/train/bank.h5 ... --out artifacts/world/u4/zs3net/clean
    """
    params, seed = section("zs3net.classifier"), section("seed")

    import torch

    from zslib.artifacts.features import DenseMaps, PixelBank
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.zs3net.classifier import fit
    from zslib.methods.zs3net.generator import Generator, load_generators
    from zslib.training import Curves

    recorded = Curves(curves, every=50)
    classifiers = fit(
        PixelBank.open(bank),
        DenseMaps.open(maps).tuning,
        open_labels(labels),
        load_generators(generator, Generator),
        torch.from_numpy(load_class_vectors(embeddings).rows),
        params,
        seed=seed,
        curves=recorded,
    )
    classifiers.save(out)
    recorded.write()


if __name__ == "__main__":
    main()
