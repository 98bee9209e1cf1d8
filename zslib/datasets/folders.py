"""Datasets without list files: a photograph and a label map are a pair because their names agree.

COCO-Stuff 164k (simbaseline §1.1), from train2017.zip, val2017.zip, stuffthingmaps_trainval2017.zip:
    ROOT[/images]/{train2017,val2017}/ID.jpg
    ROOT{/stuffthingmaps | /annotations}/{train2017,val2017}/ID.png    COCO id - 1: 0..181

ADE20k-150 (simbaseline §1.3), the validation images of ADEChallengeData2016.zip:
    ROOT[/ADEChallengeData2016]/images/validation/ID.jpg
    ROOT[/ADEChallengeData2016]/annotations/validation/ID.png          0: none of the 150; 1..150

Cityscapes (simbaseline §1.3), the validation images of leftImg8bit and gtFine:
    ROOT/leftImg8bit/val/CITY/ID_leftImg8bit.png
    ROOT/gtFine/val/CITY/ID_gtFine_labelTrainIds.png                   0..18

The last two are evaluated on only, so their training images are left alone.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from zslib.datasets.decode import read_label_map
from zslib.datasets.lists import ROLES, Role, first_existing
from zslib.errors import InputError


class PairedFolders:
    """Photographs and label maps as patterns of paths, such as `images/val2017/{id}.jpg`.

    `{city}` in a pattern is what an id begins with, up to its first underscore. An id that only one
    of the two patterns has is listed all the same: the doctor then names the file that is missing.

    Raises:
        InputError: nothing at all fits a pattern.
    """

    label_lookup: tuple[int, ...] | None = None

    def __init__(
        self, root: Path, images: Mapping[Role, str], label_maps: Mapping[Role, str], *, remedy: str
    ) -> None:
        self.root = root
        self._images, self._label_maps = images, label_maps
        self._ids: dict[Role, frozenset[str]] = {
            role: self._found(images[role], remedy) | self._found(label_maps[role], remedy)
            for role in images
        }

    def list_files(self, role: Role) -> tuple[Path, ...]:
        """Return no file: what is in the folders is the list."""
        return ()

    def ids(self, role: Role) -> tuple[str, ...]:
        """Return the image ids of a role, sorted; none for a role that the layout leaves out."""
        return tuple(sorted(self._ids.get(role, ())))

    def image_path(self, name: str) -> Path:
        """Return where the photograph is, or should be."""
        return self._path(self._images, name)

    def label_path(self, name: str) -> Path:
        """Return where the label map is, or should be."""
        return self._path(self._label_maps, name)

    def label_map(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """Return the raw class ids; the index, which knows the classes, checks their range."""
        return read_label_map(self.label_path(name), 255)

    def _found(self, pattern: str, remedy: str) -> frozenset[str]:
        ending = pattern.rpartition("{id}")[2]
        files = self.root.glob(pattern.format(id="*", city="*"))
        ids = frozenset(path.name.removesuffix(ending) for path in files)
        if not ids:
            raise InputError(f"{self.root}: holds no {pattern}; {remedy}")
        return ids

    def _path(self, patterns: Mapping[Role, str], name: str) -> Path:
        pattern = patterns[self._roles[name]]
        return self.root / pattern.format(id=name, city=name.partition("_")[0])

    @cached_property
    def _roles(self) -> dict[str, Role]:
        return {name: role for role in ROLES for name in self.ids(role)}


def coco_stuff(root: Path) -> PairedFolders:
    """Return COCO-Stuff 164k with its 182 raw class ids; eleven of them never occur."""
    images = "images/" if (root / "images").is_dir() else ""
    label_maps = first_existing([root / "stuffthingmaps", root / "annotations"]).name
    return PairedFolders(
        root,
        images={role: f"{images}{role}2017/{{id}}.jpg" for role in ROLES},
        label_maps={role: f"{label_maps}/{role}2017/{{id}}.png" for role in ROLES},
        remedy=f"{_CHECK}, and unpack stuffthingmaps_trainval2017.zip",
    )


def ade20k(root: Path) -> PairedFolders:
    """Return the validation images of ADE20k; raw id 0 is whatever is none of the 150 classes."""
    home = "ADEChallengeData2016/" if (root / "ADEChallengeData2016").is_dir() else ""
    return PairedFolders(
        root,
        images={"val": f"{home}images/validation/{{id}}.jpg"},
        label_maps={"val": f"{home}annotations/validation/{{id}}.png"},
        remedy=_CHECK,
    )


def cityscapes(root: Path) -> PairedFolders:
    """Return the validation images of Cityscapes, finely annotated, with the 19 training ids."""
    return PairedFolders(
        root,
        images={"val": "leftImg8bit/val/{city}/{id}_leftImg8bit.png"},
        label_maps={"val": "gtFine/val/{city}/{id}_gtFine_labelTrainIds.png"},
        remedy=f"{_CHECK}, and run createTrainIdLabelImgs of cityscapesscripts",
    )


_CHECK = "check dataset.root and dataset.layout"
