"""Eigenvectors against scipy's shift-invert, as Deep Spectral calls it, and against dense solvers."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.linalg import LinAlgWarning, eigh
from scipy.sparse import diags_array
from scipy.sparse.linalg import eigsh

from benchmarks.measure import Goal, Result, time_side_by_side
from zslib.spectral.laplacian import image_affinity, image_spectrum, smallest_eigenvectors
from zslib.spectral.processes import single_threaded_pool

VECTORS = 5
OURS, PUBLISHED = "zslib", "eigsh, shift-invert"
LARGEST_DENSE = 60
"""Beyond this side a dense solver takes minutes: its cost grows with the sixth power of the side."""

Solver = Callable[[np.ndarray], np.ndarray]
"""From an affinity (N, N) to eigenvectors (K, N) of (D - W) v = lambda D v."""


def measure(
    *,
    sides: tuple[int, ...] = (30, 60, 120),
    pooled: tuple[int, ...] = (30, 60),
    dimension: int = 384,
    images: int = 16,
    processes: int = 2,
    repeats: int = 5,
) -> list[Result]:
    """Time one graph of side x side nodes at a time, then many images from their features on."""
    rng = np.random.default_rng(0)
    solved = [_one_graph(side, dimension, rng, repeats) for side in sides]
    return solved + [_many(side, dimension, rng, images, processes, repeats) for side in pooled]


def _one_graph(side: int, dimension: int, rng: np.random.Generator, repeats: int) -> Result:
    solvers: dict[str, Solver] = {OURS: ours, PUBLISHED: published}
    if side <= LARGEST_DENSE:
        solvers |= {"eigh, 5 vectors": dense, "eigh, all vectors": dense_all}

    def draw() -> np.ndarray:
        return image_affinity(draw_features(side, dimension, rng))

    # Where a round takes minutes one has to do.
    rounds = repeats if side <= LARGEST_DENSE else 1
    return Result(
        f"eigenvectors: {VECTORS} of a graph of {side}x{side} nodes",
        {"features": dimension, "repeats": rounds},
        time_side_by_side(solvers, draw, repeats=rounds),
        reference=PUBLISHED,
        amount=1,
        unit="graphs",
        goal=Goal(OURS, 1.0, "no slower than shift-invert"),
        notes=_errors(draw()),
    )


def _errors(affinity: np.ndarray) -> dict[str, float]:
    """Return subspace errors in millionths; that of zslib must be at most 100.

    Against the dense solver in double precision, or, where that is left out, against Lanczos in
    double precision to the last digit.
    """
    exact = dense(affinity) if len(affinity) <= LARGEST_DENSE**2 else tight(affinity)
    roots = np.sqrt(affinity.sum(axis=1, dtype=np.float64))
    errors = {
        f"subspace error of {name}, in millionths": 1e6
        * subspace_error(solve(affinity), exact, roots)
        for name, solve in ((OURS, ours), (PUBLISHED, published))
    }
    assert next(iter(errors.values())) <= 100, errors
    return errors


def _many(
    side: int,
    dimension: int,
    rng: np.random.Generator,
    images: int,
    processes: int,
    repeats: int,
) -> Result:
    def draw() -> list[np.ndarray]:
        return [draw_features(side, dimension, rng) for _ in range(images)]

    with single_threaded_pool(1) as one, single_threaded_pool(processes) as several:
        contestants = {
            f"processes: {count}": lambda given, pool=pool: [
                job.result()
                for job in [
                    pool.submit(image_spectrum, features, None, VECTORS, 0.0) for features in given
                ]
            ]
            for count, pool in ((1, one), (processes, several))
        }
        seconds = time_side_by_side(contestants, draw, repeats=repeats)
    return Result(
        f"eigenvectors: images of {side}x{side} cells, from features on, one thread each",
        {"features": dimension, "vectors": VECTORS, "repeats": repeats},
        seconds,
        reference="processes: 1",
        amount=images,
        unit="images",
    )


def draw_features(side: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Draw seven regions with smooth drift and noise, side by side like keys of a ViT (sazs §9.2)."""
    place = np.mgrid[:side, :side].transpose(1, 2, 0) / side
    seeds = rng.random((7, 2))
    regions = ((place[:, :, None] - seeds) ** 2).sum(-1).argmin(-1)
    centres = rng.normal(size=(7, dimension)) + rng.normal(size=dimension)
    drift = 0.5 * place @ rng.normal(size=(2, dimension))
    noise = 0.7 * rng.normal(size=(side, side, dimension))
    return (centres[regions] + drift + noise).astype(np.float32)


def ours(affinity: np.ndarray) -> np.ndarray:
    """Lanczos for the largest pairs of S, in single precision, with its tests."""
    return smallest_eigenvectors(affinity, VECTORS).vectors


def published(affinity: np.ndarray) -> np.ndarray:
    """What the released code calls: a factorisation of D - W, in the features' precision.

    D - W is singular. Where rounding leaves it so, the released code falls back to a slower call.
    """
    degrees = diags_array(affinity.sum(axis=1)).tocsc()
    laplacian = degrees.toarray() - affinity
    with warnings.catch_warnings():
        warnings.simplefilter("error", LinAlgWarning)
        try:
            _, vectors = eigsh(laplacian, VECTORS, sigma=0, which="LM", M=degrees)
        except LinAlgWarning:
            _, vectors = eigsh(laplacian, VECTORS, which="SM", M=degrees)
    return vectors.T


def dense(affinity: np.ndarray) -> np.ndarray:
    """LAPACK in double precision, only the wanted range."""
    return _dense(affinity, subset_by_index=(0, VECTORS - 1))


def dense_all(affinity: np.ndarray) -> np.ndarray:
    """LAPACK in double precision, all pairs."""
    return _dense(affinity)[:VECTORS]


def _dense(affinity: np.ndarray, **options: object) -> np.ndarray:
    exact = affinity.astype(np.float64)
    roots = np.sqrt(exact.sum(axis=1))
    laplacian = np.eye(len(exact)) - exact / roots / roots[:, None]
    return eigh(laplacian, **options)[1].T / roots


def tight(affinity: np.ndarray) -> np.ndarray:
    """Lanczos in double precision to the last digit."""
    roots = np.sqrt(affinity.sum(axis=1, dtype=np.float64))
    similarity = affinity / roots / roots[:, None]
    start = np.random.default_rng(1).standard_normal(len(roots))
    return eigsh(similarity, VECTORS, which="LA", v0=start)[1].T / roots


def subspace_error(found: np.ndarray, exact: np.ndarray, roots: np.ndarray) -> float:
    """Return the sine of the largest angle between two spans, in double precision (sazs O7)."""
    one, other = (np.linalg.qr((v * roots).T)[0] for v in (found.astype(np.float64), exact))
    return float(np.linalg.norm(other - one @ (one.T @ other), 2))
