"""Train a segmentation network: the seen-only backbone, or the supervised ceiling."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True)
@click.option("--ceiling", is_flag=True, help="Of all classes: for epochs of its own.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections, *, images: Path, labels: Path, ceiling: bool, curves: Path, out: Path
) -> None:
    """Train the network on the images and labels of a split.

    Reads params.yaml:backbone, seed; with --ceiling, supervised.epochs. Writes network.safetensors
    and classifier.safetensors (its own last layer). Example: python -m stages.backbone
    --images artifacts/world/index/images.json --labels artifacts/world/u4/seen_labels.h5
    --curves curves/world/u4/backbone --out artifacts/world/u4/backbone
    """
    params, seed, compute = section("backbone"), section("seed"), section("compute")
    if ceiling:
        params = params.model_copy(update={"epochs": section("supervised.epochs")})

    from zslib.artifacts import publish
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.datasets.index import ImageIndex
    from zslib.methods import supervised
    from zslib.training import Checkpoint, Curves, start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    recorded = Curves(curves, every=50)
    runtime = start_runtime(compute)
    with scratch(out, [images, labels], [params, seed]) as folder:
        backbone = supervised.fit(
            [index.file(image_id) for image_id in label_maps.ids],
            label_maps,
            Split.described(label_maps.meta),
            params,
            seed=seed,
            compute=compute,
            runtime=runtime,
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
