"""The interface all dataset adapters share, and the choice of one by `dataset.layout`.

An adapter knows where things are and nothing about seen and unseen: it is used by the index stage
and by `zslib doctor` only. Later stages read the index (zslib.datasets.index).
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from zslib.datasets.context import CONTEXT_33, PascalContext
from zslib.datasets.folders import ade20k, cityscapes, coco_stuff
from zslib.datasets.lists import Role
from zslib.datasets.voc import Voc12
from zslib.params.benchmark import DatasetParams


@runtime_checkable  # the type checks made under pytest ask for it
class Dataset(Protocol):
    """Photographs and their label maps in some layout on disk."""

    root: Path
    """The folder as the user gave it; every file below lies inside."""

    @property
    def label_lookup(self) -> tuple[int, ...] | None:
        """What `read_label_map` needs to turn stored values into class ids; None: nothing."""

    def list_files(self, role: Role) -> tuple[Path, ...]:
        """Return the list files behind `ids(role)`; none where folders are the lists."""

    def ids(self, role: Role) -> tuple[str, ...]:
        """Return the image ids of a role, sorted."""

    def image_path(self, name: str) -> Path:
        """Return the path of a photograph."""

    def label_path(self, name: str) -> Path:
        """Return the path of its label map."""

    def label_map(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """Return its raw class ids, 255 = void."""


def open_dataset(params: DatasetParams) -> Dataset:
    """Return the adapter for `params.layout`.

    Raises:
        InputError: the root is missing or is not laid out like that.
    """
    root = Path(params.root)
    match params.layout:
        case "voc12":
            return Voc12(root, params.lists)
        case "context":
            return PascalContext(root)
        case "context33":
            return PascalContext(root, CONTEXT_33)
        case "cocostuff":
            return coco_stuff(root)
        case "ade20k":
            return ade20k(root)
        case "cityscapes":
            return cityscapes(root)
