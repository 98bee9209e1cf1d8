"""Train the whole network on pseudo-labels."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--pseudo-labels", type=EXISTING, required=True)
@click.option("--network", type=EXISTING, required=True, help="The seen-only backbone.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    images: Path,
    labels: Path,
    pseudo_labels: Path,
    network: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train the seen-only network further, all layers, by its own recipe (zs3net §6: ZS5Net).

    It learns from seen labels, and from the pseudo-labels of images that have none. Reads
    params.yaml:backbone, seed. Writes network.safetensors and classifier.safetensors. Example:
    python -m stages.zs5net --pseudo-labels artifacts/world/u4/zs3net/st/pseudo_labels.h5
    --network artifacts/world/u4/backbone/network.safetensors ... --out artifacts/world/u4/zs3net/zs5net
    """
    params, seed, compute = section("backbone"), section("seed"), section("compute")

    from zslib.artifacts import publish
    from zslib.artifacts.maps import MixedLabels, open_labels, open_pseudo_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.methods import supervised
    from zslib.training import Checkpoint, Curves, start_runtime

    index = ImageIndex.load(images)
    label_maps = MixedLabels.of(open_labels(labels), open_pseudo_labels(pseudo_labels)[0])
    initial = Backbone.load(network)
    recorded, runtime = Curves(curves, every=50), start_runtime(compute)
    with scratch(out, [images, labels, pseudo_labels, network], [params, seed]) as folder:
        backbone = supervised.fit(
            [index.file(image_id) for image_id in label_maps.ids],
            label_maps,
            initial.split,
            params,
            seed=seed,
            compute=compute,
            runtime=runtime,
            initial=initial.network,
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        if runtime.rank == 0:
            with publish(out) as temporary:
                backbone.save(temporary / "network.safetensors")
                supervised.own_classifier(backbone).save(temporary / "classifier.safetensors")
            recorded.write()


if __name__ == "__main__":
    main()
