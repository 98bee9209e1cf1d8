"""Eigenvectors of an image's normalised graph Laplacian, after Deep Spectral Segmentation (sazs §4, §9).

Nodes are cells of a feature map. Affinities are cosines cut at zero, with a colour term if wanted;
the smallest eigenvectors of (D - W) v = lambda D v are asked for. With S = D^-1/2 W D^-1/2 they are
the largest of S, which a few dozen products find; a factorisation, as published, is not needed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from PIL import Image
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackError, eigsh
from scipy.spatial import cKDTree

COLOUR_NEIGHBOURS = ((20, 2.0), (10, 0.1))
"""Neighbours of each node, itself among them, and the weight of its place beside its colour."""

TOLERANCE = 1e-4
"""Largest residual ||S u - mu u|| of an accepted eigenvector (sazs §9.3)."""

_MAX_ERROR_OF_FIRST = 1e-5
_LARGEST_EIGENVALUE = 2.0
"""No normalised Laplacian has a larger one."""


@dataclass(frozen=True)
class Spectrum:
    """The smallest eigenvalues, ascending, and their vectors: v^T D v = 1, signs by `oriented`.

    A graph of fewer nodes has zero vectors, with the eigenvalue 2, for those that are missing.
    """

    eigenvalues: Float64[np.ndarray, " k"]
    vectors: Float64[np.ndarray, "k n"]


def feature_affinity(features: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n n"]:
    """Return max(cosine, 0) of all pairs of rows (sazs §4.1); a zero row is like nothing.

    The published division by the largest entry is left out: that is 1, every node's with itself.
    """
    rows = features.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1)
    affinity = rows @ rows.T
    return np.maximum(affinity, 0, out=affinity)


def colour_affinity(image: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]) -> sparse.csr_array:
    """Return how often any two nodes are neighbours in colour and place: 0 to 4 (sazs §4.1, item 5).

    The image is resized to the grid by PIL's bilinear filter, which averages on reduction (O2).
    """
    height, width = grid
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    colours = np.asarray(resized).reshape(-1, 3) / 255
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    places = np.stack([columns.reshape(-1), rows.reshape(-1)], axis=1)
    total = sparse.csr_array((len(colours), len(colours)))
    for neighbours, weight in COLOUR_NEIGHBOURS:
        graph = _nearest(np.hstack([colours, weight * places]), neighbours)
        total = total + graph + graph.T
    return total


def _nearest(points: Float64[np.ndarray, "n c"], count: int) -> sparse.csr_array:
    """Return the directed graph from each point to its nearest ones, itself first."""
    count = min(count, len(points))
    _, found = cKDTree(points).query(points, np.arange(1, count + 1))
    starts = np.repeat(np.arange(len(points)), count)
    ones = np.ones(found.size, np.float32)
    return sparse.csr_array((ones, (starts, found.reshape(-1))), shape=(len(points),) * 2)


def image_affinity(
    features: Float[np.ndarray, "h w d"],
    image: UInt8[np.ndarray, "H W 3"] | None = None,
    *,
    colour_weight: float = 0.0,
) -> Float32[np.ndarray, "n n"]:
    """Return W = W_features + lambda W_colour of the cells of a feature map (sazs §4.1, item 6)."""
    affinity = feature_affinity(features.reshape(-1, features.shape[-1]))
    if image is not None and colour_weight:
        colour = colour_affinity(image, features.shape[:2]).tocoo()
        affinity[colour.row, colour.col] += np.float32(colour_weight) * colour.data
    return affinity


def image_spectrum(
    features: Float[np.ndarray, "h w d"],
    image: UInt8[np.ndarray, "H W 3"] | None,
    count: int,
    colour_weight: float,
) -> Spectrum:
    """Return the `count` smallest eigenpairs of an image's graph."""
    affinity = image_affinity(features, image, colour_weight=colour_weight)
    return smallest_eigenvectors(affinity, count)


def smallest_eigenvectors(
    affinity: Float32[np.ndarray, "n n"], count: int, *, tolerance: float = 1e-5, seed: int = 0
) -> Spectrum:
    """Return the `count` smallest eigenpairs of (D - W) v = lambda D v (sazs §9.3).

    Lanczos on S in single precision, from a seeded random start. What fails a test of its residuals,
    or does not find the largest eigenvalue of S, which is 1, is solved by a dense method instead.
    """
    degrees = affinity.sum(axis=1, dtype=np.float64)
    roots = np.sqrt(np.where(degrees < 1e-12, 1, degrees))
    similarity = affinity / roots.astype(np.float32)
    similarity /= roots.astype(np.float32)[:, None]
    found = min(count, len(affinity))
    eigenvalues, vectors = _lanczos(similarity, found, tolerance, seed) or dense(similarity, found)
    missing = count - found
    return Spectrum(
        np.pad(1 - eigenvalues, (0, missing), constant_values=_LARGEST_EIGENVALUE),
        np.pad(oriented(vectors / roots), ((0, missing), (0, 0))),
    )


def oriented(vectors: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    """Return the vectors negated where more than half of their entries, but not all, are positive.

    The positive side becomes the smaller one (sazs §4.2).
    """
    positive = (vectors > 0).mean(axis=1, keepdims=True)
    return np.where((positive > 0.5) & (positive < 1), -vectors, vectors)


def dense(
    similarity: Float[np.ndarray, "n n"], count: int
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "k n"]]:
    """Return the largest eigenvalues of a symmetric matrix, descending, and unit vectors as rows."""
    size = len(similarity)
    bounds = (size - count, size - 1)
    eigenvalues, vectors = eigh(similarity.astype(np.float64), subset_by_index=bounds)
    return eigenvalues[::-1].copy(), np.ascontiguousarray(vectors.T[::-1])


def accepted(eigenvalues: Float64[np.ndarray, " k"], residuals: Float64[np.ndarray, " k"]) -> bool:
    """Return whether eigenpairs of S, largest first, pass the tests of sazs §9.3."""
    first = abs(eigenvalues[0] - 1) <= _MAX_ERROR_OF_FIRST
    return bool(first and residuals.max() <= TOLERANCE)


def _lanczos(
    similarity: Float32[np.ndarray, "n n"], count: int, tolerance: float, seed: int
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "k n"]] | None:
    """Return what `dense` does; None where Lanczos is out of place or its result fails the tests."""
    krylov = max(20, 4 * count)
    if krylov >= len(similarity):
        return None
    # The known first eigenvector would be a start from which exact arithmetic finds no other.
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(len(similarity)).astype(np.float32)
    options = {"which": "LA", "tol": tolerance, "ncv": krylov, "v0": start, "rng": rng}
    try:
        eigenvalues, columns = eigsh(similarity, count, **options)
    except ArpackError:
        return None
    order = np.argsort(-eigenvalues, kind="stable")
    vectors = columns.T[order].astype(np.float64)
    eigenvalues = eigenvalues[order].astype(np.float64)
    products = vectors.astype(np.float32) @ similarity
    residuals = np.linalg.norm(products - eigenvalues[:, None] * vectors, axis=1)
    return (eigenvalues, vectors) if accepted(eigenvalues, residuals) else None
