"""Word vectors of published files, and the rule by which a class name becomes one of them.

Everything goes through gensim's KeyedVectors, so GoogleNews, fastText and the small files of the
authors open alike. The rule for names of several words is in zs3net §3 (single tokens) and spnet §6
(mean of the raw vectors); both are here because the published tables mix them.
"""

import difflib
import itertools
import logging
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zslib.embeddings.table import check_rows
from zslib.errors import InputError

if TYPE_CHECKING:
    import gensim.models

Format = Literal["text", "binary", "gensim", "fasttext"]
MultiWord = Literal["token", "mean"]

_SUGGESTION_POOL = 200_000


def open_word_vectors(path: Path, format: Format) -> "gensim.models.KeyedVectors":
    """Open a file of word vectors with gensim.

    - `text`: word2vec text with a header line (fastText's .vec).
    - `binary`: word2vec binary (GoogleNews-vectors-negative300.bin).
    - `gensim`: a saved KeyedVectors, memory-mapped.
    - `fasttext`: fastText's own .bin, whose subwords compose words that are not in it.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of word vectors; correct the path or fetch it")
    try:
        with quiet_gensim():
            vectors = _READERS[format](path)
    except Exception as error:  # gensim's parsers raise whatever a damaged byte leads them to
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as {format} word vectors ({reason}); "
            "check the format, or fetch the file again"
        ) from error
    if len(vectors.key_to_index) == 0:
        raise InputError(f"{path}: holds no word; fetch the file again")
    return vectors


def class_table(
    names: Sequence[str],
    vectors: "gensim.models.KeyedVectors",
    *,
    aliases: Mapping[str, str],
    multiword: MultiWord,
    source: str,
) -> np.ndarray:
    """Return the raw vectors (C, d) float32 of the classes `names`, in their order.

    `source` (the file, or the corpus) is named in messages; the rest is as in `class_vector`.

    Raises:
        InputError: a word is missing; a vector is zero or not finite; two classes have the same.
    """
    rows = [
        class_vector(name, vectors, aliases=aliases, multiword=multiword, source=source)
        for name in names
    ]
    table = np.stack(rows) if rows else np.empty((0, vectors.vector_size), np.float32)
    check_rows(table, classes=names, source=source)
    return table


def class_vector(
    name: str,
    vectors: "gensim.models.KeyedVectors",
    *,
    aliases: Mapping[str, str],
    multiword: MultiWord,
    source: str,
) -> np.ndarray:
    """Return the raw vector (d,) float32 of one class.

    An alias is looked up in place of its class ("tvmonitor" -> "tv"); where the file lacks it, as
    those do that hold the class names themselves, the name is. One word is its token. Of several
    (separated by spaces, underscores or hyphens: a suffix counts as a word), `mean` averages the raw
    vectors; `token` looks for the joined token first and averages where there is none. What is
    written with an underscore ("potted_plant") is looked for as a token by both.

    Raises:
        InputError: a word is not in the vocabulary (and has no subwords), or its vector is zero or
            not finite.
    """
    texts = (aliases.get(name, name), name)
    readings = [_tokens(text, vectors, multiword) for text in texts]
    known = (words for words in readings if words and all(word in vectors for word in words))
    words = next(known, readings[0])
    if not words:
        raise InputError(f"{source}: class '{name}' has no word to look up; correct the name")
    raw = [_word_vector(word, vectors, name=name, source=source) for word in words]
    return np.asarray(np.mean(raw, axis=0, dtype=np.float64), np.float32)


def _tokens(text: str, vectors: "gensim.models.KeyedVectors", multiword: MultiWord) -> list[str]:
    """Return the words whose vectors are averaged, or the one token that they are joined to."""
    words = [word for word in re.split(r"[\s_-]+", text) if word]
    if words and (multiword == "token" or "_" in text):
        # In the vocabulary itself: subwords would compose a vector for any joined token.
        tokens = ("_".join(text.split()), "_".join(words))
        return next(([token] for token in tokens if token in vectors.key_to_index), words)
    return words


def _word_vector(
    word: str, vectors: "gensim.models.KeyedVectors", *, name: str, source: str
) -> np.ndarray:
    if word not in vectors:  # vectors with subwords have every word
        raise InputError(_missing(word, vectors, name=name, source=source))
    with quiet_gensim():
        vector = np.asarray(vectors.get_vector(word), np.float32)
    if not (np.isfinite(vector).all() and vector.any()):
        what = "zero" if np.isfinite(vector).all() else "not finite"
        raise InputError(
            f"{source}: the vector of '{word}' (class '{name}') is {what}; "
            f"give class '{name}' another word under `aliases`"
        )
    return vector


def _missing(word: str, vectors: "gensim.models.KeyedVectors", *, name: str, source: str) -> str:
    close = _closest_spellings(word, vectors.index_to_key)
    suggestion = f" (it has {', '.join(map(repr, close))})" if close else ""
    return (
        f"{source}: no vector for '{word}', needed by class '{name}'{suggestion}; "
        f"give class '{name}' another word under `aliases`"
    )


def _closest_spellings(word: str, vocabulary: Sequence[str]) -> list[str]:
    """Up to three spellings near `word` among the most frequent words, without reading millions."""
    folded = word.casefold()
    plausible = [
        key
        for key in itertools.islice(vocabulary, _SUGGESTION_POOL)
        if key[:1].casefold() == folded[:1] and abs(len(key) - len(word)) <= 3
    ]
    return difflib.get_close_matches(word, plausible, n=3, cutoff=0.6)


@contextmanager
def quiet_gensim() -> Iterator[None]:
    """Keep gensim's progress and advice out of the log; its errors are raised, not logged."""
    logger = logging.getLogger("gensim")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read_word2vec(path: Path, *, binary: bool) -> "gensim.models.KeyedVectors":
    from gensim.models import KeyedVectors

    return KeyedVectors.load_word2vec_format(str(path), binary=binary)


def _read_saved(path: Path) -> "gensim.models.KeyedVectors":
    from gensim.models import KeyedVectors

    # gensim unpickles without restriction, so the same bytes first pass a reader that has some.
    with path.open("rb") as file:
        content = vars(_KeyedVectorsUnpickler(file, encoding="latin1").load())
    if content.get("__scipys") or content.get("__recursive_saveloads"):
        raise pickle.UnpicklingError("it refers to further pickles beside it")
    return KeyedVectors.load(str(path), mmap="r")


def _read_fasttext(path: Path) -> "gensim.models.KeyedVectors":
    from gensim.models.fasttext import load_facebook_vectors

    return load_facebook_vectors(str(path))


_READERS = {
    "text": lambda path: _read_word2vec(path, binary=False),
    "binary": lambda path: _read_word2vec(path, binary=True),
    "gensim": _read_saved,
    "fasttext": _read_fasttext,
}


class _KeyedVectorsUnpickler(pickle.Unpickler):
    """Admits what a saved KeyedVectors is made of, and nothing that could run code."""

    ADMITTED = re.compile(
        r"gensim\.models\.(keyedvectors|fasttext)\.(KeyedVectors|FastTextKeyedVectors)"
        r"|numpy\.(_core|core)\.multiarray\._reconstruct"
        r"|numpy\.(_core|core)\.numeric\._frombuffer"
        r"|numpy\.(ndarray|dtype)"
    )

    def find_class(self, module: str, name: str) -> Any:
        if not self.ADMITTED.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}, not only a KeyedVectors: save `model.wv`"
            )
        return super().find_class(module, name)
