"""The nearest prototype and Apollonius calibration (joem §4, oracles J5, J6, Errata E2)."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.errors import ArtifactError
from zslib.heads import load_head
from zslib.metrics import confusion_matrix
from zslib.prototypes import PrototypeClassifier
from zslib.selection import calibration_matrices

SPLIT = Split.from_ids("s", tuple("abcdef"), [1, 4], [5])
SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
ORIGIN = torch.zeros(1, 1, 3)


def random_problem(seed: int) -> tuple[PrototypeClassifier, Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    prototypes = torch.tensor(rng.normal(size=(6, 3)), dtype=torch.float32)
    features = torch.tensor(rng.normal(size=(4, 5, 3)), dtype=torch.float32)
    labels = rng.choice([*SPLIT.seen, *SPLIT.unseen, 255], (7, 9)).astype(np.uint8)
    return PrototypeClassifier(SPLIT, prototypes), features, labels


def at_squared_distances(values: tuple[float, ...], unseen: list[int]) -> PrototypeClassifier:
    """Return prototypes at these squared distances from the origin."""
    split = Split.from_ids("s", tuple("abc")[: len(values)], unseen, [])
    return PrototypeClassifier(split, torch.tensor(values).sqrt().diag())


# --- calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distances", "unseen", "expected"),
    [
        ((1, 1.5, 9), [1], 1),
        ((1, 2.1, 9), [1], 0),
        ((1.5, 1, 9), [1], 1),
        ((1, 1.2, 1.5), [2], 0),  # weighing all classes would give 2
        ((1, 1.2, 1.5), [0], 0),
        ((1, 1.5, 1.4), [1, 2], 2),
    ],
)
def test_joem_j5_calibration_weighs_the_two_nearest(
    distances: tuple[float, ...], unseen: list[int], expected: int
) -> None:
    classifier = replace(at_squared_distances(distances, unseen), sigma=0.5)
    assert classifier.predict(ORIGIN, (1, 1)) == expected


@pytest.mark.parametrize("distances", [(1, 4, 9), (4, 16, 81)])
def test_joem_e2_of_equals_the_nearest_stays(distances: tuple[float, ...]) -> None:
    classifier = at_squared_distances(distances, [1])
    assert replace(classifier, sigma=0.25).predict(ORIGIN, (1, 1)) == 0
    assert replace(classifier, sigma=0.249).predict(ORIGIN, (1, 1)) == 1


J6 = [(0.5, 0.828427, -2.0, 2.828427), (0.7, 0.911067, -4.666667, 5.577734)]


@pytest.mark.parametrize(("sigma", "boundary", "centre", "radius"), J6)
def test_joem_j6_boundary_between_two_prototypes(
    sigma: float, boundary: float, centre: float, radius: float
) -> None:
    classifier = line(sigma)
    assert centre + radius == pytest.approx(boundary, abs=1e-6)
    assert boundary / 2 == pytest.approx(sigma**0.5 / (1 + sigma**0.5), abs=1e-6)
    for step, expected in [(-1e-5, 0), (1e-5, 1)]:
        pixel = torch.tensor([[[boundary + step, 0.0]]])
        assert classifier.predict(pixel, (1, 1)) == expected


@pytest.mark.parametrize(("sigma", "boundary", "centre", "radius"), J6)
def test_joem_j6_the_seen_region_is_a_ball(
    sigma: float, boundary: float, centre: float, radius: float
) -> None:
    points = np.random.default_rng(0).uniform(-9, 4, (100, 1000, 2))
    inside = np.hypot(points[..., 0] - centre, points[..., 1]) < radius
    found = line(sigma).predict(torch.tensor(points, dtype=torch.float32), (100, 1000))
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(found == 0, inside)


def line(sigma: float) -> PrototypeClassifier:
    """Return a seen prototype at 0 and an unseen one at 2."""
    split = Split.from_ids("s", ("a", "b"), [1], [])
    return PrototypeClassifier(split, torch.tensor([[0.0, 0.0], [2.0, 0.0]]), sigma)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_with_sigma_one_the_nearest_prototype_wins(seed: int) -> None:
    classifier, features, _ = random_problem(seed)
    allowed = torch.tensor([*SPLIT.seen, *SPLIT.unseen]).sort().values
    distances = torch.cdist(features.flatten(0, 1), classifier.prototypes[allowed])
    expected = allowed[distances.argmin(1)].reshape(4, 5)
    np.testing.assert_array_equal(classifier.predict(features, (4, 5)), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_lowering_sigma_only_ever_takes_pixels_from_seen_to_unseen(seed: int) -> None:
    classifier, features, _ = random_problem(seed)
    predictions = [replace(classifier, sigma=s).predict(features, (7, 9)) for s in SIGMAS]
    for lower, higher in itertools.pairwise(predictions):
        changed = lower != higher
        assert np.isin(lower[changed], SPLIT.unseen).all()
        assert np.isin(higher[changed], SPLIT.seen).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_the_scale_of_the_joint_space_does_not_matter(seed: int, scale: float) -> None:
    classifier, features, _ = random_problem(seed)
    classifier = replace(classifier, sigma=0.7)
    scaled = replace(classifier, prototypes=scale * classifier.prototypes)
    np.testing.assert_array_equal(
        scaled.predict(scale * features, (4, 5)), classifier.predict(features, (4, 5))
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_calibration_matrices_equal_predicting_with_each_sigma(seed: int) -> None:
    classifier, features, labels = random_problem(seed)
    matrices = calibration_matrices(classifier, iter([(features, labels)]), SIGMAS)
    for sigma, matrix in zip(SIGMAS, matrices, strict=True):
        prediction = replace(classifier, sigma=sigma).predict(features, labels.shape)
        expected = confusion_matrix(labels, prediction, 6)
        np.testing.assert_array_equal(matrix, expected, err_msg=f"sigma {sigma}")


# --- distances -----------------------------------------------------------------------------------


def test_features_are_resized_not_distances() -> None:
    split = Split.from_ids("s", tuple("abc"), [1], [])
    classifier = PrototypeClassifier(split, torch.tensor([[0.0], [1.0], [2.0]]))
    ends = torch.tensor([[[0.0], [2.0]]])
    found = classifier.squared_distances(ends, (1, 3))
    assert found[:, 0].T.tolist() == [[0, 1, 4], [1, 0, 1], [4, 1, 0]]


def test_joem_9_12_no_distance_is_negative() -> None:
    prototypes = 1000 * torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    classifier = PrototypeClassifier(SPLIT, prototypes)
    found = classifier.squared_distances(prototypes[None, :], (1, 6))
    assert (found >= 0).all()


def test_a_hidden_layer_comes_before_resizing() -> None:
    plain, _, _ = random_problem(0)
    weight, bias = torch.randn(3, 8), torch.randn(3)
    inputs = torch.randn(4, 5, 8)
    classifier = replace(plain, hidden=(weight, bias))
    assert (classifier.dimension, plain.dimension) == (8, 3)
    expected = plain.squared_distances(F.linear(inputs, weight, bias).relu(), (7, 9))
    torch.testing.assert_close(classifier.squared_distances(inputs, (7, 9)), expected)


def test_void_classes_are_never_predicted() -> None:
    classifier, features, _ = random_problem(1)
    nearest = classifier.prototypes.clone()
    nearest[5] = features[0, 0]
    for sigma in (0.1, 1.0):
        found = replace(classifier, prototypes=nearest, sigma=sigma).predict(features, (4, 5))
        assert not (found == 5).any()


def test_a_single_class_takes_everything() -> None:
    classifier, features, _ = random_problem(1)
    alone = Split.from_ids("s", SPLIT.classes, [4], [0, 1, 2, 3, 5])
    assert (classifier.for_split(alone).predict(features, (7, 9)) == 4).all()


def test_an_uncalibrated_classifier_is_the_same_without_sigma() -> None:
    classifier, features, _ = random_problem(3)
    calibrated = replace(classifier, sigma=0.3, meta={"sigma": "a story"})
    found = calibrated.uncalibrated()
    assert (found.sigma, found.meta) == (1.0, {})
    np.testing.assert_array_equal(
        found.predict(features, (4, 5)), classifier.predict(features, (4, 5))
    )
    assert (calibrated.predict(features, (4, 5)) != found.predict(features, (4, 5))).any()


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [None, (torch.ones(3, 8), torch.zeros(3))])
def test_a_saved_classifier_is_the_same_classifier(
    hidden: tuple[Tensor, Tensor] | None, tmp_path: Path
) -> None:
    classifier, _, _ = random_problem(2)
    kept = replace(classifier, sigma=0.35, meta={"chosen": [1, 2]}, hidden=hidden)
    kept.save(tmp_path / "c.safetensors")
    found = load_head(tmp_path / "c.safetensors")
    assert isinstance(found, PrototypeClassifier)
    assert (found.split, found.sigma, found.meta) == (SPLIT, 0.35, {"chosen": [1, 2]})
    features = torch.randn(4, 5, found.dimension)
    np.testing.assert_array_equal(found.predict(features, (7, 9)), kept.predict(features, (7, 9)))


def test_a_file_is_opened_as_what_it_holds(tmp_path: Path) -> None:
    PixelClassifier(SPLIT, torch.eye(6), torch.zeros(6)).save(tmp_path / "c.safetensors")
    assert isinstance(load_head(tmp_path / "c.safetensors"), PixelClassifier)


def test_a_damaged_file_is_refused_with_the_stage_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    random_problem(0)[0].save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"checksum.*joem"):
        load_head(path)


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"c\.safetensors: cannot be read"):
        load_head(tmp_path / "c.safetensors")
