"""Extract the pixel bank of a split."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True)
@click.option("--network", type=EXISTING, required=True)
def main(section: Sections, *, images: Path, labels: Path, network: Path, out: Path) -> None:
    """Cache sampled pixel features of the training images, with their seen labels.

    Reads params.yaml:features, seed. Example: python -m stages.bank
    --images artifacts/world/index/images.json --labels artifacts/world/u4/seen_labels.h5
    --network artifacts/world/u4/backbone/network.safetensors --out artifacts/world/u4/bank.h5
    """
    params, seed, compute = section("features"), section("seed"), section("compute")

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.features import extract, plan_bank
    from zslib.training import start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    entries = [index.entry(image_id) for image_id in label_maps.ids]
    plan = plan_bank(
        [index.path(entry.id) for entry in entries],
        [(entry.width, entry.height) for entry in entries],
        label_maps,
        params,
        seed=seed,
        meta={"labels": dict(label_maps.meta), "ids": list(label_maps.ids)},
    )
    backbone, runtime = Backbone.load(network), start_runtime(compute)
    with scratch(out, [images, labels, network], [params, seed]) as folder:
        extract(
            backbone.features_of(runtime),
            plan,
            out,
            dimension=backbone.params.feature_channels,
            batch_size=params.batch_size,
            runtime=runtime,
            scratch=folder,
        )


if __name__ == "__main__":
    main()
