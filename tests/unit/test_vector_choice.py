"""One parameter, vectors.source, takes the place of every method's own class vectors."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from gensim.models import KeyedVectors

from stages import embeddings, text_table, vectors
from tests.unit.tiny_clip import tiny_clip
from tools.compose_params import compose
from zslib.cli import main as zslib
from zslib.embeddings.table import (
    ClassVectors,
    class_embeddings,
    load_class_vectors,
    save_class_vectors,
)
from zslib.embeddings.words import class_table, class_vector, open_word_vectors
from zslib.errors import InputError
from zslib.methods.simbaseline.segmenters import load_text
from zslib.params import Params, load_params
from zslib.vision_language.text import bare_names

PROJECT = Path(__file__).parents[2]
PUBLISHED = PROJECT.parent / "shared/vectors"
CLIP = PUBLISHED / "zegclip_voc20_clip-vitb16-512.bin"
CLASSES = ("cat", "dog", "cow")
METHODS = ("spnet", "zs3net", "cagnet", "joem")


def write_params(folder: Path, source: object) -> None:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    content["vectors"]["source"] = source
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, ClassVectors]:
    """Class vectors of both sources of params.yaml, on disk and at hand."""
    rng, found = np.random.default_rng(0), {}
    for name, dimension in (("word2vec", 4), ("fasttext", 3)):
        rows = rng.normal(size=(3, dimension)).astype(np.float32)
        found[name] = ClassVectors(name, CLASSES, rows, {})
        save_class_vectors(tmp_path / f"vectors/{name}.safetensors", found[name])
    return found


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.command._die_with_parent", lambda: None)


def embed(method: str) -> Result:
    arguments = ["--method", method, "--vectors", "vectors", "--out", "embeddings"]
    return CliRunner().invoke(embeddings.main, arguments)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("source", "names"),
    [
        (None, None),
        ("fasttext", ["fasttext"]),
        ("word2vec", ["word2vec"]),
        (["word2vec", "fasttext"], ["word2vec", "fasttext"]),
    ],
    ids=["published", "fasttext", "word2vec", "both"],
)
def test_the_source_is_taken_and_the_normalisation_kept(method, source, names, tables, tmp_path):
    write_params(tmp_path, source)
    recipe = getattr(load_params(tmp_path / "params.yaml"), method).vectors
    assert embed(method).exit_code == 0
    found = load_class_vectors(tmp_path / f"embeddings/{method}.safetensors")
    wanted = [tables[name] for name in names or recipe.sources]
    np.testing.assert_array_equal(found.rows, class_embeddings(wanted, recipe.normalise))
    assert found.made_from["sources"] == (names or recipe.sources)


@pytest.mark.parametrize("source", ["glove", ["word2vec", "glove"]])
def test_an_unknown_source_is_named(source, tables, tmp_path):
    write_params(tmp_path, source)
    outcome = embed("spnet")
    assert outcome.exit_code == 2
    assert (
        "vectors: source: 'glove' is not one of the sources clip, fasttext, word2vec"
        in outcome.stderr
    )
    assert not (tmp_path / "embeddings").exists()


def test_no_source_at_all_is_refused(tmp_path):
    write_params(tmp_path, [])
    with pytest.raises(InputError, match=r"vectors\.source"):
        load_params(tmp_path / "params.yaml")


# --- the words that were published with ------------------------------------------------------------


@pytest.fixture(scope="module")
def params_of(tmp_path_factory) -> Callable[[str], Params]:
    """Compose a benchmark once."""

    @cache
    def composed(benchmark: str) -> Params:
        path = tmp_path_factory.mktemp(benchmark) / "params.yaml"
        compose(path, f"benchmark={benchmark}")
        return load_params(path)

    return composed


VOCABULARY = (
    *("aeroplane", "airplane", "diningtable", "dining_table", "dining", "table", "pottedplant"),
    *("potted_plant", "potted", "plant", "tvmonitor", "tv", "door", "stuff", "playing", "field"),
)


@pytest.mark.parametrize(
    ("benchmark", "source", "expected"),
    [
        # zs3net §3: single tokens
        ("voc12", "word2vec", {"aeroplane": "aeroplane", "diningtable": "table"}),
        ("voc12", "word2vec", {"pottedplant": "plant", "tvmonitor": "tv"}),
        ("context", "word2vec", {"aeroplane": "airplane", "table": "table"}),
        # spnet §6
        ("voc12-spnet", "word2vec", {"aeroplane": "airplane", "diningtable": "dining table"}),
        ("voc12-spnet", "word2vec", {"pottedplant": "potted_plant", "tvmonitor": "tv"}),
        ("voc12-spnet", "fasttext", {"aeroplane": "aeroplane", "diningtable": "diningtable"}),
        ("voc12-spnet", "fasttext", {"pottedplant": "potted plant", "tvmonitor": "tv"}),
        ("cocostuff", "word2vec", {"airplane": "airplane", "dining table": "dining table"}),
        ("cocostuff", "word2vec", {"potted plant": "potted plant", "door-stuff": "door stuff"}),
        ("cocostuff", "fasttext", {"playingfield": "playing field"}),
        # cagnet §7
        ("context-cagnet", "word2vec", {"aeroplane": "airplane", "diningtable": "table"}),
        ("context-cagnet", "word2vec", {"pottedplant": "plant", "tvmonitor": "tv"}),
        ("context-cagnet", "fasttext", {"aeroplane": "aeroplane", "diningtable": "table"}),
        ("context-cagnet", "fasttext", {"pottedplant": "plant", "tvmonitor": "tv"}),
    ],
)
def test_the_words_are_those_of_the_authors(benchmark, source, expected, params_of):
    """Whatever else the file knows: the words of a class are those that are published."""
    params = params_of(benchmark)
    assert set(expected) <= set(params.benchmark.classes)
    words = KeyedVectors(len(VOCABULARY))
    words.add_vectors(VOCABULARY, np.eye(len(VOCABULARY), dtype=np.float32))
    how = params.vectors.sources[source].model_dump(include={"aliases", "multiword"})
    for name, published in expected.items():
        row = class_vector(name, words, source=source, **how)
        taken = {VOCABULARY[position] for position in np.flatnonzero(row)}
        assert taken == set(published.split()), name


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="class vectors (../shared/vectors) are not here")
@pytest.mark.parametrize(
    ("benchmark", "source", "table"),
    [
        ("voc12", "word2vec", "zs3_voc21_word2vec-300.bin"),
        ("voc12-spnet", "word2vec", "spnet_voc21_word2vec-300.bin"),
        ("voc12-spnet", "fasttext", "spnet_voc21_fasttext-300.bin"),
        ("context", "word2vec", "zs3_context60_word2vec-300.bin"),
        ("context-cagnet", "word2vec", "cagnet_context34_word2vec-300.bin"),
        ("context-cagnet", "fasttext", "cagnet_context34_fasttext-300.bin"),
    ],
)
def test_a_file_of_one_row_per_class_serves_whatever_the_aliases(
    benchmark, source, table, params_of
):
    params = params_of(benchmark)
    words = open_word_vectors(PUBLISHED / table, "binary")
    names = params.benchmark.classes[1:]  # CaGNet's files call the background another name
    how = params.vectors.sources[source].model_dump(include={"aliases", "multiword"})
    rows = class_table(names, words, source=table, **how)
    np.testing.assert_array_equal(rows, words.vectors[1 : len(names) + 1])


def test_joem_divides_each_source_by_its_own_norm_in_spnets_setting(params_of):
    """joem §6; the numbers are in test_embeddings."""
    recipe = params_of("voc12-spnet").joem.vectors
    assert (recipe.sources, recipe.normalise) == (["word2vec", "fasttext"], "max_each")


# --- CLIP's text vectors, for voc12 --------------------------------------------------------------


def voc12_with_clip(table: Path) -> None:
    compose(
        Path("params.yaml").absolute(),
        "benchmark=voc12",
        "+vectors=clip",
        f"vectors.sources.clip.input={table}",
    )


def class_vectors_of(table: Path) -> ClassVectors:
    voc12_with_clip(table)
    return clip_vectors()


def clip_vectors() -> ClassVectors:
    outcome = CliRunner().invoke(
        vectors.main, ["--source", "clip", "--out", "vectors/clip.safetensors"]
    )
    assert outcome.exit_code == 0, outcome.stderr
    return load_class_vectors(Path("vectors/clip.safetensors"))


def assert_fit_for_voc12(found: ClassVectors, table: Path) -> None:
    """Every class has the row of its name, the background the mean of ten; every method takes them."""
    raw = KeyedVectors.load_word2vec_format(str(table), binary=True)
    params = load_params(Path("params.yaml"))
    always_seen = set(params.benchmark.classes[1:]).difference(
        *(names for split, names in params.benchmark.unseen.items() if split != "animals")
    )
    assert found.classes == tuple(params.benchmark.classes)
    np.testing.assert_array_equal(found.rows[1:], raw[list(found.classes[1:])])
    mean = np.mean([raw[name] for name in sorted(always_seen)], axis=0)
    assert len(always_seen) == 10
    np.testing.assert_allclose(found.rows[0], mean, rtol=1e-5, atol=1e-6)
    assert embed("spnet").exit_code == 0
    assert load_class_vectors(Path("embeddings/spnet.safetensors")).made_from["sources"] == ["clip"]


def test_a_table_of_twenty_classes_serves_voc12(tmp_path):
    compose(tmp_path / "params.yaml", "benchmark=voc12")
    names = load_params(tmp_path / "params.yaml").benchmark.classes[1:]
    drawn = KeyedVectors(8)
    drawn.add_vectors(names, np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32))
    drawn.save_word2vec_format(str(tmp_path / "clip.bin"), binary=True)
    assert_fit_for_voc12(class_vectors_of(tmp_path / "clip.bin"), tmp_path / "clip.bin")


@pytest.mark.skipif(
    not CLIP.is_file(), reason="CLIP's text vectors (../shared/vectors) are not here"
)
def test_the_published_table_serves_voc12():
    found = class_vectors_of(CLIP)
    assert_fit_for_voc12(found, CLIP)
    assert found.rows.shape == (21, 512)


def test_a_table_names_proposals_without_a_model(tables, tmp_path):
    write_params(tmp_path, None)
    prompts = load_params(tmp_path / "params.yaml").simbaseline.query_prompts
    arguments = ["--vectors", "vectors/fasttext.safetensors", "--out", "text"]
    assert CliRunner().invoke(text_table.main, arguments).exit_code == 0
    text, given = load_text(prompts, templates=tmp_path / "text", learned=None), tables["fasttext"]
    lengths = np.linalg.norm(given.rows, axis=1, keepdims=True)
    np.testing.assert_allclose(text.rows, given.rows / lengths, rtol=1e-6)
    assert text.classes == given.classes


# --- text vectors of any CLIP, for the folds ------------------------------------------------------


@pytest.fixture
def clip_folder(tmp_path: Path) -> str:
    model = tiny_clip()
    model.clip.save_pretrained(tmp_path / "clip")
    model.tokenizer.save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.mark.parametrize("benchmark", ["pascal5i", "coco20i"])
def test_text_vectors_of_a_clip_are_what_sazs_takes(benchmark, clip_folder, tmp_path):
    """sazs §2.1: bare names, "others" for the background, as long as the model makes them."""
    table = tmp_path / "data/vectors/text.bin"
    compose(
        tmp_path / "params.yaml", f"benchmark={benchmark}", f"vectors.sources.clip.input={table}"
    )
    outcome = CliRunner().invoke(zslib, ["text-vectors", clip_folder, "--out", str(table)])
    assert outcome.exit_code == 0, outcome.stderr
    found = clip_vectors()
    texts = ["others", *found.classes[1:]]
    np.testing.assert_array_equal(found.rows, bare_names(tiny_clip(), texts).rows)
    assert embed("sazs").exit_code == 0
    taken = load_class_vectors(Path("embeddings/sazs.safetensors"))
    np.testing.assert_array_equal(taken.rows, found.rows)


def test_a_source_that_is_not_there_is_named(clip_folder, tmp_path):
    compose(tmp_path / "params.yaml", "benchmark=voc12")
    outcome = CliRunner().invoke(zslib, ["text-vectors", clip_folder, "--out", "text.bin"])
    assert outcome.exit_code == 2
    assert "--source: 'clip' is not one of word2vec, fasttext; choose one" in outcome.stderr
    assert not Path("text.bin").exists()
