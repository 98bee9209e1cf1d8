"""Get the vision-language model: open a published CLIP, or train a small one on captions."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--captions", type=PATH, required=True, help="Read only where a model is trained.")
@click.option("--curves", type=PATH, required=True)
def main(section: Sections, *, images: Path, captions: Path, curves: Path, out: Path) -> None:
    """Keep a frozen CLIP as an artifact, in transformers' own layout.

    A trained one sees pictures and captions of the training list alone; captions name unseen classes.
    Reads params.yaml:vision_language.name, vision_language.training, seed. Example:
    python -m stages.vision_language --images artifacts/world/index/images.json
    --captions data/world/captions.jsonl --curves curves/world/vision_language
    --out artifacts/world/clip/model
    """
    name, params = section("vision_language.name"), section("vision_language.training")
    seed, compute = section("seed"), section("compute")

    from zslib.datasets.index import ImageIndex
    from zslib.training import Checkpoint, Curves, start_runtime
    from zslib.vision_language.captions import fit, read_captions
    from zslib.vision_language.model import VisionLanguageModel

    recorded = Curves(curves, every=50)
    if params is None:
        VisionLanguageModel.named(name).save(out)
    else:
        index, texts = ImageIndex.load(images), read_captions(captions)
        ids = [image_id for image_id in index.ids("train") if image_id in texts]
        with scratch(out, [images, captions], [params, seed]) as folder:
            model = fit(
                [index.file(image_id) for image_id in ids],
                [texts[image_id] for image_id in ids],
                params,
                seed=seed,
                runtime=start_runtime(compute),
                checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
                curves=recorded,
            )
            model.save(out)
    recorded.write()


if __name__ == "__main__":
    main()
