"""Bytes of the artifacts, each by the formula of its file; the only place where that arithmetic is.

Checksums, ids and HDF5's own records, some kilobytes per file, are left out.
"""

import re
from collections.abc import Sequence

from zslib.artifacts.proposals import STRIDE
from zslib.datasets.views import size_with_short_side
from zslib.grids import feature_grid
from zslib.methods.simbaseline.extraction import padded
from zslib.methods.simbaseline.views import resized
from zslib.params.backbone import EncoderParams
from zslib.params.sazs import SazsModel
from zslib.params.simbaseline import ViewParams

HALF, SINGLE, LONG = 2, 4, 8
"""Bytes of a float16, of a float32 or int32, of a float64 or int64."""

Sizes = Sequence[tuple[int, int]]
"""(width, height) of each image."""

Grids = Sequence[tuple[int, int]]
"""(height, width) of each image's feature map."""


def pixel_bank(rows: int, dimension: int, images: int) -> int:
    """bank.h5 (zslib/artifacts/features.py): features, label and share of each row; offsets."""
    return rows * (HALF * dimension + 1 + SINGLE) + LONG * (images + 1)


def dense_maps(grids: Grids, dimension: int) -> int:
    """maps.h5, val_maps.h5, unlabelled_maps.h5: features of every cell, and each map's grid."""
    return cells(grids) * HALF * dimension + 2 * SINGLE * len(grids)


def cells(grids: Grids) -> int:
    """Cells of all maps."""
    return sum(height * width for height, width in grids)


def feature_grids(sizes: Sizes, *, short_side: int, stride: int) -> Grids:
    """Grids of the images' maps at the fixed view (zs3net §10)."""
    return [feature_grid(view(size, short_side), stride) for size in sizes]


def patch_grids(sizes: Sizes, encoder: EncoderParams) -> Grids | None:
    """Grids of a ViT's patches on images of their own size (sazs §4.1); None where no name tells."""
    patch = _patch_of(encoder)
    return None if patch is None else [(h // patch, w // patch) for w, h in sizes]


def margin_grids(views: Grids, model: SazsModel, *, stride: int) -> Grids | None:
    """Grids of SAZS's maps of views of (height, width): `grid` of the networks in zslib/backbones."""
    match model.architecture:
        case "seen_only":
            return [feature_grid(view, stride) for view in views]
        case "drn":
            return [(-(-h // 8), -(-w // 8)) for h, w in views]
    patch = _patch_of(model.encoder)
    return None if patch is None else [(2 * (h // patch), 2 * (w // patch)) for h, w in views]


def _patch_of(encoder: EncoderParams | None) -> int | None:
    """Pixels of a ViT's patch as timm's names have it: vit_small_patch16_224."""
    found = re.search(r"patch(\d+)", encoder.name) if encoder else None
    return int(found[1]) if found else None


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


def eigenvectors(grids: Grids, vectors: int) -> int:
    """eigenvectors.h5: of each node all but the first; of each image all eigenvalues, an offset, its
    grid and the two shares that this covers."""
    each = LONG * vectors + LONG + 2 * SINGLE + 2 * LONG
    return cells(grids) * HALF * (vectors - 1) + each * len(grids) + LONG


def competitors(sizes: Sizes) -> int:
    """competitors.h5: two classes and their values per pixel."""
    return 2 * (1 + SINGLE) * pixels(sizes) + 2 * SINGLE * len(sizes)


def regions(images: int, *, queries: int, dimension: int) -> int:
    """regions/val.h5: a vector per query, and whether there is one."""
    return images * queries * (HALF * dimension + 1)


def proposals(sizes: Sizes, views: ViewParams, *, queries: int, dimension: int) -> int:
    """proposals/val.h5: mask logits at stride 4 of the padded view, query vectors, both sizes."""
    masks = cells([(h // STRIDE, w // STRIDE) for h, w in padded_views(sizes, views)])
    vectors = len(sizes) * (queries * dimension * HALF + 4 * SINGLE)
    return masks * queries * HALF + vectors + dimension * SINGLE


def padded_views(sizes: Sizes, views: ViewParams) -> Grids:
    """(height, width) of what SimBaseline's networks see of each image."""
    return [padded(view) for view in proposal_views(sizes, views)]


def proposal_views(sizes: Sizes, views: ViewParams) -> Grids:
    """(height, width) of each image for SimBaseline's tests."""
    (short_side,) = views.short_sides
    views_of = (resized(size, short_side, views.long_side) for size in sizes)
    return [(height, width) for width, height in views_of]


def graphs(nodes: int, edges: int, images: int, dimension: int) -> int:
    """graphs.h5: label and features of each node, both ends of each edge, offsets."""
    return nodes * (1 + HALF * dimension) + 2 * LONG * edges + LONG * (images + 1)
