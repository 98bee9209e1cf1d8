"""True regions of seen classes for learning prompts: a few per class, in random views (simbaseline §4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from zslib.artifacts.maps import LabelMaps
from zslib.datasets.decode import ImageFile, read_image
from zslib.params.vision_language import PromptTraining
from zslib.vision_language.model import MEAN, normalise

Size = tuple[int, int]

_AREA, _ASPECT, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of random resized crops."""


@dataclass(frozen=True)
class Sample:
    """All pixels of one class in one image."""

    image: int
    """Position of the image."""
    label: int
    """The class, as a value in the label map."""


def draw_pool(
    label_maps: Iterable[np.ndarray], classes: Sequence[int], *, per_class: int, seed: int
) -> list[Sample]:
    """Draw so many images of each class, with replacement (simbaseline O11).

    A class that fewer images show gives each of them once.
    """
    rng = np.random.default_rng(seed)
    shown = [np.bincount(label_map.reshape(-1), minlength=256) > 0 for label_map in label_maps]
    pool = []
    for label in classes:
        images = [position for position, labels in enumerate(shown) if labels[label]]
        if len(images) >= per_class:
            images = rng.choice(images, per_class, replace=True).tolist()
        pool += [Sample(position, label) for position in images]
    return pool


def region_box(mask: Bool[np.ndarray, "h w"], *, lose_edge: bool) -> tuple[int, int, int, int]:
    """Return the tight box (x, y, width, height) of a mask that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bottom, right = int(rows[-1]) + 1, int(columns[-1]) + 1
    if lose_edge:
        bottom, right = min(bottom, mask.shape[0] - 1), min(right, mask.shape[1] - 1)
    x, y = int(columns[0]), int(rows[0])
    return x, y, max(right - x, 1), max(bottom - y, 1)


def random_part(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return a part (x, y, width, height) of a box, of random area and shape (simbaseline §4).

    Ten draws may all fail to fit, as they mostly do in a box far from square: it is taken whole then.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        aspect = np.exp(rng.uniform(*np.log(_ASPECT)))
        w, h = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    return 0, 0, width, height


def region_view(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    size: Size,
    params: PromptTraining,
    rng: np.random.Generator,
) -> Float[Tensor, "3 H W"] | None:
    """Return a normalised view of a region, filled outside of it; None if no pixel of it is in view."""
    x, y, width, height = region_box(mask, lose_edge=params.lose_edge)
    left, top, w, h = random_part(width, height, rng)
    box = (x + left, y + top, x + left + w, y + top + h)
    wide = (size[1], size[0])
    picture = Image.fromarray(image).resize(wide, Image.Resampling.BILINEAR, box=box)
    inside = np.array(Image.fromarray(mask).resize(wide, Image.Resampling.NEAREST, box=box))
    if not inside.any():
        return None
    view = fill_outside(
        torch.from_numpy(np.array(picture)).permute(2, 0, 1).float(),
        torch.from_numpy(inside),
        stage=params.fill_stage,
    )
    return view.flip(-1) if rng.random() < 0.5 else view


def fill_outside(
    picture: Float[Tensor, "3 h w"], inside: Bool[Tensor, "h w"], *, stage: str
) -> Float[Tensor, "3 h w"]:
    """Return an RGB picture of 0..255, normalised and filled with CLIP's mean colour.

    `raw` gives 0 outside. `normalised`, as released, writes the mean of RGB in [0, 1] over normalised
    values: a lighter colour than the mean. `none` fills nothing.
    """
    if stage == "none":
        return normalise(picture)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    outside = mean if stage == "normalised" else torch.zeros_like(mean)
    return torch.where(inside, normalise(picture), outside)


class RegionViews(Dataset):
    """Views of a pool by (epoch, position); each item is (view (3, H, W), position of its class)."""

    def __init__(
        self,
        images: Sequence[ImageFile],
        label_maps: LabelMaps,
        classes: Sequence[int],
        params: PromptTraining,
        size: Size,
        *,
        seed: int,
    ) -> None:
        self._images, self._label_maps, self._params = images, label_maps, params
        self._size, self._seed = size, seed
        self._columns = {label: column for column, label in enumerate(classes)}
        self.pool = draw_pool(label_maps, classes, per_class=params.samples_per_class, seed=seed)

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        """Return a view; a sample that leaves its region out of view gives way to a random other."""
        epoch, position = key
        rng = np.random.default_rng([self._seed, epoch, position])
        while True:
            sample = self.pool[position]
            image = np.asarray(read_image(self._images[sample.image]))
            mask = self._label_maps[sample.image] == sample.label
            view = region_view(image, mask, self._size, self._params, rng)
            if view is not None:
                return view, self._columns[sample.label]
            position = int(rng.integers(len(self.pool)))
