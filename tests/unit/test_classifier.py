"""The last layer and its calibration (spnet §3, §4, oracles S3, S4, S7; zs3net §10)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from zslib.benchmark import Split
from zslib.classifier import PixelClassifier, best_classes
from zslib.losses import weighted_cross_entropy
from zslib.methods.spnet.frozen import Projection
from zslib.metrics import scores
from zslib.params.training import OptimiserParams
from zslib.selection import calibration_matrices, matrix_over
from zslib.training import build_optimiser

SEEN_SEEN_UNSEEN = Split.from_ids("s", ("a", "b", "c"), [2], [])
GAMMAS = tuple(round(0.05 * step, 2) for step in range(21))


def identity(split: Split, *, gamma: float = 0.0) -> PixelClassifier:
    """Return the classifier whose features are the logits themselves."""
    size = len(split.classes)
    return PixelClassifier(split, torch.eye(size), torch.zeros(size), gamma)


def predicted(classifier: PixelClassifier, probabilities: tuple[float, ...]) -> int:
    logits = torch.tensor(probabilities).log().reshape(1, 1, -1)
    return int(classifier.predict(logits, (1, 1))[0, 0])


@given(seed=st.integers(0, 2**32), classes=st.integers(1, 6))
def test_the_best_class_is_the_first_of_equals(seed: int, classes: int) -> None:
    planes = np.random.default_rng(seed).integers(-2, 3, (classes, 4, 5)).astype(np.float32)
    planes[0, 0] = -np.inf
    np.testing.assert_array_equal(best_classes(torch.from_numpy(planes)), planes.argmax(0))


@pytest.mark.parametrize(
    ("probabilities", "plain", "calibrated"),
    [((0.75, 0.05, 0.20), 0, 2), ((0.85, 0.05, 0.10), 0, 0)],
)
def test_spnet_s3_gamma_is_taken_from_probabilities(
    probabilities: tuple[float, ...], plain: int, calibrated: int
) -> None:
    assert predicted(identity(SEEN_SEEN_UNSEEN), probabilities) == plain
    assert predicted(identity(SEEN_SEEN_UNSEEN, gamma=0.6), probabilities) == calibrated
    # Taking 0.6 from the logarithms would leave both with class 0.
    wrong = torch.tensor(probabilities).log() - torch.tensor([0.6, 0.6, 0.0])
    assert wrong.argmax() == 0


@pytest.mark.parametrize(("gamma", "expected"), [(0.6, 0), (0.66, 1)])
def test_spnet_s4_softmax_comes_after_upsampling(gamma: float, expected: int) -> None:
    """Logits (4, 0) and (0, 1): between them softmax of the mean is .817574, mean of softmax .625478."""
    split = Split.from_ids("s", ("a", "b"), [1], [])
    features = torch.tensor([[[4.0, 0.0], [0.0, 1.0]]])
    between = identity(split).logits(features, (1, 3)).softmax(0)[0, 0, 1]
    assert between.item() == pytest.approx(0.817574, abs=1e-6)
    # Unseen wins from gamma .635 on; with softmax first, from .250956 on.
    prediction = identity(split, gamma=gamma).predict(features, (1, 3))
    assert prediction[0, 1] == expected


def test_spnet_s7_one_step_from_zero_stays_in_the_span_of_seen_embeddings() -> None:
    embeddings = torch.tensor([[1, 0, 0], [0, 0.6, 0.8], [0.6, 0.8, 0]])
    features = torch.tensor([[1.0, 2.0]])
    model = Projection(2, embeddings[:2])
    optimiser = build_optimiser(OptimiserParams(name="sgd", lr=1.0), model.parameters())
    weighted_cross_entropy(model(features), torch.tensor([0]))[0].backward()
    optimiser.step()
    expected = torch.tensor([[0.5, 1], [-0.3, -0.6], [-0.4, -0.8]])
    torch.testing.assert_close(model.project.weight.data, expected)
    weight, _ = model.over_all(embeddings)
    logits = (weight @ features[0]).tolist()
    assert logits == pytest.approx([2.5, -2.5, 0.3], abs=1e-6)

    classifier = PixelClassifier(SEEN_SEEN_UNSEEN, weight, torch.zeros(3))
    found = classifier.logits(features[None], (1, 1)).softmax(0).flatten()
    assert found.tolist() == pytest.approx([0.894822, 0.006029, 0.099149], abs=1e-6)
    assert replace(classifier, gamma=0.6).predict(features[None], (1, 1)) == 0
    outside = embeddings[2] - embeddings[:2].T @ (embeddings[:2] @ embeddings[2])
    assert (1 - outside.square().sum()).item() == pytest.approx(0.5904, abs=1e-6)
    assert (outside @ model.project.weight.data @ features[0]).item() == pytest.approx(0, abs=1e-6)


def test_spnet_s1_projection() -> None:
    embeddings = torch.tensor([[1, 0, 0], [0, 0.6, 0.8], [0.6, 0.8, 0]])
    model = Projection(3, embeddings[:2])
    torch.nn.init.eye_(model.project.weight)
    features = torch.tensor([[1.0, 2.0, -1.0]])
    seen = model(features)[0]
    assert seen.tolist() == pytest.approx([1.0, 0.4], abs=1e-6)
    assert seen.softmax(0).tolist() == pytest.approx([0.645656, 0.354344], abs=1e-6)
    everything = features[0] @ model.over_all(embeddings)[0].T
    assert everything.tolist() == pytest.approx([1.0, 0.4, 2.2], abs=1e-6)
    found = everything.softmax(0).tolist()
    assert found == pytest.approx([0.205384, 0.112717, 0.681899], abs=1e-6)


def test_embeddings_are_no_parameters_and_not_saved() -> None:
    model = Projection(3, torch.ones(2, 5))
    assert [n for n, _ in model.named_parameters()] == ["project.weight", "project.bias"]
    assert sorted(model.state_dict()) == ["project.bias", "project.weight"]


# --- properties ----------------------------------------------------------------------------------

SPLIT = Split.from_ids("s", tuple("abcdef"), [1, 4], [5])


def random_problem(
    seed: int, split: Split = SPLIT
) -> tuple[PixelClassifier, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(6, 3)), rng.normal(size=6)
    classifier = PixelClassifier(
        split, torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)
    )
    features = torch.tensor(rng.normal(size=(4, 5, 3)), dtype=torch.float32)
    labels = rng.choice([*split.seen, *split.unseen, 255], (7, 9)).astype(np.uint8)
    return classifier, features, labels


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_calibration_matrices_equal_predicting_with_each_gamma(seed: int) -> None:
    classifier, features, labels = random_problem(seed)
    matrices = calibration_matrices(classifier, iter([(features, labels)]), GAMMAS)
    for gamma, matrix in zip(GAMMAS, matrices, strict=True):
        expected = matrix_over(replace(classifier, gamma=gamma), iter([(features, labels)]))
        np.testing.assert_array_equal(matrix, expected, err_msg=f"gamma {gamma}")


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_raising_gamma_never_raises_seen_recall_nor_lowers_unseen_recall(seed: int) -> None:
    classifier, features, labels = random_problem(seed)
    labels[:2, 0] = (0, 1)
    matrices = calibration_matrices(classifier, iter([(features, labels)]), GAMMAS)
    results = [scores(m, seen=SPLIT.seen, unseen=SPLIT.unseen) for m in matrices]
    for group, sign in (("seen", -1), ("unseen", 1)):
        for figure in ("pixel_accuracy", "mean_accuracy"):
            curve = [result[f"{figure}_{group}"] for result in results]
            assert (np.diff(curve) * sign >= 0).all(), (group, figure)


def test_gamma_one_forbids_seen_classes() -> None:
    classifier, features, _ = random_problem(0)
    prediction = replace(classifier, gamma=1.0).predict(features, (7, 9))
    assert np.isin(prediction, SPLIT.unseen).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_classifying_before_upsampling_equals_classifying_upsampled_features(seed: int) -> None:
    """zs3net §10: the map is affine and bilinear weights sum to 1."""
    classifier, features, _ = random_problem(seed, Split.from_ids("s", tuple("abcdef"), [1], []))
    resized = F.interpolate(
        features.permute(2, 0, 1)[None], (11, 13), mode="bilinear", align_corners=True
    )[0].permute(1, 2, 0)
    expected = F.linear(resized, classifier.weight, classifier.bias).permute(2, 0, 1)
    torch.testing.assert_close(
        classifier.logits(features, (11, 13)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("corners", [True, False])
def test_logits_are_resized_as_the_cells_lie(corners: bool) -> None:
    """A slope over 8 pixels from 2 cells: to the corners, or level beyond the centres of the halves."""
    split = Split.from_ids("s", ("a", "b"), [1], [])
    head = replace(identity(split), corners=corners).for_split(split).uncalibrated()
    features = torch.tensor([[[0.0, 0.0], [0.0, 7.0]]])
    line = head.logits(features, (1, 8))[1, 0]
    centres = (torch.arange(8) + 0.5) / 4 - 0.5
    expected = torch.arange(8.0) if corners else centres.clamp(0, 1) * 7
    torch.testing.assert_close(line, expected)


def test_void_classes_are_never_predicted() -> None:
    classifier, features, _ = random_problem(1)
    biased = PixelClassifier(SPLIT, classifier.weight, torch.tensor([0, 0, 0, 0, 0, 99.0]))
    for gamma in (0.0, 0.5):
        assert not (replace(biased, gamma=gamma).predict(features, (7, 9)) == 5).any()


def test_an_uncalibrated_classifier_is_the_same_without_gamma() -> None:
    classifier, features, _ = random_problem(3)
    calibrated = replace(classifier, gamma=0.7, meta={"gamma": "a story"})
    found = calibrated.uncalibrated()
    assert (found.gamma, found.meta) == (0.0, {})
    np.testing.assert_array_equal(
        found.predict(features, (4, 5)), classifier.predict(features, (4, 5))
    )
    assert (calibrated.predict(features, (4, 5)) != found.predict(features, (4, 5))).any()


def test_a_saved_classifier_is_the_same_classifier(tmp_path: Path) -> None:
    classifier, features, _ = random_problem(2)
    kept = PixelClassifier(
        SPLIT, classifier.weight, classifier.bias, 0.35, {"chosen": [1, 2]}, corners=False
    )
    kept.save(tmp_path / "c.safetensors")
    found = PixelClassifier.load(tmp_path / "c.safetensors")
    assert (found.split, found.gamma, found.meta) == (SPLIT, 0.35, {"chosen": [1, 2]})
    assert not found.corners
    np.testing.assert_array_equal(found.predict(features, (7, 9)), kept.predict(features, (7, 9)))
