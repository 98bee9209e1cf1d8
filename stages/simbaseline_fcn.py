"""Train SimBaseline's per-pixel variant: a network that embeds pixels, on seen classes."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--backbone", type=EXISTING, required=True, help="The split's seen-only backbone.")
@click.option("--text", type=EXISTING, required=True, help="Class names read in template sets.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    images: Path,
    labels: Path,
    backbone: Path,
    text: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train an encoder and MaskFormer's pixel decoder against text, on the split's seen labels.

    Reads params.yaml:simbaseline.proposals.encoder, simbaseline.proposals.network,
    simbaseline.fcn.training, simbaseline.fcn.prompts, seed. Example:
    python -m stages.simbaseline_fcn --backbone artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/simbaseline/fcn.safetensors
    """
    encoder = section("simbaseline.proposals.encoder")
    sizes = section("simbaseline.proposals.network")
    training, prompts = section("simbaseline.fcn.training"), section("simbaseline.fcn.prompts")
    seed, compute = section("seed"), section("compute")

    import torch

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.fine_tuning import LabelledImages, Run
    from zslib.methods.simbaseline.fcn import fit, untrained
    from zslib.training import Curves, start_runtime

    labelled = LabelledImages.of(ImageIndex.load(images).file, open_labels(labels))
    split, recorded = labelled.split, Curves(curves, every=20)
    runtime = start_runtime(compute)
    words = text / f"{prompts}.safetensors"
    rows = torch.from_numpy(load_class_vectors(words).rows)[list(split.seen)]
    sections = [encoder, sizes, training, seed]
    with scratch(out, [images, labels, backbone, words], sections) as folder:
        embedder = untrained(
            Backbone.load(backbone), split, rows.shape[1], sizes, encoder, seed=seed
        )
        run = Run(f"fcn {split.name}", seed, compute, runtime, folder, recorded)
        fit(embedder, labelled, rows, training, run)
        if runtime.rank == 0:
            embedder.save(out)
            recorded.write()


if __name__ == "__main__":
    main()
