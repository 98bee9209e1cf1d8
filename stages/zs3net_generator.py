"""Train ZS3Net's generators."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--bank", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections, *, bank: Path, maps: Path, embeddings: Path, curves: Path, out: Path
) -> None:
    """Train the generator of a split, and one without each draw of held-out seen classes.

    Reads params.yaml:zs3net.generator, selection, seed. Example: python -m stages.zs3net_generator
    --bank artifacts/world/u4/features/train/bank.h5 ... --out artifacts/world/u4/zs3net/generator.safetensors
    """
    params, selection, seed = section("zs3net.generator"), section("selection"), section("seed")

    import torch

    from zslib.artifacts.features import DenseMaps, PixelBank
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.zs3net.generator import fit_generators, save_generators
    from zslib.training import Curves

    recorded = Curves(curves, every=50)
    generators = fit_generators(
        PixelBank.open(bank),
        torch.from_numpy(load_class_vectors(embeddings).rows),
        params,
        selection,
        tuning_ids=DenseMaps.open(maps).tuning.ids,
        seed=seed,
        curves=recorded,
    )
    save_generators(out, generators)
    recorded.write()


if __name__ == "__main__":
    main()
