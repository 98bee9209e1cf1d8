"""Pascal-Context with 60 classes (zs3net §1.2) or 33 (cagnet §1), from the 459-class label maps.

ROOT/trainval/ID.mat          LabelMap, values 1..459
ROOT/labels.txt               their names, "1: accordion", ...
ROOT/classes-59.txt           optional; if there, checked: "0: background" first
ROOT[/VOC2010 | /VOCdevkit/VOC2010]/JPEGImages/ID.jpg
lists train.txt and val.txt: ROOT/ImageSets, or the VOC2010 folder's ImageSets/
SegmentationContext or ImageSets/Main (VOC2010's own train and val are Context's 4,998 / 5,105)
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from zslib.datasets.decode import read_label_map
from zslib.datasets.lists import first_existing, read_ids, read_lines, require_folder
from zslib.errors import InputError

CONTEXT_CLASSES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling "
    "cloth computer cup door fence floor flower food grass ground keyboard light mountain mouse "
    "curtain platform sign plate road rock shelves sidewalk sky snow bedclothes track tree truck "
    "wall water window wood".split()
)
"""Class id -> name as spelt in labels.txt without spaces (zs3net §1.2)."""

CONTEXT_33 = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor sky grass ground road building tree water "
    "mountain wall floor track keyboard ceiling".split()
)
"""The same for CaGNet's 33 classes, of which 0 is none (cagnet §1)."""

_RENAMED = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


class PascalContext:
    """Whatever is none of `classes` is class 0, which a benchmark may call void; there is no other void."""

    label_lookup: tuple[int, ...]

    def __init__(self, root: Path, classes: Sequence[str] = CONTEXT_CLASSES) -> None:
        self.root = root
        self._classes = classes
        self._voc = require_folder(root, [root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"])
        _check_class_file(root / "classes-59.txt")
        self.label_lookup = label_lookup(root / "labels.txt", classes)

    def list_files(self, role: Literal["train", "val"]) -> tuple[Path, ...]:
        """Return the list file that `ids(role)` reads; it need not exist."""
        official = self._voc / "ImageSets"
        folders = [self.root / "ImageSets", official / "SegmentationContext", official / "Main"]
        return (first_existing([folder / f"{role}.txt" for folder in folders]),)

    def ids(self, role: Literal["train", "val"]) -> tuple[str, ...]:
        """Return the image ids of a role, sorted; InputError if the list is missing or empty."""
        return tuple(sorted(set(read_ids(self.list_files(role)[0]))))

    def image_path(self, name: str) -> Path:
        """Return where the photograph is, or should be."""
        return self._voc / "JPEGImages" / f"{name}.jpg"

    def label_path(self, name: str) -> Path:
        """Return where the 459-class label map is, or should be."""
        return self.root / "trainval" / f"{name}.mat"

    def label_map(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """Return the class ids 0..59, or 0..33."""
        return read_label_map(self.label_path(name), len(self._classes), lookup=self.label_lookup)


def label_lookup(labels_file: Path, classes: Sequence[str] = CONTEXT_CLASSES) -> tuple[int, ...]:
    """Return, for each value of a LabelMap (0, then 1..459), its class id, matched by name.

    Raises:
        InputError: the file is missing, or one of the names is not in it.
    """
    names = _names(labels_file)
    if absent := sorted(set(classes[1:]) - set(names)):
        raise InputError(
            f"{labels_file}: lacks the classes {', '.join(absent[:5])}; "
            f"use the labels.txt that comes with trainval.tar.gz (459 names)"
        )
    ids = {name: index for index, name in enumerate(classes)}
    return (0, *(ids.get(name, 0) for name in names))


def _check_class_file(path: Path) -> None:
    """A 59-line file without background drops aeroplane and shifts every class by one."""
    if not path.exists():
        return
    names = [_RENAMED.get(name, name) for name in _names(path)]
    if names[:1] != ["background"]:
        raise InputError(
            f"{path}: its first class is '{''.join(names[:1])}', not background; "
            f"use the file with 60 lines, or remove it"
        )
    for found, wanted in zip(names, CONTEXT_CLASSES, strict=False):
        if found != wanted:
            raise InputError(f"{path}: '{found}' stands where '{wanted}' belongs; remove the file")
    if len(names) != len(CONTEXT_CLASSES):
        raise InputError(f"{path}: has {len(names)} classes instead of 60; remove the file")


def _names(path: Path) -> list[str]:
    """Names without the leading number and without spaces, in order of lines."""
    lines = (line for line in read_lines(path, "a list of class names") if line.strip())
    return [re.sub(r"^\s*\d+\s*:|\s", "", line) for line in lines]
