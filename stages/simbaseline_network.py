"""Train the network that proposes masks, on seen classes."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
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
    from zslib.benchmark import Split
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.simbaseline.fit import fit
    from zslib.methods.simbaseline.network import MaskFormer, Proposer
    from zslib.methods.simbaseline.pixel_level import starting_encoder
    from zslib.training import Checkpoint, Curves, start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    split, recorded = Split.described(label_maps.meta), Curves(curves, every=20)
    runtime = start_runtime(compute)
    words = text / f"{prompts}.safetensors"
    with scratch(out, [images, labels, backbone, words], [params, seed]) as folder:
        encoder, weights = starting_encoder(params.encoder, Backbone.load(backbone), split)
        rows = torch.from_numpy(load_class_vectors(words).rows)
        torch.manual_seed(seed)
        network = MaskFormer(params.network, encoder, rows[list(split.seen)])
        network.load_encoder(weights)
        proposer = Proposer(network, params.network, encoder, split)
        fit(
            proposer,
            [index.path(image_id) for image_id in label_maps.ids],
            label_maps,
            split.seen,
            params.training,
            seed=seed,
            compute=compute,
            runtime=runtime,
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        if runtime.rank == 0:
            proposer.save(out)
            recorded.write()


if __name__ == "__main__":
    main()
