"""Make the class vectors of one source."""

from pathlib import Path

import click

from stages.command import Sections, stage


@stage
@click.option(
    "--source", required=True, help="Name of the source under params.yaml:vectors.sources."
)
def main(section: Sections, *, source: str, out: Path) -> None:
    """Look up or train one vector per class by gensim.

    Reads params.yaml:vectors.sources.<source>, benchmark.classes and the source's `input` file.
    Example: python -m stages.vectors --source word2vec --out artifacts/world/vectors/word2vec.safetensors
    """
    params, classes = section(f"vectors.sources.{source}"), section("benchmark.classes")

    from zslib.embeddings.corpus import train_word_vectors
    from zslib.embeddings.table import ClassVectors, save_class_vectors
    from zslib.embeddings.words import class_table, open_word_vectors

    if params.train is not None:
        words = train_word_vectors(Path(params.input), **params.train.model_dump())
    else:
        words = open_word_vectors(Path(params.input), params.format)
    rows = class_table(
        classes, words, aliases=params.aliases, multiword=params.multiword, source=params.input
    )
    made_from = params.model_dump(mode="json")
    save_class_vectors(out, ClassVectors(source, tuple(classes), rows, made_from))


if __name__ == "__main__":
    main()
