"""Train CaGNet's classifier on all classes."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--recipe", type=click.Choice(["cagnet", "cagnet.official"]), required=True)
@click.option("--maps", type=EXISTING, required=True, help="Folder of gated maps and their bank.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--step1", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    recipe: str,
    maps: Path,
    labels: Path,
    embeddings: Path,
    step1: Path,
    curves: Path,
    out: Path,
) -> None:
    """Choose how much to favour unseen classes on held-out seen ones, then train on all seen.

    The released recipe chooses nothing. Reads params.yaml:<recipe>.step1, <recipe>.step2, selection,
    seed. Example: python -m stages.cagnet_step2 --recipe cagnet --maps artifacts/world/u4/cagnet/maps
    ... --out artifacts/world/u4/cagnet/clean
    """
    first, params = section(f"{recipe}.step1"), section(f"{recipe}.step2")
    selection, seed, compute = section("selection"), section("seed"), section("compute")

    import torch

    from zslib.artifacts.features import DenseMaps, PixelBank
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.held_out import draw_held_out
    from zslib.methods.cagnet.step1 import Step1
    from zslib.methods.cagnet.step2 import fit
    from zslib.training import Checkpoint, Curves, start_runtime

    recorded, networks = Curves(curves, every=50), Step1.load(step1)
    clean = recipe == "cagnet"
    inputs = [maps / "bank.h5", maps / "train.h5", labels, embeddings, step1]
    with scratch(out, inputs, [first, params, selection, seed]) as folder:
        classifiers = fit(
            PixelBank.open(maps / "bank.h5"),
            DenseMaps.open(maps / "train.h5").tuning,
            open_labels(labels),
            networks.players,
            torch.from_numpy(load_class_vectors(embeddings).rows),
            params,
            step1=first,
            draws=draw_held_out(networks.split, selection, seed=seed) if clean else [],
            seed=seed,
            runtime=start_runtime(compute),
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        classifiers.save(out)
        recorded.write()


if __name__ == "__main__":
    main()
