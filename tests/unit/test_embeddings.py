"""Class vectors: the name rule, the recipes, the artifact, and the published files' own numbers."""

import hashlib
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zslib.embeddings.corpus import train_word_vectors
from zslib.embeddings.table import (
    ClassVectors,
    class_embeddings,
    load_class_vectors,
    save_class_vectors,
)
from zslib.embeddings.words import class_table, class_vector, open_word_vectors
from zslib.errors import ArtifactError, InputError

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "vectors"

needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published class vectors (../shared/vectors) are not here"
)

WORDS = {
    "tv": [1, 0, 0, 0],
    "potted": [0, 3, 0, 1],
    "plant": [0, 1, 4, 0],
    "potted_plant": [5, 5, 0, 0],
    "floor": [2, 0, 0, 2],
    "wood": [0, 0, 6, 2],
    "cat": [1, 2, 3, 4],
}
TRAINING = dict(dimension=8, window=3, epochs=3, negative=3, min_count=1, seed=7)


@pytest.fixture(scope="module")
def keyed_vectors():
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(4)
    vectors.add_vectors(list(WORDS), np.array(list(WORDS.values()), np.float32))
    return vectors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    lines = ["The zebra grazes near the horse.", "A Horse eats grass!", "the floor-wood is wood"]
    path.write_text("\n".join(lines * 20), encoding="utf-8")
    return path


class TestNames:
    """One class name becomes one vector (zs3net §3, spnet §6)."""

    @pytest.mark.parametrize(
        ("name", "multiword", "expected"),
        [
            ("cat", "token", WORDS["cat"]),
            ("cat", "mean", WORDS["cat"]),
            ("potted plant", "token", WORDS["potted_plant"]),
            ("potted_plant", "token", WORDS["potted_plant"]),
            ("potted-plant", "token", WORDS["potted_plant"]),
            ("potted plant", "mean", [0, 2, 2, 0.5]),
            ("potted_plant", "mean", WORDS["potted_plant"]),  # an underscore asks for the token
            ("potted_plant wood", "mean", [0, 4 / 3, 10 / 3, 1]),  # and there is none
            ("floor-wood", "mean", [1, 0, 3, 2]),
            ("floor-wood", "token", [1, 0, 3, 2]),  # no such token: falls back to the mean
            ("pottedplant", "token", WORDS["potted_plant"]),
            ("pottedplant", "mean", [0, 2, 2, 0.5]),
            ("flowerpot", "mean", WORDS["potted_plant"]),
            ("tvmonitor", "token", WORDS["tv"]),
            (
                "floor",
                "token",
                WORDS["cat"],
            ),  # an alias is wanted, whether the name is there or not
            ("wood", "mean", WORDS["wood"]),  # but for one that is not there
        ],
    )
    def test_rule(self, keyed_vectors, name, multiword, expected):
        aliases = {"tvmonitor": "tv", "pottedplant": "potted plant", "flowerpot": "potted_plant"}
        aliases |= {"floor": "cat", "wood": "fire wood"}
        row = class_vector(name, keyed_vectors, aliases=aliases, multiword=multiword, source="f")
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, np.float32(expected))

    def test_table_keeps_the_order_of_the_names(self, keyed_vectors):
        names = ["wood", "cat", "tv"]
        table = class_table(names, keyed_vectors, aliases={}, multiword="token", source="f")
        np.testing.assert_array_equal(table, np.float32([WORDS[name] for name in names]))


class TestFormats:
    """Every format gives the same words and the same numbers."""

    def write(self, keyed_vectors, path, format):
        if format.startswith("gensim"):
            separately = [] if format == "gensim-one-file" else ["vectors"]
            keyed_vectors.save(str(path), separately=separately)
        else:
            keyed_vectors.save_word2vec_format(str(path), binary=format == "binary")
        return path

    @pytest.mark.parametrize("format", ["text", "binary", "gensim", "gensim-one-file"])
    def test_round_trip(self, keyed_vectors, tmp_path, format):
        path = self.write(keyed_vectors, tmp_path / "v", format)
        opened = open_word_vectors(path, format.removesuffix("-one-file"))
        assert opened.index_to_key == list(WORDS)
        np.testing.assert_array_equal(opened.vectors, keyed_vectors.vectors)
        assert isinstance(opened.vectors, np.memmap) == (format == "gensim")

    def test_native_fasttext_composes_words_it_never_saw(self, corpus, tmp_path):
        from gensim.models import FastText
        from gensim.models.fasttext import save_facebook_model

        sentences = [line.split() for line in corpus.read_text().splitlines()]
        model = FastText(sentences, vector_size=6, min_count=1, bucket=50, workers=1, epochs=1)
        save_facebook_model(model, str(tmp_path / "cc.bin"))
        opened = open_word_vectors(tmp_path / "cc.bin", "fasttext")
        assert "zebras" not in opened.key_to_index
        row = class_vector("zebras", opened, aliases={}, multiword="token", source="cc.bin")
        np.testing.assert_allclose(row, model.wv.get_vector("zebras"), rtol=1e-5)
        # The joined token is not in the vocabulary: it must be the mean, not composed of subwords.
        joined = class_vector("zebra grazes", opened, aliases={}, multiword="token", source="f")
        expected = (opened["zebra"] + opened["grazes"]) / 2
        np.testing.assert_allclose(joined, expected, rtol=1e-5)

    def test_gensims_log_is_silent_and_its_level_comes_back(
        self, keyed_vectors, corpus, tmp_path, caplog
    ):
        with caplog.at_level(logging.INFO, logger="gensim"):
            path = self.write(keyed_vectors, tmp_path / "v", "text")
            caplog.clear()  # gensim has logged the writing
            open_word_vectors(path, "text")
            train_word_vectors(corpus, "word2vec", **TRAINING)
            assert logging.getLogger("gensim").level == logging.INFO
        assert caplog.records == []

    def test_opening_a_pickle_runs_no_code(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "was-here",))

        (tmp_path / "v").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(InputError, match="not only a KeyedVectors"):
            open_word_vectors(tmp_path / "v", "gensim")
        assert not (tmp_path / "was-here").exists()


class TestTraining:
    def test_words_are_lower_case_letters(self, corpus):
        vectors = train_word_vectors(corpus, "word2vec", **TRAINING)
        assert {"the", "horse", "floor", "wood", "grass"} <= set(vectors.key_to_index)
        assert not [w for w in vectors.index_to_key if w != w.lower() or not w.isalpha()]
        assert vectors.vectors.shape == (len(vectors.index_to_key), 8)

    def test_seed_and_epochs_matter(self, corpus):
        base = train_word_vectors(corpus, "word2vec", **TRAINING).vectors
        for change in ({"seed": 8}, {"epochs": 4}):
            other = train_word_vectors(corpus, "word2vec", **(TRAINING | change)).vectors
            assert not np.array_equal(base, other)

    def test_words_of_the_same_contexts_are_near(self, tmp_path):
        rng = np.random.default_rng([0])
        topics = [["cat", "dog", "fur", "paw", "pet"], ["bus", "tram", "road", "wheel", "seat"]]
        lines = [" ".join(rng.permutation(topics[i % 2])) for i in range(400)]
        (tmp_path / "c.txt").write_text("\n".join(lines))
        options = TRAINING | {"epochs": 20, "dimension": 16}
        vectors = train_word_vectors(tmp_path / "c.txt", "word2vec", **options, subsample=0.0)
        assert vectors.similarity("cat", "dog") > vectors.similarity("cat", "bus") + 0.2

    def test_no_word_of_a_long_line_is_lost(self, tmp_path):
        (tmp_path / "c.txt").write_text("a b " * 10_000 + "last")
        vectors = train_word_vectors(tmp_path / "c.txt", "word2vec", **TRAINING)
        assert "last" in vectors.key_to_index

    def test_fresh_processes_give_the_same_bytes_whatever_the_hash_seed(self, corpus, tmp_path):
        long = tmp_path / "long.txt"  # several of gensim's jobs, so that several workers would race
        long.write_text(corpus.read_text() * 100)
        processes = [_fresh_process(long, hash_seed) for hash_seed in ("1", "2")]
        outputs = [process.communicate(timeout=60) for process in processes]
        assert [errors for _, errors in outputs] == ["", ""]  # neither gensim's log nor a warning
        digests = {digests for digests, _ in outputs}
        assert len(digests) == 1
        assert len(set(digests.pop().split())) == 2  # word2vec and fastText, both trained


def _fresh_process(corpus, hash_seed):
    code = f"""
import hashlib, pathlib
from zslib.embeddings.corpus import train_word_vectors
corpus = pathlib.Path({str(corpus)!r})
for algorithm in ("word2vec", "fasttext"):
    vectors = train_word_vectors(corpus, algorithm, **{TRAINING!r}, subsample=0.0)
    content = repr(vectors.index_to_key).encode() + vectors.vectors.tobytes()
    print(hashlib.sha256(content).hexdigest())
"""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", code], env=environment, **pipes)


cases = st.tuples(st.integers(2, 12), st.integers(0, 2**32 - 1))


def random_sources(count, case):
    """Some sources over the same classes, each with its own dimension, scale and rows."""
    class_count, seed = case
    classes = tuple(f"class{i}" for i in range(class_count))
    rng = np.random.default_rng([seed])
    found = []
    for number in range(count):
        rows = rng.normal(size=(class_count, rng.integers(3, 20))) * 10.0 ** rng.integers(-3, 4)
        found.append(ClassVectors(f"s{number}", classes, rows.astype(np.float32), {}))
    return found


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


class TestRecipes:
    @given(cases)
    def test_unit_rows_have_norm_one_and_equal_shares(self, case):
        three = random_sources(3, case)
        embeddings = class_embeddings(three, "unit")
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
        widths = np.cumsum([source.rows.shape[1] for source in three])[:-1]
        parts = np.stack([np.linalg.norm(p, axis=1) for p in np.split(embeddings, widths, axis=1)])
        np.testing.assert_allclose(parts, 3**-0.5, atol=1e-6)

    @given(cases)
    def test_the_joint_cosine_is_the_mean_of_the_sources_cosines(self, case):
        two = random_sources(2, case)
        expected = (cosines(two[0].rows) + cosines(two[1].rows)) / 2
        np.testing.assert_allclose(cosines(class_embeddings(two, "unit")), expected, atol=1e-5)

    @given(cases)
    def test_max_is_one_scalar(self, case):
        two = random_sources(2, case)
        raw, scaled = class_embeddings(two, "none"), class_embeddings(two, "max")
        largest = np.linalg.norm(raw.astype(np.float64), axis=1).max()
        np.testing.assert_allclose(scaled, raw / largest, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(scaled, axis=1).max(), 1, rtol=1e-5)

    @given(cases)
    def test_max_each_is_one_scalar_per_source(self, case):
        two = random_sources(2, case)
        expected = np.hstack([class_embeddings([source], "max") for source in two])
        np.testing.assert_array_equal(class_embeddings(two, "max_each"), expected)

    @given(cases)
    def test_unit_joint_keeps_the_proportions_of_the_raw_rows(self, case):
        two = random_sources(2, case)
        raw, joint = class_embeddings(two, "none"), class_embeddings(two, "unit_joint")
        np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, atol=1e-6)
        norms = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
        np.testing.assert_allclose(joint, raw / norms, rtol=1e-5)

    @given(cases)
    def test_none_is_the_raw_rows_in_the_given_order(self, case):
        first, second = random_sources(2, case)
        raw = np.hstack([second.rows, first.rows])
        np.testing.assert_array_equal(class_embeddings([second, first], "none"), raw)

    def test_sources_of_other_classes_are_refused(self):
        rows = np.eye(3, dtype=np.float32)
        base = ClassVectors("word2vec", ("cat", "dog", "cow"), rows, {})
        swapped = ClassVectors("fasttext", ("cat", "cow", "dog"), rows, {})
        shorter = ClassVectors("fasttext", ("cat", "dog"), rows[:2], {})
        with pytest.raises(InputError, match=r"word2vec and fasttext.*class 1 is 'dog' and 'cow'"):
            class_embeddings([base, swapped], "none")
        with pytest.raises(InputError, match="3 and 2 classes"):
            class_embeddings([base, shorter], "none")
        with pytest.raises(InputError, match="name at least one"):
            class_embeddings([], "none")

    def test_classes_that_differ_in_length_alone_are_refused_at_unit_norm(self):
        rows = np.float32([[1, 2], [2, 4], [1, 0]])
        source = ClassVectors("word2vec", ("cat", "kitten", "bus"), rows, {})
        assert class_embeddings([source], "none").shape == (3, 2)
        with pytest.raises(InputError, match="'cat' and 'kitten'"):
            class_embeddings([source], "unit")


class TestArtifact:
    CLASSES = ("background", "cat", "dîner table")
    ROWS = np.float32([[1, 2], [3, 4], [5, -6.5]])

    def saved(self, path):
        made_from = {"file": "v.bin", "aliases": {"b": "1", "a": "2"}}
        save_class_vectors(path, ClassVectors("word2vec", self.CLASSES, self.ROWS, made_from))
        return path

    def test_round_trip(self, tmp_path):
        loaded = load_class_vectors(self.saved(tmp_path / "v.safetensors"))
        assert (loaded.source, loaded.classes) == ("word2vec", self.CLASSES)
        assert loaded.made_from == {"file": "v.bin", "aliases": {"a": "2", "b": "1"}}
        np.testing.assert_array_equal(loaded.rows, self.ROWS)

    def test_same_bytes_and_one_metadata_key(self, tmp_path):
        from safetensors import safe_open

        paths = [self.saved(tmp_path / name) for name in ("a", "b")]
        assert len({hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}) == 1
        with safe_open(paths[0], framework="numpy") as file:
            assert len(file.metadata()) == 1

    def test_a_flipped_byte_and_a_truncated_file_are_refused(self, tmp_path):
        path = self.saved(tmp_path / "v.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=r"v\.safetensors.*checksum"):
            load_class_vectors(path)
        path.write_bytes(content[:-4])
        with pytest.raises(ArtifactError, match=r"v\.safetensors"):
            load_class_vectors(path)

    def test_imports_neither_gensim_nor_torch(self):
        heavy = "[m for m in ('gensim', 'torch', 'scipy') if m in sys.modules]"
        command = [sys.executable, "-c", f"import sys, zslib.embeddings; print({heavy})"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@needs_published
class TestPublishedFiles:
    """The numbers the specs state, through the code that opens GoogleNews."""

    def table(self, file, names=None):
        vectors = open_word_vectors(PUBLISHED / file, "binary")
        names = names or vectors.index_to_key
        rows = class_table(names, vectors, aliases={}, multiword="token", source=file)
        return ClassVectors(file, tuple(names), rows, {})

    @pytest.mark.parametrize("file", sorted(p.name for p in PUBLISHED.glob("*.bin")))
    def test_every_key_is_its_own_row(self, file):
        vectors = open_word_vectors(PUBLISHED / file, "binary")
        np.testing.assert_array_equal(self.table(file).rows, vectors.vectors)

    def test_class_names_with_spaces_find_their_keys(self):
        file = "spnet_cocostuff182_word2vec-300.bin"
        tables = [self.table(file, [name, "wall-concrete"]).rows for name in ("hot_dog", "hot dog")]
        np.testing.assert_array_equal(*tables)

    def test_zs3net_oracle_10_voc(self):
        voc = self.table("zs3_voc21_word2vec-300.bin")
        norms = np.linalg.norm(voc.rows, axis=1)
        np.testing.assert_allclose(norms[[0, 10, 14]], [0.80662, 0.91911, 1.0], atol=5e-6)
        cat_dog = cosines(voc.rows)[voc.classes.index("cat"), voc.classes.index("dog")]
        assert cat_dog == pytest.approx(0.761, abs=5e-4)
        np.testing.assert_allclose(class_embeddings([voc], "max"), voc.rows, atol=1e-6)

    def test_zs3net_oracle_10_context(self):
        voc = self.table("zs3_voc21_word2vec-300.bin").rows
        context = self.table("zs3_context60_word2vec-300.bin").rows[:21]
        assert np.linalg.norm(context[14]) == pytest.approx(3.33697, abs=5e-6)
        distance = np.abs(voc * 3.3369663 - context).max(axis=1)
        assert np.flatnonzero(distance > 1e-5).tolist() == [1, 16, 20]
        # The shared rows of Context, divided by the largest norm among them, are the VOC file.
        same = [i for i in range(21) if i not in (1, 16, 20)]
        shared = ClassVectors("context", tuple(map(str, same)), context[same], {})
        np.testing.assert_allclose(class_embeddings([shared], "max"), voc[same], atol=1e-6)

    def test_joem_oracle_11_norms(self):
        """joem §6, but for "airplane", which JoEm's file has in place of ZS3Net's "aeroplane"."""
        voc = self.table("zs3_voc21_word2vec-300.bin")
        expected = {"background": 0.8066, "aeroplane": 0.9644, "person": 0.6830, "sofa": 0.9470}
        rows = [voc.rows[voc.classes.index(name)] for name in expected]
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [*expected.values()], atol=1e-4)
        largest = {
            "zs3_context60_word2vec-300.bin": (60, 51, 3.5710),
            "cagnet_context34_fasttext-300.bin": (21, 1, 5.0663),
            "cagnet_context34_word2vec-300.bin": (21, 14, 3.3370),
        }
        for file, (count, row, norm) in largest.items():
            norms = np.linalg.norm(self.table(file).rows[:count], axis=1)
            assert norms.argmax() == row
            assert norms.max() == pytest.approx(norm, abs=1e-4)

    def test_zs3net_nearest_seen_neighbours(self):
        voc = self.table("zs3_voc21_word2vec-300.bin")
        at, found = voc.classes.index, cosines(voc.rows)
        pairs = {"motorbike bicycle": 0.631, "cow sheep": 0.608, "train bus": 0.607}
        pairs |= {"aeroplane boat": 0.500, "sofa diningtable": 0.399, "tvmonitor sheep": 0.146}
        for pair, expected in pairs.items():
            unseen, seen = map(at, pair.split())
            assert found[unseen, seen] == pytest.approx(expected, abs=6e-4), pair

    def test_spnet_oracle_s2(self):
        fasttext = self.table("spnet_voc21_fasttext-300.bin")
        word2vec = self.table("spnet_voc21_word2vec-300.bin")
        norms = np.linalg.norm(np.stack([fasttext.rows, word2vec.rows]), axis=2)
        np.testing.assert_allclose(norms, 1, atol=1e-6)
        joined = np.linalg.norm(class_embeddings([fasttext, word2vec], "none"), axis=1)
        np.testing.assert_allclose(joined, 1.414213, atol=2e-6)
        embeddings = class_embeddings([fasttext, word2vec], "unit")
        assert embeddings.shape == (21, 600)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)

        at = fasttext.classes.index
        joint, tv, sofa = cosines(embeddings), at("tvmonitor"), at("sofa")
        assert joint[at("sheep"), at("cow")] == pytest.approx(0.599355, abs=1e-6)
        assert joint[tv, sofa] == pytest.approx(0.371771, abs=1e-6)
        per_source = [cosines(s.rows)[tv, sofa] for s in (fasttext, word2vec)]
        # The spec prints .442132; the float32 rows give .442133.
        np.testing.assert_allclose(per_source, [0.442132, 0.301407], atol=2e-6)

    def test_spnet_section_6_statistics_of_the_joint_table(self):
        files = ("spnet_voc21_fasttext-300.bin", "spnet_voc21_word2vec-300.bin")
        joint = cosines(class_embeddings([self.table(f) for f in files], "unit"))[1:, 1:]
        off_diagonal = joint[~np.eye(20, dtype=bool)]
        found = [off_diagonal.min(), off_diagonal.mean(), off_diagonal.max()]
        np.testing.assert_allclose(found, [0.065, 0.225, 0.716], atol=6e-4)

    def test_spnet_section_6_floor_wood_is_the_mean_of_raw_vectors(self):
        """SPNet's own row, rebuilt from the raw `floor` and `wood` of another file."""
        raw = open_word_vectors(PUBLISHED / "zs3_context60_word2vec-300.bin", "binary")
        mean = class_vector("floor-wood", raw, aliases={}, multiword="mean", source="context")
        unit_mean = sum(raw[w] / np.linalg.norm(raw[w]) for w in ("floor", "wood"))
        published = self.table("spnet_cocostuff182_word2vec-300.bin", ["floor-wood"]).rows[0]
        found = cosines(np.stack([published, mean, unit_mean]).astype(np.float64))[0]
        np.testing.assert_allclose(found[1:], [1.0, 0.99953], atol=5e-6)

    def test_joem_section_6_divides_each_source_by_its_own_largest_norm(self):
        """JoEm's second setting: the first 21 rows of CaGNet's Context files, 15 classes seen."""
        files = ("cagnet_context34_word2vec-300.bin", "cagnet_context34_fasttext-300.bin")
        sources = [self.table(file) for file in files]
        voc = [ClassVectors(s.source, s.classes[:21], s.rows[:21], {}) for s in sources]
        norms = [np.linalg.norm(source.rows, axis=1) for source in voc]
        assert [voc[0].classes[row.argmax()] for row in norms] == ["motorbike", "aeroplane"]
        np.testing.assert_allclose([row.max() for row in norms], [3.3370, 5.0663], atol=5e-5)

        embeddings = class_embeddings(voc, "max_each").astype(np.float64)
        lengths = np.linalg.norm(embeddings, axis=1)
        np.testing.assert_allclose([lengths.min(), lengths.max()], [0.92, 1.41], atol=5e-3)

        seen = embeddings[1:16]
        distances = np.linalg.norm(seen[:, None] - seen, axis=2)
        pairs = distances[~np.eye(15, dtype=bool)]
        found = [pairs.min(), pairs.mean(), pairs.max()]  # joem §3.3
        np.testing.assert_allclose(found, [0.904, 1.512, 1.757], atol=6e-4)
        own = 1 / np.exp(-5 * distances).sum(axis=1)
        np.testing.assert_allclose([own.min(), own.max()], [0.979, 0.995], atol=6e-4)

    def test_cagnet_section_7_as_released_for_context(self):
        """Of raw rows side by side, fastText holds two thirds of the energy."""
        files = ("cagnet_context34_fasttext-300.bin", "cagnet_context34_word2vec-300.bin")
        fasttext, word2vec = (self.table(file) for file in files)
        named = ClassVectors("word2vec", fasttext.classes, word2vec.rows, {})
        embeddings = class_embeddings([fasttext, named], "unit_joint")
        shares = (embeddings[1:, :300] ** 2).sum(axis=1)
        found = [shares.min(), shares.mean(), shares.max()]
        np.testing.assert_allclose(found, [0.639, 0.675, 0.732], atol=6e-4)
        cat, dog = (embeddings[fasttext.classes.index(name)] for name in ("cat", "dog"))
        np.testing.assert_allclose(cat[:3], (-0.026173, -0.0180975, 0.019967), atol=1e-6)
        assert (cat[:300] ** 2).sum() == pytest.approx(0.6572425, abs=1e-6)
        assert cat @ dog == pytest.approx(0.7029618, abs=1e-6)
