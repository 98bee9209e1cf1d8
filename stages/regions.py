"""Embed the regions of mask proposals with the vision-language model."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--proposals", type=EXISTING, required=True)
@click.option("--model", type=EXISTING, required=True, help="The vision-language model.")
def main(section: Sections, *, images: Path, proposals: Path, model: Path, out: Path) -> None:
    """Cache a vector per proposal: every prompt, class list and weight is then a matrix product.

    Reads params.yaml:vision_language.regions. Example: python -m stages.regions
    --images artifacts/world/index/images.json --model artifacts/world/clip/model
    --proposals artifacts/world/u4/simbaseline/proposals/val.h5
    --out artifacts/world/u4/simbaseline/regions/val.h5
    """
    params, compute = section("vision_language.regions"), section("compute")

    from zslib.artifacts.proposals import Proposals
    from zslib.datasets.index import ImageIndex
    from zslib.training import start_runtime
    from zslib.vision_language.model import VisionLanguageModel
    from zslib.vision_language.regions import embed_regions

    index, found = ImageIndex.load(images), Proposals.open(proposals)
    clip = VisionLanguageModel.load(model)
    with scratch(out, [images, proposals], [params, clip.key]) as folder:
        embed_regions(
            clip,
            found,
            [index.file(image_id) for image_id in found.ids],
            out,
            params,
            runtime=start_runtime(compute),
            scratch=folder,
        )


if __name__ == "__main__":
    main()
