"""Propose masks for images, and keep the proposals."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--network", type=EXISTING, required=True, help="A trained MaskFormer.")
@click.option(
    "--unlabelled", type=EXISTING, help="Seen labels; the images for self-training are taken."
)
def main(
    section: Sections, *, images: Path, network: Path, unlabelled: Path | None, out: Path
) -> None:
    """Cache the proposals of the validation images, or of unlabelled training images.

    Of training images those are taken that were left out for the unseen classes they show, or all, if
    the benchmark's rule keeps such images and their unseen pixels are void.
    Reads params.yaml:simbaseline.test, simbaseline.batch_size. Example:
    python -m stages.simbaseline_proposals
    --network artifacts/world/u4/simbaseline/network.safetensors
    --images artifacts/world/index/images.json --out artifacts/world/u4/simbaseline/proposals/val.h5
    """
    views, batch_size = section("simbaseline.test"), section("simbaseline.batch_size")
    compute = section("compute")

    from zslib.artifacts.maps import open_labels
    from zslib.datasets.index import ImageIndex
    from zslib.datasets.labels import unlabelled_ids
    from zslib.methods.simbaseline.extraction import TestImages, extract
    from zslib.methods.simbaseline.network import Proposer
    from zslib.training import start_runtime

    index = ImageIndex.load(images)
    ids = index.ids("val")
    if unlabelled is not None:
        ids = unlabelled_ids(open_labels(unlabelled), index.ids("train"))
    inputs = [images, network] if unlabelled is None else [images, network, unlabelled]
    with scratch(out, inputs, [views]) as folder:
        extract(
            Proposer.load(network),
            TestImages.of(index, ids, views),
            out,
            batch_size=batch_size,
            runtime=start_runtime(compute),
            scratch=folder,
        )


if __name__ == "__main__":
    main()
