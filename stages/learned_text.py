"""Read class names with prompts that were learned for others."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--model", type=EXISTING, required=True, help="The vision-language model.")
@click.option("--prompts", type=EXISTING, required=True, help="Learned with that model.")
def main(section: Sections, *, model: Path, prompts: Path, out: Path) -> None:
    """Write text.safetensors, the text vectors of all class names, as the stage that learns prompts does.

    Reads params.yaml:benchmark.classes. Example: python -m stages.learned_text
    --model artifacts/cocostuff-simbaseline/clip/model
    --prompts artifacts/cocostuff-simbaseline/u15/simbaseline/prompts/prompts.safetensors
    --out artifacts/ade20k/u15/simbaseline/prompts
    """
    classes = section("benchmark.classes")

    from zslib.artifacts import publish
    from zslib.embeddings.table import save_class_vectors
    from zslib.vision_language.model import VisionLanguageModel
    from zslib.vision_language.prompts import Prompts

    learned = Prompts.load(prompts, VisionLanguageModel.load(model))
    with publish(out) as temporary:
        temporary.mkdir()
        save_class_vectors(temporary / "text.safetensors", learned.class_vectors(classes))


if __name__ == "__main__":
    main()
