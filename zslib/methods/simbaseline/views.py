"""Views of images: resized for training or test, cropped, jittered, flipped, padded (simbaseline §2.3)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import TrainingViews
from zslib.params.simbaseline import ProposalAugmentation
from zslib.params.training import AugmentationParams

PADDING = 128
"""Of training images; label maps are padded with void."""

Picture = UInt8[np.ndarray, "_h _w 3"]


def resized(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """Return (width, height) scaled to a short side, or less, so that the long one is in bounds.

    Both are rounded, as detectron2 does.
    """
    factor = min(short_side / min(size), long_side / max(size))
    width, height = (max(int(side * factor + 0.5), 1) for side in size)
    return width, height


def training_view(
    image: UInt8[np.ndarray, "h w 3"],
    label_map: UInt8[np.ndarray, "h w"],
    params: ProposalAugmentation,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Return a square view of an image and its label map."""
    picture, labels = Image.fromarray(image), Image.fromarray(label_map)
    size = resized(picture.size, int(rng.choice(params.short_sides)), params.long_side)
    left, top = (int(rng.integers(0, max(side - params.crop_size, 0) + 1)) for side in size)
    window = np.s_[top : top + params.crop_size, left : left + params.crop_size]
    seen = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))[window]
    known = np.asarray(labels.resize(size, Image.Resampling.NEAREST))[window]
    if params.colour_jitter:
        seen = jittered(seen, rng)
    if rng.random() < 0.5:
        seen, known = seen[:, ::-1], known[:, ::-1]
    return _padded(seen, params.crop_size, PADDING), _padded(known, params.crop_size, IGNORE_INDEX)


def jittered(image: Picture, rng: np.random.Generator) -> Picture:
    """Return an image with the colour jitter of SSD: brightness, contrast, saturation, hue.

    Each with probability 1/2, contrast before or after the last two with equal chances; brightness by
    up to 32, contrast and saturation by 0.5 to 1.5, hue by up to 18 degrees of 180.
    """
    contrast_last = rng.random() < 0.5
    if rng.random() < 0.5:
        image = _clipped(image + rng.uniform(-32, 32))
    if not contrast_last:
        image = _contrast(image, rng)
    if rng.random() < 0.5:
        image = _in_hsv(image, saturation=rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        image = _in_hsv(image, turn=rng.integers(-18, 19) / 180)
    return _contrast(image, rng) if contrast_last else image


def _contrast(image: Picture, rng: np.random.Generator) -> Picture:
    return _clipped(image * rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else image


def _in_hsv(image: Picture, *, saturation: float = 1.0, turn: float = 0.0) -> Picture:
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] = ((hsv[..., 0].astype(int) + round(256 * turn)) % 256).astype(np.uint8)
    hsv[..., 1] = _clipped(hsv[..., 1] * saturation)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _padded(array: np.ndarray, side: int, value: int) -> np.ndarray:
    """Pad rows and columns below and to the right."""
    missing = [(0, side - array.shape[0]), (0, side - array.shape[1])]
    rest = [(0, 0)] * (array.ndim - 2)
    return np.pad(array, missing + rest, constant_values=value)


class ProposalViews(TrainingViews):
    """Training views of this method by (epoch, position)."""

    def __init__(
        self,
        images: Sequence[ImageFile],
        label_maps: Sequence[np.ndarray],
        params: ProposalAugmentation,
        *,
        seed: int,
        cache_images: bool,
    ) -> None:
        # Decoding and its cache are the parent's; its own kind of view is never made.
        unused = AugmentationParams(crop_size=params.crop_size)
        super().__init__(images, label_maps, unused, seed=seed, cache_images=cache_images)
        self._augmentation = params

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, position = key
        rng = np.random.default_rng([self._seed, epoch, position])
        image, labels = training_view(
            self._decoded(position), self._label_maps[position], self._augmentation, rng
        )
        return torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(labels.copy())
