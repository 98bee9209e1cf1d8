"""Train the network that proposes masks, on seen classes."""

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
    """Train MaskFormer with a class head aligned with text, on the split's seen labels.

    Reads params.yaml:simbaseline.proposals, simbaseline.query_prompts, seed. Example:
    python -m stages.simbaseline_network --backbone artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/simbaseline/network.safetensors
    """
    params, prompts = section("simbaseline.proposals"), section("simbaseline.query_prompts")
    seed, compute = section("seed"), section("compute")

    import torch

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.fine_tuning import LabelledImages, Run
    from zslib.methods.simbaseline.fit import fit, untrained
    from zslib.training import Curves, start_runtime

    labelled = LabelledImages.of(ImageIndex.load(images).file, open_labels(labels))
    split, recorded = labelled.split, Curves(curves, every=20)
    runtime = start_runtime(compute)
    words = text / f"{prompts}.safetensors"
    rows = torch.from_numpy(load_class_vectors(words).rows)[list(split.seen)]
    with scratch(out, [images, labels, backbone, words], [params, seed]) as folder:
        proposer = untrained(Backbone.load(backbone), split, rows, params, seed=seed)
        fit(
            proposer,
            labelled.paths,
            labelled,
            split.seen,
            params.training,
            section="simbaseline.proposals.training",
            run=Run(f"proposals {split.name}", seed, compute, runtime, folder, recorded),
        )
        if runtime.rank == 0:
            proposer.save(out)
            recorded.write()


if __name__ == "__main__":
    main()
