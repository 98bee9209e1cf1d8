"""One parameter, vectors.source, takes the place of every method's own class vectors."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from stages import embeddings, vectors
from tools.compose_params import compose
from zslib.embeddings.table import (
    ClassVectors,
    class_embeddings,
    load_class_vectors,
    save_class_vectors,
)
from zslib.errors import InputError
from zslib.params import load_params

PROJECT = Path(__file__).parents[2]
CLIP = PROJECT.parent / "shared/vectors/zegclip_voc20_clip-vitb16-512.bin"
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
    outcome = CliRunner().invoke(
        vectors.main, ["--source", "clip", "--out", "vectors/clip.safetensors"]
    )
    assert outcome.exit_code == 0, outcome.stderr
    return load_class_vectors(Path("vectors/clip.safetensors"))


def assert_fit_for_voc12(found: ClassVectors, table: Path) -> None:
    """Every class has the row of its name, the background the mean of ten; every method takes them."""
    from gensim.models import KeyedVectors

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
    from gensim.models import KeyedVectors

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
