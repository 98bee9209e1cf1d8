"""Training views: the augmentation of zs3net §1.7, and the loader that feeds it to the loop.

Every view is a function of (seed, epoch, image), whichever process or worker makes it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.decode import ImageFile, read_image
from zslib.datasets.memory import free_memory
from zslib.errors import InputError
from zslib.params.training import AugmentationParams

_IMAGES_PER_LOOK = 32
"""Looking how much memory is left takes some 0.2 ms, a part of what decoding a small image takes."""


def training_view(
    image: UInt8[np.ndarray, "h w 3"],
    label_map: UInt8[np.ndarray, "h w"],
    params: AugmentationParams,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Return a flipped, scaled, padded, cropped, blurred view of an image and its label map."""
    picture, labels = Image.fromarray(image), Image.fromarray(label_map)
    if rng.random() < 0.5:
        flip = Image.Transpose.FLIP_LEFT_RIGHT
        picture, labels = picture.transpose(flip), labels.transpose(flip)
    low, high = (int(params.base_size * factor) for factor in params.scale)
    size = size_with_short_side(picture.size, int(rng.integers(low, high + 1)))
    crop = params.crop_size
    left, top = (int(rng.integers(0, max(side - crop, 0) + 1)) for side in size)
    # Padding comes in as black pixels and void labels, right and below.
    box = (left, top, left + crop, top + crop)
    picture = picture.resize(size, Image.Resampling.BILINEAR).crop(box)
    labels = _crop_void(labels.resize(size, Image.Resampling.NEAREST), box)
    if rng.random() < params.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.random()))
    return np.asarray(picture), np.asarray(labels)


def size_with_short_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return (width, height) scaled so that the short side is `short`; the long side is floored."""
    width, height = size
    if width <= height:
        return short, max(short * height // width, 1)
    return max(short * width // height, 1), short


def read_view(file: ImageFile, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Return an image resized bilinearly to (height, width)."""
    height, width = size
    image = read_image(file).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _crop_void(labels: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    canvas = Image.new("L", (box[2] - box[0], box[3] - box[1]), IGNORE_INDEX)
    inside = (box[0], box[1], min(box[2], labels.width), min(box[3], labels.height))
    canvas.paste(labels.crop(inside), (0, 0))
    return canvas


class TrainingViews(Dataset):
    """Views by (epoch, position); each item is (image (3, s, s) uint8, labels (s, s) uint8).

    With `cache_images` decoded images are kept as long as half of the memory that was free stays so.
    """

    def __init__(
        self,
        images: Sequence[ImageFile],
        label_maps: Sequence[np.ndarray],
        params: AugmentationParams,
        *,
        seed: int,
        cache_images: bool,
    ) -> None:
        self._images, self._label_maps, self._params = images, label_maps, params
        self._seed = seed
        self._cache: dict[int, np.ndarray] = {}
        self._caching = cache_images
        # Each process has a cache of its own: what all of them watch is what they leave together.
        self._memory_to_leave = free_memory() // 2

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, position = key
        rng = np.random.default_rng([self._seed, epoch, position])
        image, labels = training_view(
            self._decoded(position), self._label_maps[position], self._params, rng
        )
        return torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(labels.copy())

    def _decoded(self, position: int) -> np.ndarray:
        if position in self._cache:
            return self._cache[position]
        image = np.asarray(read_image(self._images[position]))
        if self._caching and len(self._cache) % _IMAGES_PER_LOOK == 0:
            self._caching = free_memory() > self._memory_to_leave
        if self._caching:
            self._cache[position] = image
        return image


class BatchOrder:
    """Keys (epoch, position) of each batch: a fresh permutation per epoch, incomplete batches left out.

    Every process walks the same global batches and takes its share of each. An error says `section`,
    where the parameter `batch_size` stands, and what it is a batch `of`.

    Raises:
        InputError: a batch is more than there are, or fewer than there are processes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        section: str,
        of: str = "training images",
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size > count:
            raise InputError(
                f"{section}.batch_size: {batch_size} is more than the {count} {of} there are; lower it"
            )
        if batch_size < world_size:
            raise InputError(
                f"{section}.batch_size: {batch_size} {of} cannot be shared by {world_size} processes; "
                "raise it, or start fewer (compute.devices, compute.nodes)"
            )
        self.steps_per_epoch = count // batch_size
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._share = slice(rank, None, world_size)

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of steps start..stop-1."""
        for step in range(start, stop):
            epoch, index = divmod(step, self.steps_per_epoch)
            if index == 0 or step == start:
                order = np.random.default_rng([self._seed, epoch]).permutation(self._count)
            chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
            yield [(epoch, int(position)) for position in chosen[self._share]]


def loader(views: Dataset, order: BatchOrder, start: int, stop: int, *, workers: int) -> DataLoader:
    """Return a loader over the batches of steps start..stop-1; a dead worker is an error, not a hang."""
    return DataLoader(
        views,
        batch_sampler=list(order.batches(start, stop)),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        timeout=120 if workers else 0,
        pin_memory=torch.cuda.is_available(),
    )
