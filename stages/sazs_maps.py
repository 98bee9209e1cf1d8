"""Extract SAZS's maps of validation images."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, parallel_stage, scratch


@parallel_stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--network", type=EXISTING, required=True, help="As trained by SAZS.")
def main(section: Sections, *, images: Path, network: Path, out: Path) -> None:
    """Cache maps of the margins of all classes.

    Reads params.yaml:features.short_side, features.batch_size, sazs.input_size. Example:
    python -m stages.sazs_maps --images artifacts/world/index/images.json
    --network artifacts/world/u4/sazs/trained/network.safetensors
    --out artifacts/world/u4/sazs/val_maps.h5
    """
    short_side, batch_size = section("features.short_side"), section("features.batch_size")
    input_size, compute = section("sazs.input_size"), section("compute")

    from zslib.datasets.index import ImageIndex
    from zslib.methods.sazs.margins import cache_margins
    from zslib.methods.sazs.networks import Trained
    from zslib.training import start_runtime

    index = ImageIndex.load(images)
    ids = index.ids("val")
    with scratch(out, [images, network], [short_side, batch_size, input_size]) as folder:
        cache_margins(
            Trained.load(network),
            ids,
            [index.file(image_id) for image_id in ids],
            [index.size(image_id) for image_id in ids],
            input_size=input_size,
            short_side=short_side,
            batch_size=batch_size,
            out=out,
            runtime=start_runtime(compute),
            scratch=folder,
        )


if __name__ == "__main__":
    main()
