"""Train CaGNet's second version, whose classifier sees patches."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--gated", type=EXISTING, required=True, help="Folder of gated maps.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--step1", type=EXISTING, required=True, help="Has the contextual module.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    maps: Path,
    gated: Path,
    labels: Path,
    embeddings: Path,
    step1: Path,
    curves: Path,
    out: Path,
) -> None:
    """Write val.h5, scores of all classes as maps, and the classifier that reads them.

    Reads params.yaml:cagnet.patches, cagnet.step1.objectives, features.label_rule, selection, seed.
    Example: python -m stages.cagnet_patches --maps artifacts/world/u4/features/train/maps.h5
    --gated artifacts/world/u4/cagnet/maps ... --out artifacts/world/u4/cagnet/v2
    """
    params, objectives = section("cagnet.patches"), section("cagnet.step1.objectives")
    rule, seed, selection = section("features.label_rule"), section("seed"), section("selection")
    compute = section("compute")

    import torch

    from zslib.artifacts import publish
    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.held_out import draw_held_out
    from zslib.methods.cagnet.patch_steps import fit, write_scores
    from zslib.methods.cagnet.step1 import Step1
    from zslib.training import Checkpoint, Curves, start_runtime

    recorded, networks = Curves(curves, every=50), Step1.load(step1)
    inputs = [maps, gated / "train.h5", gated / "val.h5", labels, embeddings, step1]
    with scratch(out, inputs, [params, objectives, rule, selection, seed]) as folder:
        classifier = fit(
            DenseMaps.open(maps),
            DenseMaps.open(gated / "train.h5").tuning,
            open_labels(labels),
            networks.context,
            torch.from_numpy(load_class_vectors(embeddings).rows),
            params,
            objectives=objectives,
            draws=draw_held_out(networks.split, selection, seed=seed),
            label_rule=rule,
            seed=seed,
            runtime=start_runtime(compute),
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        with publish(out) as temporary:
            classifier.reader().save(temporary / "classifier.safetensors")
            scored = DenseMaps.open(gated / "val.h5")
            write_scores(temporary / "val.h5", classifier, scored, scratch=folder)
        recorded.write()


if __name__ == "__main__":
    main()
