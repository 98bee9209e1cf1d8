"""Take class names as a published table has them for as read by its vision-language model."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--vectors", type=EXISTING, required=True, help="Class vectors of that table.")
def main(section: Sections, *, vectors: Path, out: Path) -> None:
    """Write the text that queries are trained with and told by, where there is no model to read it.

    Reads params.yaml:simbaseline.query_prompts. Example: python -m stages.text_table
    --vectors artifacts/voc12/vectors/clip.safetensors --out artifacts/voc12/clip/text
    """
    prompts = section("simbaseline.query_prompts")

    from dataclasses import replace

    from zslib.artifacts import publish
    from zslib.embeddings.table import class_embeddings, load_class_vectors, save_class_vectors

    table = load_class_vectors(vectors)
    with publish(out) as temporary:
        temporary.mkdir()
        text = replace(table, rows=class_embeddings([table], "unit"))
        save_class_vectors(temporary / f"{prompts}.safetensors", text)


if __name__ == "__main__":
    main()
