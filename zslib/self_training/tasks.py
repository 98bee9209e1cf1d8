"""Which images self-training labels, and what is known of the others: of a split, and of a draw."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, UInt8
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.errors import InputError

LabelMap = UInt8[np.ndarray, "_h _w"]
"""At the image's own resolution."""


@dataclass(frozen=True)
class Images:
    """Feature maps of images, and what is known of their labels."""

    maps: DenseMaps
    known: Callable[[str], LabelMap]
    """Image id -> label map; void is unknown."""

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[tuple[Float16[Tensor, "h w d"], LabelMap]]:
        """Yield the feature map and the known labels of each image, read when its turn comes."""
        return zip(self.maps, map(self.known, self.maps.ids), strict=True)


@dataclass(frozen=True)
class Task:
    """Images with labels to learn from, and images to label."""

    labelled: Images
    unlabelled: Images


@dataclass(frozen=True)
class Material:
    """All that self-training is given, in the feature space of its classifier."""

    train: DenseMaps
    """Maps of training images that have `labels`."""
    labels: LabelMaps
    unlabelled: DenseMaps
    sizes: Mapping[str, tuple[int, int]]
    """Image id -> (height, width) of an unlabelled image."""

    def task(self, split: Split) -> Task:
        """Return what the split asks for: its unlabelled images are to be labelled."""
        unlabelled, seen_labels = set(self.unlabelled.ids), self._seen_labels(split)
        rest = self.train.only([name for name in self.train.ids if name not in unlabelled])
        labelled = set(self.labels.ids)

        def known(name: str) -> LabelMap:
            return seen_labels(name) if name in labelled else self._nothing(name)

        return Task(Images(rest, seen_labels), Images(self.unlabelled, known))

    def held_out_task(self, draw: Split) -> Task:
        """Return the same with hidden classes in the part of the unseen ones, without tuning images.

        To be labelled are the images that show a hidden class, or, where the unlabelled images of
        the split keep their seen labels, all images, with hidden classes void.

        Raises:
            InputError: there is no such image.
        """
        tuning, seen_labels = set(self.train.tuning.ids), self._seen_labels(draw)
        names = [name for name in self.train.ids if name not in tuning]
        shows = [name for name in names if draw.shows_unseen(self.labels.of(name))]
        if not shows:
            hidden = ", ".join(draw.classes[c] for c in draw.unseen)
            raise InputError(
                f"features: no training map outside the {len(tuning)} tuning images shows {hidden}; "
                "lower tuning_images or raise train_maps"
            )
        if self.keeps_seen_labels:
            nothing, everything = self.train.only([]), self.train.only(names)
            return Task(Images(nothing, seen_labels), Images(everything, seen_labels))
        rest = self.train.only([name for name in names if name not in set(shows)])
        return Task(Images(rest, seen_labels), Images(self.train.only(shows), self._nothing))

    @property
    def keeps_seen_labels(self) -> bool:
        """Whether images that show unseen classes were kept, so that those pixels alone are unknown.

        An image without any seen pixel may have been left out all the same.
        """
        return not set(self.unlabelled.ids).isdisjoint(self.labels.ids)

    def _seen_labels(self, split: Split) -> Callable[[str], LabelMap]:
        return lambda name: split.seen_labels(self.labels.of(name))

    def _nothing(self, name: str) -> LabelMap:
        size = self.sizes.get(name) or self.labels.of(name).shape
        return np.full(size, IGNORE_INDEX, np.uint8)
