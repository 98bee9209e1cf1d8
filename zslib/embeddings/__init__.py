"""Class vectors: published or trained on a corpus, stored raw, combined by each method's recipe.

`words` and `corpus` give word vectors (gensim, imported when used); `table` keeps them (numpy).
"""

from zslib.embeddings.corpus import train_word_vectors
from zslib.embeddings.table import (
    ClassVectors,
    class_embeddings,
    load_class_vectors,
    save_class_vectors,
)
from zslib.embeddings.words import class_table, class_vector, open_word_vectors

__all__ = [
    "ClassVectors",
    "class_embeddings",
    "class_table",
    "class_vector",
    "load_class_vectors",
    "open_word_vectors",
    "save_class_vectors",
    "train_word_vectors",
]
