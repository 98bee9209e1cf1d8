"""Train CaGNet's networks on seen classes, the backbone among them."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--network", type=EXISTING, required=True, help="The seen-only backbone.")
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images by it.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    images: Path,
    labels: Path,
    network: Path,
    maps: Path,
    embeddings: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train the published first step; write network.safetensors and step1.safetensors.

    Reads params.yaml:cagnet.end_to_end, cagnet.step1, features.label_rule, seed. Example:
    python -m stages.cagnet_end_to_end --network artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/cagnet/e2e/networks
    """
    params, step1 = section("cagnet.end_to_end"), section("cagnet.step1")
    rule, seed, compute = section("features.label_rule"), section("seed"), section("compute")

    import torch

    from zslib.artifacts import publish
    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.cagnet.end_to_end import fit
    from zslib.training import Checkpoint, Curves, start_runtime

    index, label_maps, recorded = (
        ImageIndex.load(images),
        open_labels(labels),
        Curves(curves, every=50),
    )
    backbone = Backbone.load(network)
    sections = [params, step1, rule, seed]
    with scratch(out, [images, labels, network, maps, embeddings], sections) as folder:
        networks = fit(
            backbone,
            [index.path(image_id) for image_id in label_maps.ids],
            label_maps,
            maps=DenseMaps.open(maps),
            class_embeddings=torch.from_numpy(load_class_vectors(embeddings).rows),
            step1=step1,
            params=params,
            label_rule=rule,
            seed=seed,
            compute=compute,
            runtime=start_runtime(compute.on_one_device()),
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        with publish(out) as temporary:
            backbone.save(temporary / "network.safetensors")
            networks.save(temporary / "step1.safetensors")
        recorded.write()


if __name__ == "__main__":
    main()
