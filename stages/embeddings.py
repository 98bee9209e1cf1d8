"""Combine class vectors into the class embeddings of each method."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--method", "methods", multiple=True, required=True)
@click.option("--vectors", type=EXISTING, required=True, help="Folder of class vectors.")
def main(section: Sections, *, methods: tuple[str, ...], vectors: Path, out: Path) -> None:
    """Concatenate and normalise sources as each method's recipe says, into a file of its name.

    Where vectors.source names others, those take the place of the recipe's, for every method alike.
    Reads params.yaml:<method>.vectors, vectors.source. Example: python -m stages.embeddings
    --method zs3net --vectors artifacts/world/vectors --out artifacts/world/embeddings
    """
    source = section("vectors.source")
    recipes = {method: section(f"{method}.vectors").with_sources(source) for method in methods}

    from zslib.artifacts.publish import publish
    from zslib.embeddings.table import (
        ClassVectors,
        class_embeddings,
        load_class_vectors,
        save_class_vectors,
    )

    with publish(out) as temporary:
        for method, recipe in recipes.items():
            sources = [
                load_class_vectors(vectors / f"{name}.safetensors") for name in recipe.sources
            ]
            rows = class_embeddings(sources, recipe.normalise)
            made_from = recipe.model_dump(mode="json")
            made = ClassVectors(method, sources[0].classes, rows, made_from)
            save_class_vectors(temporary / f"{method}.safetensors", made)


if __name__ == "__main__":
    main()
