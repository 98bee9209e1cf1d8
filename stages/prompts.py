"""Learn prompts on true regions of seen classes."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--model", type=EXISTING, required=True, help="The vision-language model.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections, *, images: Path, labels: Path, model: Path, curves: Path, out: Path
) -> None:
    """Write prompts.safetensors, and text.safetensors: the text vectors of all class names with them.

    Reads params.yaml:vision_language.prompts, seed. Example: python -m stages.prompts
    --images artifacts/world/index/images.json --labels artifacts/world/u4/seen_labels.h5
    --model artifacts/world/clip/model --curves curves/world/u4/prompts
    --out artifacts/world/u4/simbaseline/prompts
    """
    params, seed = section("vision_language.prompts"), section("seed")
    compute = section("compute")

    from zslib.artifacts import publish
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import save_class_vectors
    from zslib.training import Checkpoint, Curves, start_runtime
    from zslib.vision_language.model import VisionLanguageModel
    from zslib.vision_language.prompts import fit

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    split, recorded = Split.described(label_maps.meta), Curves(curves, every=20)
    clip = VisionLanguageModel.load(model)
    with scratch(out, [images, labels], [params, seed, clip.key]) as folder:
        prompts = fit(
            clip,
            [index.file(image_id) for image_id in label_maps.ids],
            label_maps,
            split.seen,
            [split.classes[c] for c in split.seen],
            params,
            seed=seed,
            compute=compute,
            runtime=start_runtime(compute),
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        with publish(out) as temporary:
            temporary.mkdir()
            made = {"seed": seed, "split": split.name, **params.model_dump(mode="json")}
            prompts.save(temporary / "prompts.safetensors", meta=made)
            vectors = prompts.class_vectors(split.classes)
            save_class_vectors(temporary / "text.safetensors", vectors)
        recorded.write()


if __name__ == "__main__":
    main()
