"""From classifier and maps to matrices and scores (zs3net §7); fault 15: classes that are absent."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests import tiny
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import (
    PREDICTIONS,
    LabelMaps,
    open_label_maps,
    open_labels,
)
from zslib.artifacts.store import open_arrays
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.evaluation import (
    Entry,
    Evaluation,
    derive_scores,
    evaluate,
    save,
    score,
)
from zslib.heads import Head
from zslib.metrics import CONFUSION, confusion_matrix, marginals
from zslib.params.evaluation import EvaluateParams
from zslib.prototypes import PrototypeClassifier
from zslib.segmenters import HeadSegmenter

Resolution = Literal["original", "view"]

PARAMS = EvaluateParams(bootstrap=20)
ENTRY = Entry("tiny", "spnet", "clean", seed=0)


def random_classifier(split: Split = tiny.SPLIT, *, gamma: float = 0.2) -> PixelClassifier:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(len(split.classes), tiny.DIMENSION, generator=generator)
    return PixelClassifier(split, weight, torch.zeros(len(split.classes)), gamma)


def random_prototypes(*, sigma: float = 0.8) -> PrototypeClassifier:
    generator = torch.Generator().manual_seed(0)
    return PrototypeClassifier(
        tiny.SPLIT, torch.randn(9, tiny.DIMENSION, generator=generator), sigma
    )


def artifacts(folder: Path, label_maps: list[np.ndarray]) -> tuple[DenseMaps, LabelMaps]:
    return (
        DenseMaps.open(tiny.write_maps(folder / "maps.h5", label_maps)),
        open_labels(tiny.write_labels(folder / "labels.h5", label_maps)),
    )


def scored(
    head: Head, maps: DenseMaps, labels: LabelMaps, out: Path, resolution: Resolution = "original"
) -> Evaluation:
    return evaluate(HeadSegmenter(head, maps), labels, out, resolution=resolution)


def predicted(out: Path) -> LabelMaps:
    return open_label_maps(out, schema=PREDICTIONS)


@pytest.fixture(params=[random_classifier(), random_prototypes()], ids=["scores", "distances"])
def evaluation(request: pytest.FixtureRequest, tmp_path: Path) -> Evaluation:
    maps, labels = artifacts(tmp_path, tiny.label_maps(5, range(9), seed=0))
    return scored(request.param, maps, labels, tmp_path / "predictions.h5")


def test_matrices_are_those_of_the_predictions(evaluation: Evaluation, tmp_path: Path) -> None:
    labels = open_labels(tmp_path / "labels.h5")
    found = predicted(tmp_path / "predictions.h5")
    assert found.ids == evaluation.ids
    assert Split.described(found.meta) == tiny.SPLIT
    pairs = zip(labels, found, strict=True)
    matrices = [confusion_matrix(truth, prediction, 9) for truth, prediction in pairs]
    np.testing.assert_array_equal(evaluation.generalised, sum(matrices))
    for index, matrix in enumerate(matrices):
        expected = [np.diag(matrix), matrix.sum(1), matrix.sum(0)]
        np.testing.assert_array_equal(evaluation.per_image[index], expected)


def test_the_restricted_matrix_holds_unseen_pixels_among_unseen_classes(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    restricted, unseen = evaluation.restricted, list(tiny.UNSEEN)
    assert restricted.sum() == restricted[np.ix_(unseen, unseen)].sum()
    labels = open_labels(tmp_path / "labels.h5")
    assert restricted.sum() == np.isin(labels.pixels, unseen).sum()
    np.testing.assert_array_equal(restricted.sum(1)[unseen], evaluation.generalised.sum(1)[unseen])


@pytest.mark.parametrize(
    "heads",
    [
        [random_classifier(gamma=gamma) for gamma in (0.0, 0.9)],
        [random_prototypes(sigma=sigma) for sigma in (1.0, 0.1)],
    ],
    ids=["gamma", "sigma"],
)
def test_calibration_does_not_touch_the_restricted_protocol(
    heads: list[Head], tmp_path: Path
) -> None:
    pair = artifacts(tmp_path, tiny.label_maps(4, range(9), seed=1))
    results = [scored(head, *pair, tmp_path / "predictions.h5") for head in heads]
    np.testing.assert_array_equal(results[0].restricted, results[1].restricted)
    assert (results[0].generalised != results[1].generalised).any()


def test_void_classes_are_neither_scored_nor_predicted(tmp_path: Path) -> None:
    split = Split.from_ids("s", tiny.CLASSES, tiny.UNSEEN, [0])
    maps, labels = artifacts(tmp_path, tiny.label_maps(4, range(9), seed=2))
    result = scored(random_classifier(split), maps, labels, tmp_path / "predictions.h5")
    assert not result.generalised[0].any()
    assert not result.generalised[:, 0].any()
    assert tiny.CLASSES[0] not in derive_scores(result, ENTRY, PARAMS)["class_iou"]


def test_images_are_matched_by_id_and_not_by_position(tmp_path: Path) -> None:
    label_maps = tiny.label_maps(4, range(9), seed=3)
    maps, labels = artifacts(tmp_path, label_maps)
    straight = scored(random_classifier(), maps, labels, tmp_path / "straight.h5")
    backwards = type(labels)(
        labels.ids[::-1],
        labels.sizes[::-1],
        np.concatenate([m.reshape(-1) for m in label_maps[::-1]]),
        labels.meta,
    )
    again = scored(random_classifier(), maps, backwards, tmp_path / "again.h5")
    np.testing.assert_array_equal(straight.generalised, again.generalised)


def test_view_resolution_scores_labels_resized_to_the_view(tmp_path: Path) -> None:
    maps, _ = artifacts(tmp_path, tiny.label_maps(3, range(9), seed=4, side=6))
    big = [np.kron(m, np.ones((3, 3), np.uint8)) for m in tiny.label_maps(3, range(9), seed=4)]
    labels = open_labels(tiny.write_labels(tmp_path / "big.h5", big))
    original = scored(random_classifier(), maps, labels, tmp_path / "original.h5")
    view = scored(random_classifier(), maps, labels, tmp_path / "view.h5", "view")
    assert [p.shape for p in predicted(tmp_path / "original.h5")] == [(18, 18)] * 3
    assert [p.shape for p in predicted(tmp_path / "view.h5")] == [(6, 6)] * 3
    assert original.generalised.sum() == 9 * view.generalised.sum()


# --- scores --------------------------------------------------------------------------------------


def test_scores_carry_the_entry_and_intervals_around_each_mean(evaluation: Evaluation) -> None:
    result = derive_scores(evaluation, ENTRY, PARAMS)
    expected = {"split": "tiny", "method": "spnet", "protocol": "clean", "seed": 0}
    assert result.items() >= (expected | {"setting": "inductive"}).items()
    assert set(result["interval95"]) == {"miou", "miou_seen", "miou_unseen", "hiou"}
    for low, high in result["interval95"].values():
        assert 0 <= low <= high <= 1


def test_saved_evaluation_comes_back(evaluation: Evaluation, tmp_path: Path) -> None:
    save(evaluation, tmp_path / "confusion.h5")
    arrays, meta = open_arrays(tmp_path / "confusion.h5", schema=CONFUSION)
    assert Split.described(meta) == tiny.SPLIT
    assert tuple(meta["ids"]) == evaluation.ids
    for name in ("generalised", "restricted", "per_image"):
        np.testing.assert_array_equal(arrays[name], getattr(evaluation, name))


def test_every_row_has_a_folder_and_scores_of_its_name(tmp_path: Path) -> None:
    maps, labels = artifacts(tmp_path, tiny.label_maps(5, range(9), seed=0))
    plain, calibrated = Entry("tiny", "spnet", "clean", 0), Entry("tiny", "spnet-c", "clean", 0)
    head = random_classifier()
    rows = {
        plain: HeadSegmenter(head.uncalibrated(), maps),
        calibrated: HeadSegmenter(head, maps),
    }
    score(rows, labels, PARAMS, folder=tmp_path / "e", scores=tmp_path / "results")
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"spnet-clean", "spnet-c-clean"}
    for entry, segmenter in rows.items():
        found = json.loads((tmp_path / f"results/tiny-{entry.name}.json").read_text())
        evaluation = evaluate(segmenter, labels, tmp_path / "p.h5", resolution="original")
        assert found == derive_scores(evaluation, entry, PARAMS)


def test_rows_are_published_together_or_not_at_all(tmp_path: Path) -> None:
    maps, labels = artifacts(tmp_path, tiny.label_maps(5, range(9), seed=0))
    missing = LabelMaps(("x", *labels.ids[1:]), labels.sizes, labels.pixels, labels.meta)
    rows = {ENTRY: HeadSegmenter(random_classifier(), maps)}
    with pytest.raises(InputError, match="rerun the stages val_labels and val_maps"):
        score(rows, missing, PARAMS, folder=tmp_path / "e", scores=tmp_path / "results")
    assert not (tmp_path / "e").exists()
    assert not (tmp_path / "results").exists()


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in the scores")


@pytest.mark.parametrize(
    ("present", "unseen_mean_is_zero"),
    [([0, 1, 4], False), ([0, 1], True), ([4, 8], False), ([255], True)],
    ids=["few-classes", "no-unseen", "no-seen", "void-only"],
)
def test_fault_15_absent_classes_give_no_nan(
    tmp_path: Path, present: list[int], unseen_mean_is_zero: bool
) -> None:
    maps, labels = artifacts(tmp_path, tiny.label_maps(3, present, seed=0))
    result = scored(random_classifier(), maps, labels, tmp_path / "predictions.h5")
    rows = {ENTRY: HeadSegmenter(random_classifier(), maps)}
    score(rows, labels, PARAMS, folder=tmp_path / "e", scores=tmp_path)
    found = json.loads((tmp_path / "tiny-spnet-clean.json").read_text(), parse_constant=refuse)
    assert (found["protocols"]["restricted_to_unseen"]["miou_unseen"] == 0) == unseen_mean_is_zero
    shown = np.unique(predicted(tmp_path / "predictions.h5").pixels)
    for class_id, name in enumerate(tiny.CLASSES):
        counted = result.generalised[class_id].any() or result.generalised[:, class_id].any()
        assert (found["class_iou"][name] is not None) == counted, (name, shown)


def test_fault_15_each_protocol_gives_its_documented_value(tmp_path: Path) -> None:
    """A perfect classifier of images without classes 2 and 8: they leave the mean, or count as 0."""
    maps, labels = artifacts(tmp_path, tiny.label_maps(6, [0, 1, 3, 4, 5, 6, 7], seed=0))
    rows = torch.from_numpy(tiny.features(np.arange(9, dtype=np.uint8), seed=9)).float()
    perfect = PixelClassifier(tiny.SPLIT, rows, -rows.square().sum(1) / 2)
    evaluation = scored(perfect, maps, labels, tmp_path / "predictions.h5")
    found = derive_scores(evaluation, ENTRY, PARAMS)
    assert (found["miou_seen"], found["miou_unseen"], found["hiou"]) == (1, 1, 1)
    zero = found["protocols"]["absent_classes_zero"]
    assert zero["miou_seen"] == pytest.approx(6 / 7)
    assert zero["miou_unseen"] == pytest.approx(1 / 2)
    assert found["class_iou"][tiny.CLASSES[8]] is None


def test_labelled_classes_alone_are_a_protocol_where_others_are_scored() -> None:
    matrix = np.ones((9, 9), np.int64)
    matrix[8] = 0  # predicted, and no pixel has it
    counts = marginals(matrix)[None]
    result = Evaluation(tiny.SPLIT, matrix, np.zeros_like(matrix), counts, ("a",), {})
    found = derive_scores(result, ENTRY, PARAMS)
    assert found["miou"] == pytest.approx(8 / 9 / 16)
    assert found["protocols"]["labelled_classes_only"]["miou"] == pytest.approx(1 / 16)
    full = replace(result, generalised=np.ones((9, 9), np.int64))
    assert "labelled_classes_only" not in derive_scores(full, ENTRY, PARAMS)["protocols"]


def test_background_is_left_out_where_there_is_one(tmp_path: Path) -> None:
    split = Split.from_ids("s", ("background", *tiny.CLASSES[1:]), tiny.UNSEEN, [])
    maps, labels = artifacts(tmp_path, tiny.label_maps(4, range(9), seed=2))
    result = scored(random_classifier(split), maps, labels, tmp_path / "predictions.h5")
    found = derive_scores(result, ENTRY, PARAMS)["protocols"]["without_background"]
    matrix = result.generalised.copy()
    matrix[0] = 0
    foreground = np.diag(matrix)[1:].sum() / matrix.sum()
    assert found["pixel_accuracy"] == pytest.approx(foreground)


# --- predictions, as they come -------------------------------------------------------------------


def test_the_file_is_the_one_of_all_predictions_at_once(tmp_path: Path) -> None:
    sizes = [(6, 8), (8, 6), (5, 5)]
    truth = [np.zeros(size, np.uint8) for size in sizes]
    maps, labels = artifacts(tmp_path, truth)
    scored(random_classifier(), maps, labels, tmp_path / "streamed.h5")
    at_once = [random_classifier().predict(m, size) for m, size in zip(maps, sizes, strict=True)]
    meta = tiny.SPLIT.describe()
    tiny.write_label_maps(tmp_path / "all.h5", maps.ids, at_once, schema=PREDICTIONS, meta=meta)
    assert (tmp_path / "streamed.h5").read_bytes() == (tmp_path / "all.h5").read_bytes()


def test_ten_times_the_images_take_no_more_memory(tmp_path: Path) -> None:
    label_maps = tiny.label_maps(40, range(9), seed=0, side=128)

    def peak(count: int) -> int:
        maps, labels = artifacts(tmp_path, label_maps[:count])
        tracemalloc.start()
        scored(random_classifier(), maps, labels, tmp_path / "predictions.h5")
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    peak(1)  # what is imported and kept the first time
    assert peak(40) - peak(4) < 2 * label_maps[0].nbytes


class DyingSegmenter(HeadSegmenter):
    """Is killed at its third image."""

    def predict(self, position: int, size: tuple[int, int]) -> np.ndarray:
        if position == 2:
            raise tiny.KilledError
        return super().predict(position, size)


def test_killed_half_way_it_publishes_nothing_and_leaves_the_old_one(tmp_path: Path) -> None:
    maps, labels = artifacts(tmp_path, tiny.label_maps(5, range(9), seed=0))
    folder, results = tmp_path / "e", tmp_path / "results"
    dying = {ENTRY: DyingSegmenter(random_classifier(), maps)}
    with pytest.raises(tiny.KilledError):
        score(dying, labels, PARAMS, folder=folder, scores=results)
    assert not folder.exists()
    assert not results.exists()
    whole = {ENTRY: HeadSegmenter(random_classifier(), maps)}
    score(whole, labels, PARAMS, folder=folder, scores=results)
    file = folder / ENTRY.name / "predictions.h5"
    before = file.read_bytes()
    with pytest.raises(tiny.KilledError):
        score(dying, labels, PARAMS, folder=folder, scores=results)
    assert file.read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == [
        "e",
        "results",
    ]
