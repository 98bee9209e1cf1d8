"""Extract SPNet's maps of validation images, made at several scales."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--network", type=EXISTING, required=True, help="Trained end to end.")
def main(section: Sections, *, images: Path, network: Path, out: Path) -> None:
    """Cache maps of the maximum over scales of the scores of all classes.

    Reads params.yaml:features.short_side, features.batch_size, spnet.end_to_end.scales.
    Example: python -m stages.spnet_maps --images artifacts/world/index/images.json
    --network artifacts/world/u4/spnet/e2e/trained/network.safetensors
    --out artifacts/world/u4/spnet/e2e/val_maps.h5
    """
    short_side, batch_size = section("features.short_side"), section("features.batch_size")
    scales, compute = section("spnet.end_to_end.scales"), section("compute")

    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.features import Photographs, extract, plan_dense
    from zslib.methods.spnet.end_to_end import maximum_of
    from zslib.training import start_runtime

    index = ImageIndex.load(images)
    ids = index.ids("val")
    backbone, runtime = Backbone.load(network), start_runtime(compute)
    photographs = Photographs.of(
        [index.file(image_id) for image_id in ids],
        [index.size(image_id) for image_id in ids],
        short_side=short_side,
        stride=backbone.params.feature_stride,
    )
    with scratch(out, [images, network], [short_side, batch_size, scales]) as folder:
        extract(
            maximum_of(backbone, scales, runtime),
            photographs,
            {out: plan_dense(photographs, ids)},
            dimension=len(backbone.split.classes),
            batch_size=batch_size,
            runtime=runtime,
            scratch=folder,
        )


if __name__ == "__main__":
    main()
