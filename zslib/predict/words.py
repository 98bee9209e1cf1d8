"""Class vectors of words that the benchmark does not name, from the sources of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from zslib.embeddings.corpus import train_word_vectors
from zslib.embeddings.table import ClassVectors, class_embeddings, load_class_vectors
from zslib.embeddings.words import class_table, open_word_vectors
from zslib.errors import InputError
from zslib.params.benchmark import VectorRecipe, VectorSourceParams
from zslib.predict.artifacts import Artifact
from zslib.predict.request import Request


def embeddings_with(
    names: Sequence[str], classes: Sequence[str], recipe: VectorRecipe, request: Request
) -> Float[Tensor, "c e"]:
    """Return the class embeddings of a benchmark's classes, and after them those of new names.

    Raises:
        InputError: a source has no vector for a word and cannot compose one of its subwords.
    """
    vectors = request.params.vectors
    sources = [
        _with_new(names, classes, name, vectors.sources[name], request)
        for name in recipe.with_sources(vectors.source).sources
    ]
    return torch.from_numpy(class_embeddings(sources, recipe.normalise))


def _with_new(
    names: Sequence[str],
    classes: Sequence[str],
    source: str,
    params: VectorSourceParams,
    request: Request,
) -> ClassVectors:
    stage = f"vectors@{source}"
    known = Artifact(f"vectors/{source}.safetensors", stage)
    published = load_class_vectors(request.artifacts.find(f"vectors-{source}", known))
    rows = _looked_up([*classes, *names], params, source)
    if not np.allclose(rows[: len(classes)], published.rows, atol=1e-5):
        raise InputError(
            f"vectors.sources.{source}: {params.input} now gives other vectors than those the "
            f"method was trained with; run `dvc repro {stage}` and what follows it"
        )
    return ClassVectors(source, (*classes, *names), rows, published.made_from)


def _looked_up(
    names: Sequence[str], params: VectorSourceParams, source: str
) -> Float32[np.ndarray, "c d"]:
    """Open the word vectors, or train them once more: the same corpus and seed give the same ones."""
    if params.train is not None:
        words = train_word_vectors(Path(params.input), **params.train.model_dump())
    else:
        assert params.format is not None, "params refuse a source of neither kind"
        words = open_word_vectors(Path(params.input), params.format)
    return class_table(
        names,
        words,
        aliases=params.aliases,
        multiword=params.multiword,
        source=f"{source} ({params.input})",
    )
