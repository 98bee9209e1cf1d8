"""How label maps come to the feature grid, and how large that grid is."""

import numpy as np
from jaxtyping import Int64, UInt8


def floor_nearest(
    label_map: UInt8[np.ndarray, "h w"], grid: tuple[int, int]
) -> UInt8[np.ndarray, "gh gw"]:
    """Resize a label map by nearest with index floor(i * in / out) (zs3net §4.3, oracle 7)."""
    rows, columns = (np.arange(g) * n // g for g, n in zip(grid, label_map.shape, strict=True))
    return label_map[rows[:, None], columns[None, :]]


def corner_nearest(
    label_map: UInt8[np.ndarray, "h w"], grid: tuple[int, int]
) -> UInt8[np.ndarray, "gh gw"]:
    """Resize a label map by nearest, corners aligned: where corners-aligned upsampling puts a cell.

    The floor rule drifts from that by up to 3 pixels at the far edge, whatever the image's size: a
    trifle at 312 pixels, a tenth of an object at 96.
    """
    rows, columns = (corner_indices(n, g) for n, g in zip(label_map.shape, grid, strict=True))
    return label_map[rows[:, None], columns[None, :]]


def corner_indices(size: int, cells: int) -> Int64[np.ndarray, " g"]:
    """Return the pixel nearest to each cell when first and last cell lie on first and last pixel."""
    return np.rint(np.linspace(0, size - 1, cells)).astype(np.int64)


LABEL_RULES = {"floor": floor_nearest, "corners": corner_nearest}


def feature_grid(view: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the (h, w) of a (height, width) view's feature map, for features of stride 4 or 8.

    DeepLabV3+ halves a size twice, rounded up. In DeepLabV2 the max-pool between two such halvings
    rounds up what ends beyond the edge, so 368 pixels give 47 cells, not 46 (cagnet §2).
    """
    cells = {4: lambda n: (n + 3) // 4, 8: lambda n: 1 + (n + 1) // 8}[stride]
    return cells(view[0]), cells(view[1])
