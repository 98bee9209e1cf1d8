"""Names that `zslib predict` learns later are as names known before."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from tests import tiny
from tests.unit.predict.project import KNOWN, NAMES, NEW, SPLIT, predicted
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import open_labels
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.embeddings.corpus import train_word_vectors
from zslib.embeddings.table import ClassVectors, class_embeddings, save_class_vectors
from zslib.embeddings.words import class_table
from zslib.errors import InputError
from zslib.methods.joem import cells as joem
from zslib.methods.joem.closed_form import Moments, solve
from zslib.methods.joem.objectives import consistency_classes
from zslib.methods.sazs.networks import Trained
from zslib.methods.spnet import frozen as spnet
from zslib.params import load_params
from zslib.predict import Artifacts, refit
from zslib.predict.request import Request
from zslib.predict.words import embeddings_with
from zslib.prototypes import PrototypeClassifier


@pytest.fixture
def request_for_new(project: Path, tmp_path: Path) -> Request:
    """A request whose artifacts hold features and labels of the benchmark's seen classes."""
    maps = tiny.label_maps(6, SPLIT.seen, seed=0)
    train = tmp_path / "train"
    tiny.write_bank(train / "bank.h5", split=SPLIT)
    tiny.write_maps(train / "maps.h5", maps)
    labels = tiny.write_labels(tmp_path / "labels.h5", maps, split=SPLIT)
    given = {"features": train, "seen_labels": labels}
    artifacts = Artifacts(project / "artifacts/tiny", "tiny", given)
    params = load_params(Path("params.yaml"))
    return Request.read(Path("photo.png"), (NEW, "r disc"), params, artifacts, scratch=tmp_path)


def spnet_inputs(request: Request, embeddings: Tensor) -> spnet.Inputs:
    train = request.artifacts.given["features"]
    return spnet.Inputs(
        PixelBank.open(train / "bank.h5"),
        DenseMaps.open(train / "maps.h5"),
        open_labels(request.artifacts.given["seen_labels"]),
        embeddings,
    )


def test_spnet_learns_a_name_as_if_it_had_been_unseen_all_along(request_for_new: Request) -> None:
    params = request_for_new.params.spnet.training

    def fitted(split: Split) -> PixelClassifier:
        inputs = spnet_inputs(request_for_new, tiny.EMBEDDINGS[: len(split.classes)])
        return spnet.fit_projection(inputs, split, params, allowed=None, seed=0)

    found = refit.with_spnet(fitted(SPLIT), [NEW], request_for_new)
    expected = fitted(tiny.SPLIT)
    assert found.split == tiny.SPLIT
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias, expected.bias, rtol=1e-4, atol=1e-5)
    assert found.weight[8].abs().max() > 0.01


def joem_fitted(request: Request, split: Split, *, ridge: float = 0.001) -> PrototypeClassifier:
    params = request.params.joem
    embeddings = tiny.EMBEDDINGS[: len(split.classes)]
    spnets = spnet_inputs(request, embeddings)
    inputs = joem.Inputs(spnets.tuning, spnets.labels, embeddings)
    cells = joem.labelled_cells(inputs, split, inputs.maps, params.objectives)
    rows = solve(
        Moments.of(cells),
        embeddings,
        consistency_classes(split),
        params.objectives,
        ridge=ridge,
        steps=params.closed_form.consistency_steps,
    )
    return PrototypeClassifier(split, rows, meta={"ridge": {"chosen": ridge}})


def test_joem_learns_a_name_as_if_it_had_been_unseen_all_along(request_for_new: Request) -> None:
    found = refit.with_joem(joem_fitted(request_for_new, SPLIT), [NEW], request_for_new)
    expected = joem_fitted(request_for_new, tiny.SPLIT)
    assert found.split == tiny.SPLIT
    torch.testing.assert_close(found.prototypes, expected.prototypes, rtol=1e-3, atol=1e-4)


def test_a_head_of_another_run_is_not_taught(request_for_new: Request) -> None:
    other = joem_fitted(request_for_new, SPLIT, ridge=1.0)
    told = PrototypeClassifier(SPLIT, other.prototypes, meta={"ridge": {"chosen": 0.001}})
    with pytest.raises(InputError, match="joem: fitted once more, it is another classifier"):
        refit.with_joem(told, [NEW], request_for_new)


def test_vectors_of_another_file_are_refused(request_for_new: Request, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    rows = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    save_class_vectors(path, ClassVectors("words", KNOWN, rows, {}))
    request_for_new.artifacts.given["vectors-words"] = path  # type: ignore[index]
    with pytest.raises(InputError, match=r"vectors.sources.words: words.txt now gives other"):
        refit.with_spnet(
            PixelClassifier(SPLIT, torch.ones(8, 12), torch.ones(8)), [NEW], request_for_new
        )


def test_sazs_compares_with_a_new_name_by_its_vector(project: Path, tmp_path: Path) -> None:
    root = project / "artifacts/tiny/tiny"
    own = Trained.load(root / "sazs/trained/network.safetensors")
    own.network.classes = tiny.EMBEDDINGS.clone()
    knowing = Trained(own.network, own.model, own.backbone, tiny.SPLIT)
    knowing.save(tmp_path / "knowing.safetensors")
    options = ("--method", "sazs")
    names = (NEW, "r disc", "b disc", "g bar")
    found = predicted("photo.png", tmp_path / "new", *options, names=names)
    options = (*options, "--artifact", f"network={tmp_path / 'knowing.safetensors'}")
    expected = predicted("photo.png", tmp_path / "known", *options, names=names)
    np.testing.assert_array_equal(found, expected)
    sure = [np.asarray(Image.open(tmp_path / name / "confidence.png")) for name in ("new", "known")]
    np.testing.assert_array_equal(*sure)
    assert sure[0].min() < 250  # so the others, the new one among them, count for something


def test_fasttext_composes_a_word_that_no_text_has(project: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a r disc by a g box and a b bar\n" * 20)
    training = {"algorithm": "fasttext", "dimension": 6, "window": 3, "epochs": 2, "negative": 2}
    training |= {"min_count": 1, "subword_buckets": 500, "seed": 0}
    content = yaml.safe_load((project / "params.yaml").read_text())
    source = {"input": str(tmp_path / "corpus.txt"), "train": training}
    content["vectors"]["sources"] = {"words": source}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    params = load_params(tmp_path / "params.yaml")
    words = train_word_vectors(tmp_path / "corpus.txt", **training)
    rows = class_table(KNOWN, words, aliases={}, multiword="mean", source="words")
    known = ClassVectors("words", KNOWN, rows, {})
    save_class_vectors(tmp_path / "vectors.safetensors", known)
    artifacts = Artifacts(tmp_path, "tiny", {"vectors-words": tmp_path / "vectors.safetensors"})
    request = Request.read(Path("photo.png"), NAMES, params, artifacts, scratch=tmp_path)
    recipe = params.spnet.vectors
    found = embeddings_with(["discs"], KNOWN, recipe, request)
    torch.testing.assert_close(found[:8], torch.from_numpy(class_embeddings([known], "unit")))
    assert "discs" not in words.key_to_index
    assert found[8].norm() == pytest.approx(1, abs=1e-5)
