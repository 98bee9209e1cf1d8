"""Bytes of the artifacts, each by the formula of its file; the only place where that arithmetic is.

Checksums, ids and HDF5's own records, some kilobytes per file, are left out.
"""

import math
from collections.abc import Sequence

from zslib.artifacts.proposals import STRIDE
from zslib.datasets.views import size_with_short_side
from zslib.grids import feature_grid
from zslib.methods.simbaseline.extraction import MULTIPLE
from zslib.methods.simbaseline.views import resized
from zslib.params import ViewParams

HALF, SINGLE, LONG = 2, 4, 8
"""Bytes of a float16, of a float32 or int32, of an int64."""

Sizes = Sequence[tuple[int, int]]
"""(width, height) of each image."""


def pixel_bank(rows: int, dimension: int, images: int) -> int:
    """bank.h5 (zslib/artifacts/features.py): features, label and share of each row; offsets."""
    return rows * (HALF * dimension + 1 + SINGLE) + LONG * (images + 1)


def dense_maps(sizes: Sizes, *, short_side: int, stride: int, dimension: int) -> int:
    """maps.h5, val_maps.h5, unlabelled_maps.h5: features of every cell, and each map's grid."""
    return cells(sizes, short_side=short_side, stride=stride) * HALF * dimension + (
        2 * SINGLE * len(sizes)
    )


def cells(sizes: Sizes, *, short_side: int, stride: int) -> int:
    """Cells of the feature maps of all images, at the fixed view (zs3net §10)."""
    grids = (feature_grid(view(size, short_side), stride) for size in sizes)
    return sum(height * width for height, width in grids)


def view(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of an image's view."""
    width, height = size_with_short_side(size, short_side)
    return height, width


def label_maps(sizes: Sizes) -> int:
    """labels.h5, seen_labels.h5, predictions.h5 (zslib/artifacts/maps.py): a byte per pixel."""
    return pixels(sizes) + 2 * SINGLE * len(sizes)


def pseudo_labels(sizes: Sizes) -> int:
    """pseudo_labels.h5: a label and a confidence per pixel."""
    return 2 * pixels(sizes) + 2 * SINGLE * len(sizes)


def pixels(sizes: Sizes) -> int:
    """Pixels of the original images."""
    return sum(width * height for width, height in sizes)


def evaluation(sizes: Sizes, classes: int) -> int:
    """An evaluation: predictions, two confusion matrices, three marginals of each image's."""
    return label_maps(sizes) + LONG * classes * (2 * classes + 3 * len(sizes))


def gated_maps(dense: Sequence[int], *, bank_rows: int, images: int, dimension: int) -> int:
    """CaGNet's maps: gated ones as large as those they come from, and a bank of triple width."""
    return sum(dense) + pixel_bank(bank_rows, 3 * dimension, images)


def proposals(sizes: Sizes, views: ViewParams, *, queries: int, dimension: int) -> int:
    """proposals/val.h5: mask logits at stride 4 of the padded view, query vectors, both sizes."""
    (short_side,) = views.short_sides
    masks = 0
    for size in sizes:
        padded = (
            -(-side // MULTIPLE) * MULTIPLE for side in resized(size, short_side, views.long_side)
        )
        masks += math.prod(side // STRIDE for side in padded)
    vectors = len(sizes) * (queries * dimension * HALF + 4 * SINGLE)
    return masks * queries * HALF + vectors + dimension * SINGLE
