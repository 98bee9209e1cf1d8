"""Fusion of a prediction with eigenvectors of its image, by ground truth or without (sazs §4.4, §4.5).

The eigenvectors of the normalised Laplacian cut an image where its content changes: one vector in
two by its sign, several in cells by all their signs. The rules for two classes and the vote among
many never look at labels; `pick_by_truth`, which the released SAZS scores itself with, does.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def sign_cells(vectors: Float[np.ndarray, "k h w"]) -> Int64[np.ndarray, "h w"]:
    """Return the cell of each pixel, 0..n-1: all pixels of a cell agree in every vector's sign.

    Zero is a sign of its own, so that no vector's sign, which is arbitrary, moves a pixel.
    """
    digits = np.sign(vectors).astype(np.int64) + 1
    patterns = np.tensordot(3 ** np.arange(len(vectors)), digits, axes=1)
    _, cells = np.unique(patterns, return_inverse=True)
    return cells.reshape(vectors.shape[1:])


def connected(cells: Int64[np.ndarray, "h w"]) -> Int64[np.ndarray, "h w"]:
    """Return the cells divided into their 4-connected parts: what lies apart votes apart.

    Found as parts of a graph of pixels, whose neighbours of one cell are joined.
    """
    height, width = cells.shape
    pixels = np.arange(cells.size).reshape(height, width)
    across, down = cells[:, :-1] == cells[:, 1:], cells[:-1] == cells[1:]
    starts = np.concatenate([pixels[:, :-1][across], pixels[:-1][down]])
    ends = np.concatenate([pixels[:, 1:][across], pixels[1:][down]])
    graph = coo_array((np.ones(len(starts), np.int8), (starts, ends)), (cells.size, cells.size))
    _, parts = connected_components(graph, directed=False)
    return parts.astype(np.int64).reshape(height, width)


def eigensegments(vectors: Float[np.ndarray, "k h w"]) -> Int64[np.ndarray, "h w"]:
    """Return the cell of each pixel when cells are the connected regions of equal signs."""
    return connected(sign_cells(vectors))


# --- two classes ---------------------------------------------------------------------------------


def select_by_agreement(
    prediction: Bool[np.ndarray, "h w"], vectors: Float[np.ndarray, "k h w"], *, tau: float
) -> Bool[np.ndarray, "h w"]:
    """Return the side of a vector that agrees best with the prediction, if their IoU is at least tau.

    Otherwise, and always with tau > 1, the prediction itself (sazs §4.5 A).
    """
    sides = [side for vector in vectors for side in _sides(vector)]
    agreement = [foreground_iou(side, prediction) for side in sides]
    if max(agreement, default=0.0) < tau:
        return prediction
    return sides[int(np.argmax(agreement))]


def vote_in_cells(
    margin: Float[np.ndarray, "h w"], cells: Int64[np.ndarray, "h w"], *, unsure: float = 1.0
) -> Bool[np.ndarray, "h w"]:
    """Return the foreground when each cell goes where its mean margin does (sazs §4.5 B).

    The margin is the foreground's score minus the other's. Only the share `unsure` of pixels with
    the least margins is overwritten.
    """
    flat = cells.reshape(-1)
    means = np.bincount(flat, weights=margin.reshape(-1).astype(np.float64)) / np.bincount(flat)
    certainty = np.abs(margin)
    overwritten = certainty <= np.quantile(certainty, unsure)
    return np.where(overwritten, means[cells] > 0, margin > 0)


def pick_by_truth(
    prediction: Bool[np.ndarray, "h w"],
    masks: Bool[np.ndarray, "k h w"],
    truth: Bool[np.ndarray, "h w"],
    scored: Bool[np.ndarray, "h w"] | None = None,
) -> Bool[np.ndarray, "h w"]:
    """Return whichever of prediction and masks has the best IoU with the truth (sazs §4.4).

    What the released code does: an upper bound that looks at the labels. IoU counts the pixels that
    are `scored`; of equals the first wins, the prediction before the masks.
    """
    candidates = [prediction, *masks]
    kept = np.ones_like(truth) if scored is None else scored
    scores = [foreground_iou(candidate[kept], truth[kept]) for candidate in candidates]
    return candidates[int(np.argmax(scores))]


def foreground_iou(first: Bool[np.ndarray, "*p"], second: Bool[np.ndarray, "*p"]) -> float:
    """Return the IoU of two masks; 0 where both are empty."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def _sides(vector: Float[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
    """Return where a vector has the sign of its first entry that is not zero, and where the other.

    An order that the vector's own sign has no part in: it settles which of equals is selected.
    """
    nonzero = np.flatnonzero(vector)
    lead = vector.flat[nonzero[0]] if nonzero.size else 1.0
    return vector * lead > 0, vector * lead < 0


# --- many classes --------------------------------------------------------------------------------


def majority_of_cells(
    prediction: UInt8[np.ndarray, "h w"], cells: Int64[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the most frequent label of each cell (of equals the lowest) and its share of the cell."""
    pairs = cells.reshape(-1) * 256 + prediction.reshape(-1)
    counts = np.bincount(pairs, minlength=(int(cells.max()) + 1) * 256).reshape(-1, 256)
    return counts.argmax(axis=1).astype(np.uint8), counts.max(axis=1) / counts.sum(axis=1)


def fuse(
    prediction: UInt8[np.ndarray, "h w"], cells: Int64[np.ndarray, "h w"], *, tau: float
) -> UInt8[np.ndarray, "h w"]:
    """Return the label map in which a cell that is decided enough has one label.

    Rule B for many classes: a label that fills at least the share tau of a cell takes all of it. No
    cell gets a label that it did not hold; with tau > 1 nothing changes.
    """
    labels, shares = majority_of_cells(prediction, cells)
    return np.where(shares[cells] >= tau, labels[cells], prediction)
