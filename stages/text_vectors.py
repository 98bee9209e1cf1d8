"""Read class names with the vision-language model, in every template."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--model", type=EXISTING, required=True)
def main(section: Sections, *, model: Path, out: Path) -> None:
    """Write templates.safetensors, one vector per template and name; their means as class vectors,
    <set>.safetensors; and vectors.bin, one of these as a word2vec file for `vectors.sources`.

    Reads params.yaml:benchmark.classes, vision_language.templates. Example:
    python -m stages.text_vectors --model artifacts/world/clip/model
    --out artifacts/world/clip/text
    """
    classes, chosen = section("benchmark.classes"), section("vision_language.templates")

    from zslib.artifacts import publish
    from zslib.embeddings.table import save_class_vectors
    from zslib.vision_language.model import VisionLanguageModel
    from zslib.vision_language.templates import TEMPLATES
    from zslib.vision_language.text import TemplateText, write_word_vectors

    every = list(dict.fromkeys(template for some in TEMPLATES.values() for template in some))
    text = TemplateText.embed(VisionLanguageModel.load(model), classes, every)
    with publish(out) as temporary:
        temporary.mkdir()
        text.save(temporary / "templates.safetensors")
        for name in TEMPLATES:
            save_class_vectors(temporary / f"{name}.safetensors", text.class_vectors(name))
        write_word_vectors(temporary / "vectors.bin", text.class_vectors(chosen))


if __name__ == "__main__":
    main()
