"""Train CaGNet's networks on seen classes."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--recipe", type=click.Choice(["cagnet", "cagnet.official"]), required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    recipe: str,
    maps: Path,
    labels: Path,
    embeddings: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train the contextual module together with generator, discriminator and classifier.

    Reads params.yaml:<recipe>.step1, features.label_rule, seed. Example:
    python -m stages.cagnet_step1 --recipe cagnet --maps artifacts/world/u4/features/train/maps.h5 ...
    --out artifacts/world/u4/cagnet/step1.safetensors
    """
    params, seed, compute = section(f"{recipe}.step1"), section("seed"), section("compute")
    rule = section("features.label_rule")

    import torch

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.cagnet.step1 import fit
    from zslib.training import Checkpoint, Curves, start_runtime

    recorded = Curves(curves, every=50)
    with scratch(out, [maps, labels, embeddings], [params, rule, seed]) as folder:
        networks = fit(
            DenseMaps.open(maps),
            open_labels(labels),
            torch.from_numpy(load_class_vectors(embeddings).rows),
            params,
            label_rule=rule,
            seed=seed,
            runtime=start_runtime(compute),
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        networks.save(out)
        recorded.write()


if __name__ == "__main__":
    main()
