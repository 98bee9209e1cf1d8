"""Pascal VOC 2012, alone or with SBD, in the official layout; the built-in world uses it too.

ROOT[/VOC2012 | /VOCdevkit/VOC2012]/JPEGImages/ID.jpg
                                    SegmentationClass/ID.png
                                    SegmentationClassAug/ID.png         lists: trainaug
                                    ImageSets/Segmentation/{train,trainaug,val}.txt
ROOT/sbd/{img/ID.jpg, cls/ID.mat, train_noval.txt}                      lists: sbd
"""

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from zslib.datasets.decode import read_label_map
from zslib.datasets.lists import first_existing, read_ids, require_folder


class Voc12:
    """VOC 2012 with one of the list conventions of zs3net §1.4; evaluation is on `val` in all.

    - `train`: ImageSets/Segmentation/train.txt with SegmentationClass (1,464 images).
    - `trainaug`: the usual 10,582 images; every mask, those of val included, is read from
      SegmentationClassAug, which is distributed with all of them.
    - `sbd`: VOC train, and those of SBD's train_noval that are in neither VOC train (the VOC
      annotation wins) nor VOC val. SBD's own train.txt serves as well: without VOC val it is the
      same list.

    Each image has one annotation here. In the released ZS3Net code an image dropped for its VOC map
    can re-enter through its SBD map (zs3net §1.5); that is not reproduced.
    """

    label_lookup: tuple[int, ...] | None = None

    def __init__(self, root: Path, lists: Literal["train", "trainaug", "sbd"]) -> None:
        self.root = root
        self._lists = lists
        self._voc = require_folder(root, [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"])
        self._sbd = root / "sbd"

    def list_files(self, role: Literal["train", "val"]) -> tuple[Path, ...]:
        """Return the list files that `ids(role)` reads; they need not exist."""
        official = self._voc / "ImageSets" / "Segmentation"
        if role == "train" and self._lists == "trainaug":
            augmented = self._voc / "ImageSets" / "SegmentationAug" / "train_aug.txt"
            return (first_existing([official / "trainaug.txt", augmented]),)
        if role == "train" and self._lists == "sbd":
            files = [self._sbd / "train_noval.txt", self._sbd / "train.txt"]
            return (official / "train.txt", first_existing(files))
        return (official / f"{role}.txt",)

    def ids(self, role: Literal["train", "val"]) -> tuple[str, ...]:
        """Return the image ids of a role, sorted; InputError if a list is missing or empty."""
        names = set(read_ids(self.list_files(role)[0]))
        if role == "train" and self._lists == "sbd":
            names |= self._only_in_sbd
        return tuple(sorted(names))

    def image_path(self, name: str) -> Path:
        """Return where the photograph is, or should be."""
        folder = self._sbd / "img" if self._is_from_sbd(name) else self._voc / "JPEGImages"
        return folder / f"{name}.jpg"

    def label_path(self, name: str) -> Path:
        """Return where the label map is, or should be."""
        if self._is_from_sbd(name):
            return self._sbd / "cls" / f"{name}.mat"
        augmented = self._lists == "trainaug"
        folder = "SegmentationClassAug" if augmented else "SegmentationClass"
        return self._voc / folder / f"{name}.png"

    def label_map(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """Return the raw class ids; the index, which knows the classes, checks their range."""
        return read_label_map(self.label_path(name), 255)

    def _is_from_sbd(self, name: str) -> bool:
        return self._lists == "sbd" and name in self._only_in_sbd

    @cached_property
    def _only_in_sbd(self) -> frozenset[str]:
        voc_train, sbd = (read_ids(path) for path in self.list_files("train"))
        (voc_val,) = (read_ids(path) for path in self.list_files("val"))
        return frozenset(sbd) - frozenset(voc_train) - frozenset(voc_val)
