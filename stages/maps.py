"""Extract the feature maps of validation or of unlabelled images."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--network", type=EXISTING, required=True)
@click.option(
    "--unlabelled", type=EXISTING, help="Seen labels; the images for self-training are taken."
)
@click.option("--view", help="Parameter with the views' short side, where not features.short_side.")
def main(
    section: Sections,
    *,
    images: Path,
    network: Path,
    unlabelled: Path | None,
    view: str | None,
    out: Path,
) -> None:
    """Cache whole feature maps of the validation images, or of unlabelled training images.

    Of training images those are taken that were left out for the unseen classes they show, or all, if
    the benchmark's rule keeps such images and their unseen pixels are void; of these as large a share
    as features.train_maps is of the labelled images.
    Reads params.yaml:features.short_side, features.batch_size; with --unlabelled, features.train_maps
    and seed; with --view, the parameter that it names, where null stands for features.short_side.
    Example: python -m stages.maps --images artifacts/world/index/images.json
    --network artifacts/world/u4/backbone/network.safetensors --out artifacts/world/u4/val_maps.h5
    """
    short_side, batch_size = section("features.short_side"), section("features.batch_size")
    compute, train_maps, seed = section("compute"), None, 0
    if unlabelled:
        train_maps, seed = section("features.train_maps"), section("seed")
    if view:
        short_side = section(view) or short_side

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.datasets.labels import unlabelled_ids
    from zslib.features import Photographs, extract, plan_dense, sample_unlabelled
    from zslib.training import start_runtime

    index = ImageIndex.load(images)
    ids = index.ids("val")
    if unlabelled is not None:
        labels = open_labels(unlabelled)
        ids = unlabelled_ids(labels, index.ids("train"))
        ids = sample_unlabelled(ids, labels.ids, train_maps, seed=seed)
    backbone, runtime = Backbone.load(network), start_runtime(compute)
    photographs = Photographs.of(
        [index.file(image_id) for image_id in ids],
        [index.size(image_id) for image_id in ids],
        short_side=short_side,
        stride=backbone.params.feature_stride,
    )
    inputs = [images, network] if unlabelled is None else [images, network, unlabelled]
    with scratch(out, inputs, [short_side, batch_size, train_maps, seed]) as folder:
        extract(
            backbone.features_of(runtime),
            photographs,
            {out: plan_dense(photographs, ids)},
            dimension=backbone.params.feature_channels,
            batch_size=batch_size,
            runtime=runtime,
            scratch=folder,
        )


if __name__ == "__main__":
    main()
