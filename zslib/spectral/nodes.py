"""Where the nodes of images' graphs come from: cached dense maps, or the keys of a ViT (sazs §4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.backbones.vit_keys import KeyExtractor
from zslib.datasets.decode import checksum, decode_image, read_bytes
from zslib.datasets.index import ImageEntry, ImageIndex
from zslib.errors import InputError
from zslib.params.eigenvectors import EigenvectorParams

_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Nodes:
    """The nodes of one image's graph, and the image where its colours are wanted."""

    features: Float[Tensor, "h w d"]
    image: UInt8[np.ndarray, "H W 3"] | None


@runtime_checkable
class NodeSource(Protocol):
    """Images by position, with the grids of their nodes."""

    @property
    def aligned(self) -> Literal["corners", "cells"]:
        """Whether the outer nodes lie on the outer pixels, or every node in the middle of its patch."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def grids(self) -> Sequence[tuple[int, int]]: ...

    @property
    def covered(self) -> Sequence[tuple[float, float]]:
        """The share of each image's height and width that its grid covers."""

    def nodes(self, position: int) -> Nodes: ...


@dataclass(frozen=True)
class MapNodes:
    """Cells of cached dense maps; their images are opened where an index is given."""

    maps: Sequence[DenseMaps]
    index: ImageIndex | None
    aligned: Literal["corners"] = "corners"

    @cached_property
    def ids(self) -> Sequence[str]:
        return [image_id for maps in self.maps for image_id in maps.ids]

    @property
    def grids(self) -> Sequence[tuple[int, int]]:
        return [(height, width) for maps in self.maps for height, width in maps.grids.tolist()]

    @property
    def covered(self) -> Sequence[tuple[float, float]]:
        return [(1.0, 1.0)] * len(self.ids)

    def nodes(self, position: int) -> Nodes:
        maps, place = self._places[position]
        image = None if self.index is None else np.asarray(self.index.image(self.ids[position]))
        return Nodes(maps[place], image)

    @cached_property
    def _places(self) -> list[tuple[DenseMaps, int]]:
        return [(maps, place) for maps in self.maps for place in range(len(maps))]


@dataclass(frozen=True)
class KeyNodes:
    """Patches of photographs, by the keys of a ViT.

    Raises:
        InputError: an image is smaller than a patch.
    """

    extractor: KeyExtractor
    index: ImageIndex
    ids: Sequence[str]
    aligned: Literal["cells"] = "cells"

    def __post_init__(self) -> None:
        patch = self.extractor.patch
        for image_id in self.ids:
            if min(self.index.size(image_id)) < patch:
                raise InputError(
                    f"{self.index.file(image_id).path}: is smaller than one patch of {patch} pixels; "
                    "enlarge it, or leave it out"
                )

    @property
    def grids(self) -> Sequence[tuple[int, int]]:
        return [self.extractor.grid(self.index.size(image_id)) for image_id in self.ids]

    @property
    def covered(self) -> Sequence[tuple[float, float]]:
        patch = self.extractor.patch
        sizes = [self.index.size(image_id) for image_id in self.ids]
        return [(h // patch * patch / h, w // patch * patch / w) for w, h in sizes]

    def nodes(self, position: int) -> Nodes:
        image = self.index.image(self.ids[position])
        return Nodes(self.extractor(image), np.asarray(image))


def choose_source(
    params: EigenvectorParams, index: ImageIndex, maps: Sequence[DenseMaps], device: torch.device
) -> NodeSource:
    """Return the nodes that `eigenvectors` asks for, of the images that have dense maps.

    Without any maps they are all images of the index.

    Raises:
        InputError: there is neither an encoder nor maps.
    """
    if params.encoder is None:
        if not maps:
            raise InputError(
                "eigenvectors.encoder: is null, and without --maps there is nothing to make nodes "
                "of; name a ViT such as {name: vit_small_patch16_224.dino, weights: hub}"
            )
        return MapNodes(maps, index if params.colour_weight else None)
    ids = [image_id for one in maps for image_id in one.ids]
    ids = ids or [entry.id for entry in index.images]
    return KeyNodes(KeyExtractor(params.encoder, device), index, ids)


def index_folder(folder: Path) -> ImageIndex:
    """Return the index of all photographs in a folder; an id is a file's path without its suffix.

    Raises:
        InputError: there is none, or two have one id.
        ImageError: one cannot be used.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    entries = sorted((_entry(path, folder) for path in found), key=lambda e: (e.id, e.path))
    if not entries:
        raise InputError(f"{folder}: holds no JPEG or PNG file; name a folder of photographs")
    for one, other in pairwise(entries):
        if one.id == other.id:
            raise InputError(f"{folder}: {one.path} and {other.path} have one id; rename one")
    return ImageIndex(root=str(folder), images=tuple(entries))


def _entry(path: Path, folder: Path) -> ImageEntry:
    data = read_bytes(path)
    width, height = decode_image(data, path).size
    place = path.relative_to(folder)
    return ImageEntry(
        id=place.with_suffix("").as_posix(),
        role="val",
        path=place.as_posix(),
        width=width,
        height=height,
        xxh3=checksum(data),
    )
