"""`zslib predict` with classifiers of pixel features, among the names alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.unit.predict.project import KNOWN, SIZE, SPLIT, facts, features_of, predicted, refused
from zslib.backbones.trained import Backbone
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier


def head_among(path: Path, classes: Sequence[str]) -> np.ndarray:
    """What a published head makes of the photograph once all other classes are void."""
    root = Path("artifacts/tiny/tiny")
    backbone = Backbone.load(root / "backbone/network.safetensors")
    head = PixelClassifier.load(root / "spnet/frozen/classifier.safetensors")
    others = [c for c, name in enumerate(KNOWN) if name not in classes]
    unseen = [c for c in SPLIT.unseen if c not in others]
    kept = Split.from_ids("tiny", KNOWN, unseen, others)
    return head.for_split(kept).predict(features_of(backbone, Path("photo.png"), path), SIZE)


@pytest.mark.parametrize("method", ["spnet-c", "zs3net"])
def test_a_classifier_chooses_among_the_names_alone(
    project: Path, tmp_path: Path, method: str
) -> None:
    names = ("r disc", "g box", "b disc")
    labels = predicted("photo.png", tmp_path / "out", "--method", method, names=names)
    expected = head_among(tmp_path, names)
    np.testing.assert_array_equal(np.array(sorted(names))[labels], np.array(KNOWN)[expected])
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("method", ["spnet", "joem-frozen", "sazs"])
def test_confidence_of_a_calibrated_classifier_is_a_share(
    project: Path, tmp_path: Path, method: str
) -> None:
    labels = predicted("photo.png", tmp_path / "out", "--method", method, names=KNOWN)
    assert labels.shape == SIZE
    assert 0 < facts(tmp_path / "out")["mean_confidence"] < 1


def test_a_generative_method_knows_its_own_classes_only(project: Path, tmp_path: Path) -> None:
    line = refused("photo.png", tmp_path / "out", "--method", "zs3net")
    assert "'polar bear' is none of the classes that zs3net was trained for" in line


def test_an_unknown_word_is_named_with_its_source(project: Path, tmp_path: Path) -> None:
    line = refused("photo.png", tmp_path / "out", "--method", "sazs")
    assert "words (words.txt): no vector for 'bear', needed by class 'polar bear'" in line or (
        "words (words.txt): no vector for 'polar', needed by class 'polar bear'" in line
    )
