"""Extract the features of the labelled training images."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--network", type=EXISTING, required=True)
def main(section: Sections, *, images: Path, labels: Path, network: Path, out: Path) -> None:
    """Cache sampled pixel features of the training images (bank.h5) and whole maps (maps.h5).

    Reads params.yaml:features, seed. Example: python -m stages.train_features
    --images artifacts/world/index/images.json --labels artifacts/world/u4/seen_labels.h5
    --network artifacts/world/u4/backbone/network.safetensors --out artifacts/world/u4/features/train
    """
    params, seed, compute = section("features"), section("seed"), section("compute")

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.features import Photographs, extract, plan_bank, plan_dense, sample_ids
    from zslib.training import start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    backbone, runtime = Backbone.load(network), start_runtime(compute)
    ids = label_maps.ids
    photographs = Photographs.of(
        [index.file(image_id) for image_id in ids],
        [index.size(image_id) for image_id in ids],
        short_side=params.short_side,
        stride=backbone.params.feature_stride,
    )
    described = {"labels": dict(label_maps.meta), "ids": list(ids)}
    whole = sample_ids(ids, params.train_maps or len(ids), seed=seed)
    tuning = sample_ids(ids, params.tuning_images, seed=seed)
    bank = plan_bank(photographs, label_maps, params, seed=seed, meta=described)
    maps = plan_dense(photographs, ids, kept=whole, meta={"tuning": list(tuning)})
    with scratch(out, [images, labels, network], [params, seed]) as folder:
        extract(
            backbone.features_of(runtime),
            photographs,
            {out / "bank.h5": bank, out / "maps.h5": maps},
            dimension=backbone.params.feature_channels,
            batch_size=params.batch_size,
            runtime=runtime,
            scratch=folder,
        )


if __name__ == "__main__":
    main()
