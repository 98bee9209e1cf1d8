"""Calibration sweeps from four cached values per pixel (spnet §10, joem §10)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests import tiny
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LABELS, LabelMaps, open_labels
from zslib.classifier import PixelClassifier
from zslib.competitors import CompetitorMaps, write_competitors
from zslib.errors import ArtifactError, InputError
from zslib.evaluation import evaluate
from zslib.prototypes import PrototypeClassifier
from zslib.segmenters import HeadSegmenter
from zslib.sweep import sweep_matrices, write_curve

PROJECT = Path(__file__).parents[2]
GAMMAS = [round(0.05 * step, 2) for step in range(21)]
SIGMAS = [round(0.05 * step, 2) for step in range(1, 21)]
SEEN, UNSEEN = list(tiny.SPLIT.seen), list(tiny.SPLIT.unseen)


def pixel_classifier() -> PixelClassifier:
    """Scores every class by its embedding; seen classes are favoured, as after training."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, tiny.DIMENSION, generator=generator) / 4
    bias = torch.full((9,), 0.3).index_fill(0, torch.tensor(UNSEEN), 0)
    return PixelClassifier(tiny.SPLIT, tiny.EMBEDDINGS @ mixing, bias, gamma=0.35)


def prototype_classifier() -> PrototypeClassifier:
    """Has the class's own features for a prototype; those of unseen classes are off the mark."""
    prototypes = torch.from_numpy(tiny.features(np.arange(9), seed=0).astype(np.float32))
    prototypes[UNSEEN] *= 1.3
    return PrototypeClassifier(tiny.SPLIT, prototypes, sigma=0.6)


CALIBRATED = [(pixel_classifier(), "gamma", GAMMAS), (prototype_classifier(), "sigma", SIGMAS)]
each_calibration = pytest.mark.parametrize(
    ("classifier", "parameter", "strengths"), CALIBRATED, ids=["stacking", "apollonius"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature maps of 6x6 cells and label maps of twice that and more: features are resized."""
    folder = tmp_path_factory.mktemp("validation")
    maps = tiny.label_maps(5, range(9), seed=1)
    labels = [np.kron(m, np.ones((2, 2 + i % 2), np.uint8)) for i, m in enumerate(maps)]
    tiny.write_maps(folder / "maps.h5", maps)
    # Labels are those of more images, in another order: ids decide.
    ids = [*reversed(tiny.image_ids(5)), "another"]
    content = [*reversed(labels), labels[0]]
    tiny.write_label_maps(folder / "labels.h5", ids, content, schema=LABELS, meta={})
    return folder


@pytest.fixture(scope="module")
def labels(folder: Path) -> LabelMaps:
    return open_labels(folder / "labels.h5")


@pytest.fixture(scope="module")
def maps(folder: Path) -> DenseMaps:
    return DenseMaps.open(folder / "maps.h5")


def cached(
    classifier: PixelClassifier | PrototypeClassifier,
    maps: DenseMaps,
    labels: LabelMaps,
    path: Path,
) -> CompetitorMaps:
    write_competitors(path, classifier, maps, labels)
    return CompetitorMaps.open(path)


def recall(matrix: np.ndarray, ids: Sequence[int]) -> float:
    return np.diag(matrix)[ids].sum() / matrix[ids].sum()


@each_calibration
def test_a_sweep_equals_the_evaluation_of_each_strength(
    classifier, parameter, strengths, maps, labels, tmp_path
):
    found = cached(classifier, maps, labels, tmp_path / "competitors.h5")
    matrices = sweep_matrices(found, labels, strengths)
    assert len({matrix.tobytes() for matrix in matrices}) > 5
    for strength, matrix in zip(strengths, matrices, strict=True):
        one = replace(classifier, **{parameter: strength})
        segmenter, out = HeadSegmenter(one, maps), tmp_path / "predictions.h5"
        expected = evaluate(segmenter, labels, out, resolution="original").generalised
        np.testing.assert_array_equal(matrix, expected)


@each_calibration
def test_more_calibration_moves_recall_from_seen_to_unseen(
    classifier, parameter, strengths, maps, labels, tmp_path
):
    """spnet §9.12: recall is monotonous where IoU need not be; for sigma it follows from joem §4.3."""
    found = cached(classifier, maps, labels, tmp_path / "competitors.h5")
    rising = strengths if parameter == "gamma" else strengths[::-1]
    matrices = sweep_matrices(found, labels, rising)
    seen, unseen = ([recall(matrix, ids) for matrix in matrices] for ids in (SEEN, UNSEEN))
    assert (np.diff(seen) <= 0).all()
    assert (np.diff(unseen) >= 0).all()
    assert seen[0] > seen[-1]
    assert unseen[0] < unseen[-1]


def test_twenty_strengths_read_the_features_once(maps, labels, tmp_path, monkeypatch):
    passes = []
    logits = PixelClassifier.logits
    monkeypatch.setattr(
        PixelClassifier, "logits", lambda *given: passes.append(1) or logits(*given)
    )
    found = cached(pixel_classifier(), maps, labels, tmp_path / "competitors.h5")
    assert len(passes) == len(maps)
    sweep_matrices(found, labels, GAMMAS)
    assert len(passes) == len(maps)


@each_calibration
def test_competitors_are_kept_as_they_are(classifier, parameter, strengths, maps, labels, tmp_path):
    found = cached(classifier, maps, labels, tmp_path / "competitors.h5")
    assert (found.split, found.ids) == (tiny.SPLIT, maps.ids)
    assert found.chosen == getattr(classifier, parameter)
    assert isinstance(found.values["first_value"], np.memmap)
    for image_id, features, kept in zip(maps.ids, maps, found, strict=True):
        expected = classifier.competitors(features, labels.of(image_id).shape)
        for name in ("first", "second", "first_value", "second_value"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(expected, name).reshape(-1))


def test_the_same_inputs_give_the_same_bytes(maps, labels, tmp_path):
    for name in ("one", "two"):
        write_competitors(tmp_path / name, pixel_classifier(), maps, labels)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_damaged_file_is_refused(maps, labels, tmp_path):
    path = tmp_path / "competitors.h5"
    write_competitors(path, pixel_classifier(), maps, labels)
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"competitors.h5: .*rerun the stage .*competitors"):
        CompetitorMaps.open(path)


def test_images_without_labels_are_refused(maps, labels, tmp_path):
    some = tiny.write_labels(tmp_path / "some.h5", [labels[0]])
    with pytest.raises(InputError, match=r"image01: .*no validation label \(4 images do\)"):
        write_competitors(tmp_path / "c.h5", pixel_classifier(), maps, open_labels(some))
    assert not (tmp_path / "c.h5").exists()


def test_labels_of_another_size_are_refused(maps, labels, tmp_path):
    found = cached(pixel_classifier(), maps, labels, tmp_path / "competitors.h5")
    small = tiny.write_labels(tmp_path / "small.h5", tiny.label_maps(5, range(9), seed=1))
    with pytest.raises(InputError, match="rerun the stage 'competitors'"):
        sweep_matrices(found, open_labels(small), [0.0])


def test_the_curve_holds_every_strength_and_the_chosen_one(maps, labels, tmp_path):
    found = cached(pixel_classifier(), maps, labels, tmp_path / "competitors.h5")
    write_curve(tmp_path / "curve.json", found, labels, [0.5, 0.0], method="spnet", seed=3)
    content = json.loads((tmp_path / "curve.json").read_text())
    assert [point["strength"] for point in content["points"]] == [0.0, 0.35, 0.5]
    assert (content["method"], content["seed"], content["chosen"]) == ("spnet", 3, 0.35)
    segmenter, out = HeadSegmenter(pixel_classifier(), maps), tmp_path / "predictions.h5"
    evaluation = evaluate(segmenter, labels, out, resolution="original")
    point = content["points"][1]
    iou = np.diag(evaluation.generalised) / (
        evaluation.generalised.sum(0)
        + evaluation.generalised.sum(1)
        - np.diag(evaluation.generalised)
    )
    assert point["miou_seen"] == pytest.approx(iou[SEEN].mean())
    assert point["miou_unseen"] == pytest.approx(iou[UNSEEN].mean())


def test_the_stages_write_both(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.command._die_with_parent", lambda: None)
    from stages import competitors, sweep

    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    pixel_classifier().save(tmp_path / "classifier.safetensors")
    common = ["--labels", str(folder / "labels.h5"), "--out"]
    for command, *arguments in [
        (competitors, "--classifier", "classifier.safetensors", "--maps", str(folder / "maps.h5"),
         *common, "competitors.h5"),
        (sweep, "--method", "spnet", "--strengths", "spnet.gammas", "--competitors",
         "competitors.h5", *common, "curve.json"),
    ]:  # fmt: skip
        outcome = CliRunner().invoke(command.main, arguments)
        assert outcome.exit_code == 0, outcome.output
    strengths = [p["strength"] for p in json.loads((tmp_path / "curve.json").read_text())["points"]]
    assert strengths == GAMMAS
