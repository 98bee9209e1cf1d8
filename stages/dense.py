"""Extract dense feature maps."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option(
    "--labels", type=EXISTING, required=True, help="Which images: those with labels here."
)
@click.option("--network", type=EXISTING, required=True)
@click.option(
    "--sample", is_flag=True, help="Only a seeded sample: features.tuning_images of them."
)
def main(
    section: Sections, *, images: Path, labels: Path, network: Path, sample: bool, out: Path
) -> None:
    """Cache whole feature maps of the validation images, or of a sample of training images.

    Reads params.yaml:features, seed. Example: python -m stages.dense
    --images artifacts/world/index/images.json --labels artifacts/world/val_labels.h5
    --network artifacts/world/u4/backbone/network.safetensors --out artifacts/world/u4/val_maps.h5
    """
    params, seed, compute = section("features"), section("seed"), section("compute")

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.features import extract, plan_dense, tuning_sample
    from zslib.training import start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    ids = label_maps.ids
    if sample:
        ids = tuning_sample(ids, params.tuning_images, seed=seed)
    entries = [index.entry(image_id) for image_id in ids]
    plan = plan_dense(
        [index.path(entry.id) for entry in entries],
        [(entry.width, entry.height) for entry in entries],
        params,
        meta={"ids": list(ids)},
    )
    backbone, runtime = Backbone.load(network), start_runtime(compute)
    with scratch(out, [images, labels, network], [params, seed, sample]) as folder:
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
