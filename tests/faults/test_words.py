"""Fault 14: a class without a usable word vector is refused by name, before anything is trained."""

import os

import numpy as np
import pytest

from zslib.embeddings.corpus import train_word_vectors
from zslib.embeddings.words import class_table, class_vector, open_word_vectors
from zslib.errors import InputError

TRAINING = dict(dimension=4, window=2, epochs=1, negative=2, min_count=2, seed=0)


def keyed_vectors(words):
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(3)
    vectors.add_vectors(list(words), np.array(list(words.values()), np.float32))
    return vectors


def table(words, names, *, aliases=None, multiword="mean"):
    return class_table(
        names,
        keyed_vectors(words),
        aliases=aliases or {},
        multiword=multiword,
        source="vectors/news.bin",
    )


WORDS = {"cat": [1, 0, 0], "motorcycle": [0, 1, 0], "plant": [0, 0, 1], "television": [1, 1, 0]}


class TestMissingWord:
    def test_names_file_word_class_and_remedy(self):
        with pytest.raises(InputError) as caught:
            table(WORDS, ["cat", "tvmonitor"])
        message = str(caught.value)
        assert message.startswith("vectors/news.bin: no vector for 'tvmonitor'")
        assert "class 'tvmonitor'" in message
        assert "aliases" in message
        assert "\n" not in message

    def test_offers_the_closest_spelling(self):
        with pytest.raises(InputError, match="it has 'motorcycle'"):
            table(WORDS, ["motorcycles"])

    @pytest.mark.parametrize("multiword", ["mean", "token"])
    def test_one_missing_word_of_several_is_not_left_out_of_the_mean(self, multiword):
        with pytest.raises(InputError, match=r"no vector for 'potted', needed by .*'potted plant'"):
            table(WORDS, ["potted plant"], multiword=multiword)

    def test_the_missing_alias_is_named_with_its_class(self):
        with pytest.raises(InputError, match=r"no vector for 'tv', needed by class 'tvmonitor'"):
            table(WORDS, ["tvmonitor"], aliases={"tvmonitor": "tv"})

    def test_another_case_is_another_word(self):
        with pytest.raises(InputError, match=r"no vector for 'Cat'.*it has 'cat'"):
            table(WORDS, ["Cat"])

    def test_a_name_without_letters_is_refused(self):
        with pytest.raises(InputError, match="class '-' has no word"):
            table(WORDS, ["-"])

    def test_a_huge_vocabulary_does_not_slow_the_message_down(self):
        words = {f"word{i}": [1, 2, 3] for i in range(20_000)}
        with pytest.raises(InputError, match=r"no vector for 'zebra'"):
            table(words, ["zebra"])

    def test_text_vectors_of_fasttext_do_not_compose(self, tmp_path):
        (tmp_path / "wiki.vec").write_text("2 2\nzebra 1 0\nhorse 0 1\n")
        opened = open_word_vectors(tmp_path / "wiki.vec", "text")
        with pytest.raises(InputError, match=r"no vector for 'zebras'.*it has 'zebra'"):
            class_vector("zebras", opened, aliases={}, multiword="token", source="wiki.vec")


class TestUnusableVector:
    @pytest.mark.parametrize(
        ("bad", "what"),
        [([0, 0, 0], "zero"), ([1, float("nan"), 0], "not finite"), ([1, float("inf"), 0], "not")],
    )
    @pytest.mark.parametrize("name", ["dog", "dog-cat"])
    def test_zero_and_non_finite_rows_are_refused_by_class(self, bad, what, name):
        with pytest.raises(InputError, match=rf"vector of 'dog' \(class '{name}'\) is {what}"):
            table(WORDS | {"dog": bad}, ["cat", name])

    def test_a_mean_that_cancels_to_zero_is_refused_by_class(self):
        with pytest.raises(InputError, match="vector of class 'anti cat' is zero"):
            table(WORDS | {"anti": [-1, 0, 0]}, ["plant", "anti cat"])

    def test_two_classes_of_one_word_are_refused_by_name(self):
        with pytest.raises(InputError, match="'motorbike' and 'motorcycle' have the same vector"):
            table(WORDS, ["cat", "motorbike", "motorcycle"], aliases={"motorbike": "motorcycle"})

    def test_the_same_words_in_another_order_are_the_same_vector(self):
        with pytest.raises(InputError, match="'plant-cat' and 'cat-plant' have the same vector"):
            table(WORDS, ["plant-cat", "cat-plant"])

    def test_a_class_listed_twice_is_refused(self):
        with pytest.raises(InputError, match="class 'cat' is listed twice"):
            table(WORDS, ["cat", "plant", "cat"])


class TestUnreadableFile:
    @pytest.mark.parametrize("format", ["text", "binary", "gensim", "fasttext"])
    @pytest.mark.parametrize(
        "content", [b"", b"\x00\xffnot vectors", b"2 3\ncat 1 2 3\n", b"0 3\n"]
    )
    def test_damaged_file_is_named_with_its_format(self, tmp_path, format, content):
        path = tmp_path / "v.bin"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"v\.bin: ") as caught:
            open_word_vectors(path, format)
        assert "\n" not in str(caught.value)

    def test_truncated_binary_is_refused(self, tmp_path):
        path = tmp_path / "v.bin"
        keyed_vectors(WORDS).save_word2vec_format(str(path), binary=True)
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(InputError, match=r"v\.bin: cannot be read as binary word vectors"):
            open_word_vectors(path, "binary")

    @pytest.mark.parametrize("format", ["text", "binary", "gensim", "fasttext"])
    def test_missing_file_and_folder_are_refused(self, tmp_path, format):
        for path in (tmp_path / "none.bin", tmp_path):
            with pytest.raises(InputError, match="no such file of word vectors"):
                open_word_vectors(path, format)

    def test_a_saved_model_is_not_keyed_vectors(self, tmp_path):
        from gensim.models import Word2Vec

        model = Word2Vec([["cat", "dog"]], vector_size=3, min_count=1, workers=1, epochs=1)
        model.save(str(tmp_path / "model"))
        with pytest.raises(InputError, match=r"save `model\.wv`"):
            open_word_vectors(tmp_path / "model", "gensim")


class TestUnusableCorpus:
    @pytest.mark.parametrize("algorithm", ["word2vec", "fasttext"])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "holds no word"),
            (b"12 ... \n\n", "holds no word"),
            (b"once upon a time\n", "no word occurs 2 times; lower `min_count`"),
            (b"caf\xe9 noir", "not UTF-8"),
        ],
    )
    def test_is_refused_by_name(self, tmp_path, algorithm, content, message):
        path = tmp_path / "corpus.txt"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"corpus\.txt: .*{message}"):
            train_word_vectors(path, algorithm, **TRAINING)

    def test_missing_folder_and_forbidden(self, tmp_path):
        locked = tmp_path / "locked.txt"
        locked.write_text("a a")
        locked.chmod(0)
        paths = [tmp_path / "none.txt", tmp_path]
        for path in paths if os.geteuid() == 0 else [*paths, locked]:
            with pytest.raises(InputError, match="cannot be read"):
                train_word_vectors(path, "word2vec", **TRAINING)
