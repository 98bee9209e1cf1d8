"""The dataset's lock file: all that the stages after `index` know of a dataset.

Three JSON files, so that a stage depends on exactly what it may read: `images.json` (photographs,
independent of any label), `train_masks.json` (read by the seen-labels stage alone) and
`val_masks.json` (read by evaluation alone). Each entry carries the checksum of its file, which is
compared whenever the file is read: stages depend on content, not on a folder.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import xxhash
from jaxtyping import UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from zslib.artifacts import publish
from zslib.artifacts.schemas import Schema
from zslib.datasets.decode import read_image, read_label_map
from zslib.datasets.lists import Role
from zslib.errors import ArtifactError

INDEX = Schema("index/1", "index")

_RERUN = INDEX.remedy

Entry = TypeVar("Entry")
Document = TypeVar("Document", bound="_Document")


class _Document(BaseModel):
    """Content of one index file; on disk it is wrapped with its schema and a checksum."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def save(self, path: Path) -> None:
        """Publish the document as stable JSON."""
        content = self.model_dump(mode="json")
        document = {
            "schema": INDEX.name,
            "holds": type(self).__name__,
            "xxh3_128": _content_checksum(content),
            "content": content,
        }
        with publish(path) as temporary:
            text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[Document], path: Path) -> Document:
        """Read a document written by `save`.

        Raises:
            ArtifactError: it is missing, truncated, altered, or of another kind or version.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            found = (document.get("schema"), document.get("holds"))
        except (OSError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); {_RERUN}") from error
        if found != (INDEX.name, cls.__name__):
            raise ArtifactError(
                f"{path}: holds {found}, not {(INDEX.name, cls.__name__)}; {_RERUN}"
            )
        content = document.get("content")
        if document.get("xxh3_128") != _content_checksum(content):
            raise ArtifactError(f"{path}: content does not match its checksum; {_RERUN}")
        try:
            return cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            fault = error.errors()[0]
            raise ArtifactError(f"{path}: {fault['loc']} {fault['msg']}; {_RERUN}") from error


class ImageEntry(BaseModel):
    """One photograph; `path` is relative to the root, sizes are pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    role: Role
    path: str
    width: int
    height: int
    xxh3: str


class ImageIndex(_Document):
    """All photographs of a dataset, train and val, sorted by role and id."""

    root: str
    """The dataset folder as the user gave it: relative to the project, or absolute."""
    images: tuple[ImageEntry, ...]

    def ids(self, role: Role) -> tuple[str, ...]:
        """Return the image ids of a role, sorted."""
        return tuple(entry.id for entry in self.images if entry.role == role)

    def entry(self, name: str) -> ImageEntry:
        """Return what is known of one image."""
        return _find(self._by_id, name)

    def path(self, name: str) -> Path:
        """Return the absolute path of a photograph."""
        return _absolute(self.root, self.entry(name).path)

    def size(self, name: str) -> tuple[int, int]:
        """Return the (width, height) of a photograph."""
        entry = self.entry(name)
        return entry.width, entry.height

    def image(self, name: str) -> Image.Image:
        """Return a photograph, mode RGB; ArtifactError if its file is not the indexed one."""
        return read_image(self.path(name), xxh3=self.entry(name).xxh3)

    @cached_property
    def _by_id(self) -> dict[str, ImageEntry]:
        return {entry.id: entry for entry in self.images}


class MaskEntry(BaseModel):
    """One label map; `path` is relative to the root."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    path: str
    xxh3: str


class MaskIndex(_Document):
    """The label maps of one role, sorted by id, and all that is needed to decode them."""

    root: str
    role: Role
    num_classes: int
    lookup: tuple[int, ...] | None
    """Stored value -> class id, where they differ (Pascal-Context)."""
    masks: tuple[MaskEntry, ...]

    def ids(self) -> tuple[str, ...]:
        """Return the image ids, sorted."""
        return tuple(entry.id for entry in self.masks)

    def path(self, name: str) -> Path:
        """Return the absolute path of a label map."""
        return _absolute(self.root, _find(self._by_id, name).path)

    def label_map(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """Return raw class ids, 255 = void; ArtifactError if its file is not the indexed one."""
        return read_label_map(
            self.path(name),
            self.num_classes,
            lookup=self.lookup,
            xxh3=_find(self._by_id, name).xxh3,
        )

    @cached_property
    def _by_id(self) -> dict[str, MaskEntry]:
        return {entry.id: entry for entry in self.masks}


def _absolute(root: str, path: str) -> Path:
    return Path(root).absolute() / path


def _find(entries: dict[str, Entry], name: str) -> Entry:
    if name not in entries:
        raise ArtifactError(f"{name}: this image is not in the index; rerun the stage 'index'")
    return entries[name]


def _content_checksum(content: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
