"""What a training step sees: windows of feature maps in step 1, cached rows of images after it.

Both give labelled pixels in raster order, image after image: the released reconstruction loss
depends on it (cagnet §4).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.errors import InputError
from zslib.grids import LABEL_RULES


def label_grids(
    maps: DenseMaps, labels: LabelMaps, split: Split, rule: str
) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """Yield the seen labels on each map's grid."""
    position = {image_id: index for index, image_id in enumerate(labels.ids)}
    for image_id, (height, width) in zip(maps.ids, maps.grids.tolist(), strict=True):
        label_map = split.seen_labels(labels[position[image_id]])
        yield LABEL_RULES[rule](label_map, (height, width))


@dataclass(frozen=True)
class Windows:
    """A batch of windows, and its labelled pixels."""

    features: Float[Tensor, "b d s s"]
    cells: Int64[Tensor, " n"]
    """Of the flattened batch (b, s, s)."""
    labels: Int64[Tensor, " n"]

    def to(self, device: torch.device) -> "Windows":
        return Windows(self.features.to(device), self.cells.to(device), self.labels.to(device))


class WindowSampler:
    """Square windows of some maps, each around a labelled pixel; beyond a map's edge they are void."""

    def __init__(
        self,
        maps: DenseMaps,
        grids: list[UInt8[np.ndarray, "h w"]],
        *,
        side: int,
        batch_size: int,
        rows: int | None,
    ) -> None:
        self._maps, self._grids = maps, grids
        self._side, self._batch_size, self._rows = side, batch_size, rows
        self._usable = np.flatnonzero([(grid != IGNORE_INDEX).any() for grid in grids])
        if not self._usable.size:
            raise InputError(
                "features.train_maps: none of the training images with whole maps has a labelled "
                "pixel; raise it"
            )

    def draw(self, outside: Float[Tensor, " d"], rng: np.random.Generator) -> Windows:
        """Draw a batch; pixels beyond a map's edge have the feature `outside`."""
        side = self._side
        count = min(self._batch_size, len(self._usable))
        features = outside.expand(count, side, side, -1).clone()
        labels = np.full((count, side, side), IGNORE_INDEX, np.uint8)
        for place, position in enumerate(rng.choice(self._usable, count, replace=False)):
            rows, columns = self._window(self._grids[position], rng)
            height, width = rows.stop - rows.start, columns.stop - columns.start
            window = self._maps[int(position)][rows, columns]
            features[place, :height, :width] = window.float()
            labels[place, :height, :width] = self._grids[position][rows, columns]
        cells = _some(np.flatnonzero(labels != IGNORE_INDEX), self._rows, rng)
        chosen = labels.reshape(-1)[cells].astype(np.int64)
        return Windows(
            features.permute(0, 3, 1, 2), torch.from_numpy(cells), torch.from_numpy(chosen)
        )

    def _window(self, grid: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        """Choose a window of one map that holds a labelled cell, itself chosen at random."""
        labelled = np.argwhere(grid != IGNORE_INDEX)
        cell = labelled[rng.integers(len(labelled))]
        slices = []
        for inside, size in zip(cell.tolist(), grid.shape, strict=True):
            first = max(inside - self._side + 1, 0)
            last = min(inside, max(size - self._side, 0))
            start = int(rng.integers(first, last + 1))
            slices.append(slice(start, min(start + self._side, size)))
        return slices[0], slices[1]


class RowSampler:
    """Rows of some images of a bank, among those allowed."""

    def __init__(
        self, bank: PixelBank, allowed: Bool[np.ndarray, " n"], *, batch_size: int, rows: int | None
    ) -> None:
        self._batch_size, self._rows = batch_size, rows
        bounds = zip(bank.offsets, bank.offsets[1:], strict=False)
        by_image = [start + np.flatnonzero(allowed[start:stop]) for start, stop in bounds]
        self._by_image = [rows for rows in by_image if rows.size]
        if not self._by_image:
            raise InputError(
                "features.tuning_images: no image is left to train on when these are kept out; "
                "lower it, or choose a split with more training images"
            )

    def draw(self, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Draw the rows of a batch of images."""
        count = min(self._batch_size, len(self._by_image))
        chosen = rng.choice(len(self._by_image), count, replace=False)
        rows = np.concatenate([self._by_image[position] for position in chosen])
        return _some(rows, self._rows, rng)


def _some(items: np.ndarray, count: int | None, rng: np.random.Generator) -> np.ndarray:
    """Choose at most `count` of the items, in their order; None: all."""
    if count is None or len(items) <= count:
        return items
    return items[np.sort(rng.choice(len(items), count, replace=False))]
