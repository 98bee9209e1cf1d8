"""What SAZS trains on: an image with one of its seen classes (sazs §1.3), and its own views (sazs §5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.folds import Pair
from zslib.datasets.views import BatchOrder, TrainingViews, training_view
from zslib.errors import InputError
from zslib.fine_tuning import LabelledImages
from zslib.params.benchmark import BACKGROUND
from zslib.params.training import AugmentationParams

TURN = 10
"""Degrees."""


def named_classes(split: Split, ids: Sequence[int]) -> tuple[int, ...]:
    """Return those among some classes that an item may name: "others" is the text of background."""
    return tuple(c for c in ids if split.classes[c] != BACKGROUND)


def class_vectors(
    split: Split, embeddings: Float[Tensor, "c d"], others: str
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " d"]]:
    """Return the vectors of the classes, and that of "others", which the background has as well.

    It is the background's own ("background"), or the mean over the seen classes, of which training
    may make another one.
    """
    background = [c for c, name in enumerate(split.classes) if name == BACKGROUND]
    if others == "background":
        return embeddings, embeddings[background[0]]
    mean = embeddings[list(named_classes(split, split.seen))].mean(0)
    classes = embeddings.clone()
    classes[background] = mean
    return classes, mean


@dataclass(frozen=True)
class Items:
    """Pairs of an image, by position, and a seen class that it shows."""

    images: LabelledImages
    positions: Int64[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def of(cls, images: LabelledImages, listed: Sequence[Pair] | None = None) -> "Items":
        """Return all pairs that the labels show, or those among the listed ones that they know.

        Raises:
            InputError: no pair is left.
        """
        pairs = _shown(images) if listed is None else _known(images, listed)
        if not pairs:
            raise InputError(
                f"sazs.folds: no image of split '{images.split.name}' is paired with a seen class; "
                "are these the split files of this benchmark?"
            )
        positions, classes = np.array(pairs, np.int64).T
        return cls(images, positions, classes)


def _shown(images: LabelledImages) -> list[tuple[int, int]]:
    named = named_classes(images.split, images.split.seen)
    return [
        (position, c)
        for position in range(len(images))
        for c in np.flatnonzero(np.bincount(images[position].reshape(-1), minlength=256)).tolist()
        if c in named
    ]


def _known(images: LabelledImages, listed: Sequence[Pair]) -> list[tuple[int, int]]:
    named = named_classes(images.split, images.split.seen)
    position = {image_id: index for index, image_id in enumerate(images.ids)}
    return [
        (position[pair.image_id], pair.class_id)
        for pair in listed
        if pair.image_id in position and pair.class_id in named
    ]


class ItemViews(TrainingViews):
    """Views by (epoch, item): image (3, s, s) uint8, seen labels (s, s) uint8, class () int64."""

    def __init__(
        self,
        items: Items,
        params: AugmentationParams,
        *,
        released: bool,
        seed: int,
        cache_images: bool,
    ) -> None:
        images = items.images
        super().__init__(images.paths, images, params, seed=seed, cache_images=cache_images)
        self._items, self._view = items, released_view if released else training_view

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:  # type: ignore[override]
        epoch, item = key
        rng = np.random.default_rng([self._seed, epoch, item])
        position = int(self._items.positions[item])
        image, labels = self._view(
            self._decoded(position), self._label_maps[position], self._params, rng
        )
        return (
            torch.from_numpy(image.copy()).permute(2, 0, 1),
            torch.from_numpy(labels.copy()),
            torch.tensor(self._items.classes[item]),
        )


class ClassOrder(BatchOrder):
    """Draws a class, then an item with it; an epoch is as many draws as there are images (sazs §1.3).

    A key's first number is the step, so that an item drawn twice is seen in two views.
    """

    def __init__(self, items: Items, batch_size: int, *, section: str, seed: int) -> None:
        images = len(np.unique(items.positions))
        of = f"images of split '{items.images.split.name}' with a seen class"
        super().__init__(images, batch_size, section=section, of=of, seed=seed)
        self._of_class = [
            np.flatnonzero(items.classes == c) for c in np.unique(items.classes).tolist()
        ]

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of steps start..stop-1."""
        for step in range(start, stop):
            rng = np.random.default_rng([self._seed, step])
            chosen = rng.integers(len(self._of_class), size=self._batch_size).tolist()
            yield [(step, int(rng.choice(self._of_class[c]))) for c in chosen]


def released_view(
    image: UInt8[np.ndarray, "h w 3"],
    label_map: UInt8[np.ndarray, "h w"],
    params: AugmentationParams,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Return a turned, scaled, padded, cropped, flipped view (sazs §5), all of it SAZS's own."""
    picture, labels = _turned(image, label_map, int(rng.integers(-TURN, TURN + 1)))
    factor = rng.uniform(*params.scale)
    size = (max(round(picture.width * factor), 1), max(round(picture.height * factor), 1))
    filters = Image.Resampling
    picture = picture.resize(size, filters.LANCZOS if factor < 1 else filters.BICUBIC)
    labels = labels.resize(size, filters.NEAREST)
    crop = params.crop_size
    left, top = (int(rng.integers(0, max(side - crop, 0) + 1)) for side in size)
    views = [
        _cropped(picture, (left, top), crop, 0),
        _cropped(labels, (left, top), crop, IGNORE_INDEX),
    ]
    if rng.random() < 0.5:
        views = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in views]
    return np.asarray(views[0]), np.asarray(views[1])


def _turned(
    image: UInt8[np.ndarray, "h w 3"], label_map: UInt8[np.ndarray, "h w"], degrees: int
) -> tuple[Image.Image, Image.Image]:
    """Turn both around the centre; beyond its frame the image is reflected, the labels are void."""
    height, width = label_map.shape
    margin = min(height, width) // 2
    reflected = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    turned = Image.fromarray(reflected).rotate(degrees, Image.Resampling.BILINEAR)
    picture = turned.crop((margin, margin, margin + width, margin + height))
    labels = Image.fromarray(label_map)
    return picture, labels.rotate(degrees, Image.Resampling.NEAREST, fillcolor=IGNORE_INDEX)


def _cropped(picture: Image.Image, corner: tuple[int, int], side: int, fill: int) -> Image.Image:
    canvas = Image.new(picture.mode, (side, side), (fill,) * 3 if picture.mode == "RGB" else fill)
    left, top = corner
    right, bottom = min(left + side, picture.width), min(top + side, picture.height)
    canvas.paste(picture.crop((left, top, right, bottom)), (0, 0))
    return canvas
