"""Affinities, eigenvectors, signs (sazs §4.1, §4.2, §9.3, §11)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.linalg import eigh

from zslib.spectral import laplacian
from zslib.spectral.block_krylov import batched_affinity, batched_spectra
from zslib.spectral.laplacian import (
    colour_affinity,
    feature_affinity,
    image_affinity,
    oriented,
    smallest_eigenvectors,
)

FOUR = np.array(
    [[1, 0.9, 0.1, 0], [0.9, 1, 0, 0.2], [0.1, 0, 1, 0.8], [0, 0.2, 0.8, 1]], np.float32
)


def scene(side: int = 14, *, seed: int = 0, dimension: int = 24) -> np.ndarray:
    """Features of four regions with smooth drift and noise: a gap after few eigenvalues."""
    rng = np.random.default_rng(seed)
    regions = np.kron([[0, 1], [2, 3]], np.ones((side // 2, side // 2), int))
    centres, drift = rng.normal(size=(4, dimension)), rng.normal(size=(2, dimension))
    place = np.mgrid[:side, :side].transpose(1, 2, 0) / side
    noise = rng.normal(size=(side, side, dimension))
    return (centres[regions] + 0.5 * place @ drift + 0.3 * noise).astype(np.float32)


def picture(side: int = 28) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (side, side, 3)).astype(np.uint8)


def reference(affinity: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Solve (D - W) v = lambda D v in double precision."""
    exact = affinity.astype(np.float64)
    degrees = np.diag(exact.sum(axis=1))
    values, vectors = eigh(degrees - exact, degrees, subset_by_index=(0, count - 1))
    return values, vectors.T


def subspace_error(found: np.ndarray, expected: np.ndarray, affinity: np.ndarray) -> float:
    """Return the sine of the largest angle between two spans, in double precision (O7)."""
    roots = np.sqrt(affinity.sum(axis=1, dtype=np.float64))[:, None]
    one, other = (np.linalg.qr(v.T.astype(np.float64) * roots)[0] for v in (found, expected))
    return float(np.linalg.norm(other - one @ (one.T @ other), 2))


# --- oracles -------------------------------------------------------------------------------------


def test_sazs_oracle_1_four_nodes() -> None:
    found = smallest_eigenvectors(FOUR, 4)
    np.testing.assert_allclose(found.eigenvalues, [0, 0.147568, 0.845178, 1.004748], atol=1e-6)
    np.testing.assert_allclose(np.abs(found.vectors[0]), 0.353553, atol=1e-6)
    first = found.vectors[1] * np.sign(found.vectors[1, 0])
    np.testing.assert_allclose(first, [0.362803, 0.326696, -0.382994, -0.341989], atol=1e-5)
    degrees = np.diag([2.0, 2.1, 1.9, 2.0])
    np.testing.assert_allclose(found.vectors @ degrees @ found.vectors.T, np.eye(4), atol=1e-6)
    rows = found.vectors @ degrees
    unnormalised = rows.T * found.eigenvalues @ rows
    np.testing.assert_allclose(unnormalised, degrees - FOUR, atol=1e-6)
    expected = [0, 0.294113, 1.670324, 2.035563]
    np.testing.assert_allclose(np.linalg.eigvalsh(unnormalised), expected, atol=1e-6)


def test_sazs_oracle_1_without_self_loops() -> None:
    found = smallest_eigenvectors(FOUR - np.eye(4, dtype=np.float32), 4)
    np.testing.assert_allclose(found.eigenvalues, [0, 0.296474, 1.703526, 2], atol=1e-6)


def test_sazs_oracle_2_the_relu_isolates_a_node() -> None:
    affinity = feature_affinity(np.array([[1, 0], [0.8, 0.6], [0, 2], [-1, 0]], np.float32))
    expected = [[1, 0.8, 0, 0], [0.8, 1, 0.6, 0], [0, 0.6, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(affinity, expected, atol=1e-6)
    np.testing.assert_allclose(affinity.sum(axis=1), [1.8, 2.4, 1.6, 1.0], atol=1e-6)
    eigenvalues = smallest_eigenvectors(affinity, 4).eigenvalues
    np.testing.assert_allclose(eigenvalues, [0, 0, 0.402778, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("vector", "mask"),
    [
        ([0.5, 0.2, 0.1, -0.6], [0, 0, 0, 1]),
        ([-0.1, -0.2, -0.3, 0.9], [0, 0, 0, 1]),
        ([0.3, 0.3, -0.3, -0.3], [1, 1, 0, 0]),
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1]),
        ([-0.5, -0.5, -0.5, -0.5], [0, 0, 0, 0]),
    ],
)
def test_sazs_oracle_3_signs(vector: list[float], mask: list[int]) -> None:
    assert (oriented(np.array([vector])) > 0).astype(int).tolist() == [mask]


def test_sazs_oracle_3_colour_graph() -> None:
    graph = colour_affinity(picture(), (28, 28)).toarray()
    assert graph.sum() == 60 * 28 * 28
    assert set(np.diag(graph)) == {4}
    assert set(np.unique(graph)) <= {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(graph, graph.T)


def test_sazs_4_1_neighbours_in_colour_and_place() -> None:
    """20 where place weighs 2.0 beside colour, 10 where it weighs 0.1; counted in both directions."""
    image, side = picture(), 28
    place = np.linspace(0, 1, side)
    places = np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)
    expected = np.zeros((side * side, side * side))
    for count, weight in ((20, 2.0), (10, 0.1)):
        points = np.hstack([image.reshape(-1, 3) / 255, weight * places])
        distances = np.square(points[:, None] - points).sum(2)
        nearest = np.argsort(distances, axis=1)[:, :count]
        directed = np.zeros_like(expected)
        np.put_along_axis(directed, nearest, 1, axis=1)
        expected += directed + directed.T
    np.testing.assert_array_equal(colour_affinity(image, (side, side)).toarray(), expected)


def test_the_image_is_averaged_when_it_shrinks() -> None:
    """PIL's filter antialiases (O2): two halves of noise around two greys stay two groups."""
    noise = np.random.default_rng(0).integers(-60, 61, (320, 320, 3))
    greys = np.where(np.arange(320) < 160, 80, 176)[None, :, None]
    graph = colour_affinity((noise + greys).astype(np.uint8), (20, 20)).toarray()
    left = np.tile(np.arange(20) < 10, 20)
    assert graph[left][:, ~left].sum() < 0.02 * graph.sum()


# --- the solver ----------------------------------------------------------------------------------


@pytest.mark.parametrize("colour_weight", [0.0, 10.0])
def test_lanczos_finds_what_a_dense_solver_finds(colour_weight: float) -> None:
    affinity = image_affinity(scene(), picture(), colour_weight=colour_weight)
    found, (values, vectors) = smallest_eigenvectors(affinity, 5), reference(affinity, 5)
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-5)
    assert subspace_error(found.vectors, vectors, affinity) <= 1e-4
    assert np.ptp(found.vectors[0]) < 1e-4 * np.abs(found.vectors[0]).max()


def test_the_colour_term_adds_its_weight() -> None:
    features, image = scene(), picture()
    both = image_affinity(features, image, colour_weight=3.0)
    added = both - image_affinity(features, image)
    np.testing.assert_allclose(added, 3 * colour_affinity(image, (14, 14)).toarray(), atol=1e-5)


def test_the_same_bytes_every_time() -> None:
    affinity = image_affinity(scene())
    one, other = (smallest_eigenvectors(affinity, 5).vectors for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_a_wrong_result_is_noticed_and_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = image_affinity(scene())
    expected = smallest_eigenvectors(affinity, 5)
    rng = np.random.default_rng(0)
    wrong = np.linalg.qr(rng.normal(size=(len(affinity), 5)))[0].astype(np.float32)
    monkeypatch.setattr(laplacian, "eigsh", lambda *_, **__: (np.ones(5, np.float32), wrong))
    found = smallest_eigenvectors(affinity, 5)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-5)
    assert subspace_error(found.vectors, expected.vectors, affinity) <= 1e-4


def test_a_lost_first_pair_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs 1 to 5 are eigenpairs, with good residuals: only mu_0 = 1 tells that one is missing."""
    affinity = image_affinity(scene())
    solve = laplacian.eigsh

    def without_first(matrix: np.ndarray, count: int, **options: object) -> tuple:
        values, vectors = solve(matrix, count + 1, **options)
        return values[:-1], vectors[:, :-1]

    monkeypatch.setattr(laplacian, "eigsh", without_first)
    assert smallest_eigenvectors(affinity, 5).eigenvalues[0] == pytest.approx(0, abs=1e-6)


def test_a_disconnected_graph_has_two_zeros() -> None:
    block = image_affinity(scene(10))
    affinity = np.block([[block, np.zeros_like(block)], [np.zeros_like(block), block]])
    found = smallest_eigenvectors(affinity, 4)
    np.testing.assert_allclose(found.eigenvalues[:2], 0, atol=1e-5)
    halves = np.abs(found.vectors[:2].reshape(2, 2, -1))
    assert np.ptp(halves, axis=2).max() < 1e-3 * halves.max()


@pytest.mark.parametrize("rows", [np.ones((64, 3)), np.zeros((64, 3)), np.eye(3), np.ones((1, 3))])
def test_degenerate_images_give_finite_vectors(rows: np.ndarray) -> None:
    """A constant image, no feature at all, fewer nodes than vectors, a single node."""
    one, other = (smallest_eigenvectors(feature_affinity(rows), 5) for _ in range(2))
    assert one.vectors.shape == (5, len(rows))
    assert np.isfinite(one.vectors).all()
    assert np.isfinite(one.eigenvalues).all()
    assert one.eigenvalues.max() <= 2
    assert one.vectors.tobytes() == other.vectors.tobytes()


@given(arrays.arrays(np.float64, (3, 7), elements=st.floats(-1, 1)))
def test_the_smaller_side_becomes_positive_whatever_the_solver_gave(vectors: np.ndarray) -> None:
    found = oriented(vectors)
    np.testing.assert_array_equal(oriented(found), found)
    positive, negative = (found > 0).sum(axis=1), (found < 0).sum(axis=1)
    assert ((positive <= 3) | (positive == 7)).all()
    uneven = (positive > 0) & (positive < 3) & (negative > 3)
    np.testing.assert_array_equal(oriented(-vectors)[uneven], found[uneven])


# --- many at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("colour_weight", [0.0, 10.0])
def test_a_batch_finds_what_single_images_do(colour_weight: float) -> None:
    scenes, image = [scene(seed=seed) for seed in range(3)], picture()
    affinity = batched_affinity(
        torch.from_numpy(np.stack(scenes)), [image] * 3, colour_weight=colour_weight
    )
    expected = [image_affinity(one, image, colour_weight=colour_weight) for one in scenes]
    np.testing.assert_allclose(affinity, np.stack(expected), atol=1e-5)
    for found, single in zip(batched_spectra(affinity, 5), expected, strict=True):
        assert found is not None
        alone = smallest_eigenvectors(single, 5)
        np.testing.assert_allclose(found.eigenvalues, alone.eigenvalues, atol=1e-5)
        assert subspace_error(found.vectors, alone.vectors, single) <= 1e-4


def test_a_batch_owns_up_to_what_it_did_not_settle() -> None:
    """A long chain has no gap to speak of; and the basis would not fit into a small graph."""
    chain = torch.eye(400) + torch.eye(400).roll(1, 0) + torch.eye(400).roll(-1, 0)
    easy = batched_affinity(torch.from_numpy(scene(20))[None], [None], colour_weight=0.0)
    settled = batched_spectra(torch.stack([chain, easy[0]]), 5)
    assert [spectrum is not None for spectrum in settled] == [False, True]
    assert batched_spectra(torch.ones(1, 30, 30), 5) == [None]


def test_a_used_up_krylov_space_does_no_harm() -> None:
    """Features of rank 6: six products span all there is."""
    features = torch.from_numpy(np.abs(scene(16, dimension=6)))
    affinity = batched_affinity(features[None], [None], colour_weight=0.0)
    expected = affinity[0].numpy().copy()
    (found,) = batched_spectra(affinity, 4)
    assert found is not None
    values, vectors = reference(expected, 4)
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-5)
    assert subspace_error(found.vectors, vectors, expected) <= 1e-4
