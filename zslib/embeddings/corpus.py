"""Word vectors trained on a text corpus by gensim: skip-gram with negative sampling.

One worker thread, so that the same corpus and seed give the same bytes: several would race for
the weights. The corpus is streamed, once for the vocabulary and once per epoch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zslib.embeddings.words import quiet_gensim
from zslib.errors import InputError

if TYPE_CHECKING:
    import gensim.models

Algorithm = Literal["word2vec", "fasttext"]

_WORD = re.compile(r"[^\W\d]+")
_LONGEST_SENTENCE = 10_000  # gensim drops the words of a sentence beyond this number


def train_word_vectors(
    corpus: Path,
    algorithm: Algorithm,
    *,
    dimension: int,
    window: int,
    epochs: int,
    negative: int,
    min_count: int,
    seed: int,
    subsample: float = 1e-3,
    subword_buckets: int = 20_000,
) -> "gensim.models.KeyedVectors":
    """Train word vectors (V, dimension) on a UTF-8 text file, one sentence per line.

    Words are lower-cased runs of letters (and underscores). `subsample` thins words more frequent
    than that share of the corpus; `subword_buckets` (fastText) is the number of rows that the
    character 3- to 6-grams share.

    Raises:
        InputError: the corpus is missing, empty, not UTF-8, or has no word `min_count` times.
    """
    settings: dict[str, Any] = {
        "vector_size": dimension,
        "window": window,
        "epochs": epochs,
        "negative": negative,
        "min_count": min_count,
        "seed": seed,
        "sample": subsample,
        "sg": 1,
        "workers": 1,
    }
    if algorithm == "fasttext":
        settings["bucket"] = subword_buckets
    sentences = _Sentences(corpus)
    with quiet_gensim():
        model = _untrained(algorithm, settings)
        _build_vocabulary(model, sentences)
        model.train(sentences, total_examples=model.corpus_count, epochs=epochs)
    return model.wv


class _Sentences:
    """The corpus as lists of words; gensim iterates over it once per pass."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[list[str]]:
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                words = _WORD.findall(line.lower())
                for start in range(0, len(words), _LONGEST_SENTENCE):
                    yield words[start : start + _LONGEST_SENTENCE]


def _untrained(algorithm: Algorithm, settings: dict[str, Any]) -> "gensim.models.Word2Vec":
    from gensim.models import FastText, Word2Vec

    return {"word2vec": Word2Vec, "fasttext": FastText}[algorithm](**settings)


def _build_vocabulary(model: "gensim.models.Word2Vec", sentences: _Sentences) -> None:
    """Count the words; the first pass over the corpus, so what is wrong with it shows here."""
    corpus = sentences.path
    try:
        model.build_vocab(sentences)
    except OSError as error:
        raise InputError(f"{corpus}: cannot be read ({error.strerror}); make it first") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{corpus}: is not UTF-8 text ({error.reason}); convert it") from error
    if model.corpus_total_words == 0:
        raise InputError(f"{corpus}: holds no word; write one sentence per line into it")
    if len(model.wv) == 0:
        raise InputError(
            f"{corpus}: no word occurs {model.min_count} times; lower `min_count` or add text"
        )
