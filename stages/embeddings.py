"""Combine class vectors into the class embeddings of a method."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--method", required=True)
@click.option("--vectors", type=EXISTING, required=True, help="Folder of class vectors.")
def main(section: Sections, *, method: str, vectors: Path, out: Path) -> None:
    """Concatenate and normalise sources as the method's recipe says.

    Where vectors.source names others, those take the place of the recipe's, for every method alike.
    Reads params.yaml:<method>.vectors, vectors.source. Example: python -m stages.embeddings --method zs3net
    --vectors artifacts/world/vectors --out artifacts/world/zs3net/embeddings.safetensors
    """
    recipe = section(f"{method}.vectors").with_sources(section("vectors.source"))

    from zslib.embeddings.table import (
        ClassVectors,
        class_embeddings,
        load_class_vectors,
        save_class_vectors,
    )

    sources = [load_class_vectors(vectors / f"{name}.safetensors") for name in recipe.sources]
    rows = class_embeddings(sources, recipe.normalise)
    made_from = recipe.model_dump(mode="json")
    save_class_vectors(out, ClassVectors(method, sources[0].classes, rows, made_from))


if __name__ == "__main__":
    main()
