"""The dataset's lock file: all that the stages after `index` know of a dataset.

Three JSON files, so that a stage depends on exactly what it may read: `images.json` (photographs,
independent of any label), `train_masks.json` (read by the seen-labels stage alone) and
`val_masks.json` (read by evaluation alone). Each entry carries the checksum of its file, which is
compared whenever the file is read: stages depend on content, not on a folder.

So where the dataset lies stands in none of them but beside them, in `root.json`, on which no stage
depends: the same dataset at another place makes nothing stale, and another one there is refused.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from jaxtyping import UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zslib.artifacts import publish
from zslib.artifacts.schemas import Schema
from zslib.datasets.decode import IndexedFile, read_image, read_label_map
from zslib.datasets.lists import Role
from zslib.errors import ArtifactError

INDEX = Schema("index/2", "index")

_RERUN = INDEX.remedy
_ROOT = "root.json"

Entry = TypeVar("Entry")
Document = TypeVar("Document", bound="_Document")


class _Entry(BaseModel):
    """One file; `path` is relative to the root."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    path: str
    xxh3: str


class _Document(BaseModel):
    """Content of one index file, and the root beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    root: str = Field(exclude=True)
    """The dataset folder as the user gave it: relative to the project, or absolute."""

    def save(self, path: Path) -> None:
        """Publish the document as stable JSON, and root.json in the same folder."""
        _write(path, type(self).__name__, self.model_dump(mode="json"))
        _write(path.with_name(_ROOT), "root", {"root": self.root})

    @classmethod
    def load(cls: type[Document], path: Path) -> Document:
        """Read a document written by `save`.

        Raises:
            ArtifactError: it is missing, truncated, altered, or of another kind or version.
        """
        content = _read(path, cls.__name__) | _read(path.with_name(_ROOT), "root")
        try:
            return cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            fault = error.errors()[0]
            raise ArtifactError(f"{path}: {fault['loc']} {fault['msg']}; {_RERUN}") from error

    def _file(self, entry: _Entry) -> IndexedFile:
        return IndexedFile(Path(self.root).absolute() / entry.path, entry.xxh3)


class ImageEntry(_Entry):
    """One photograph; sizes are pixels."""

    role: Role
    width: int
    height: int


class ImageIndex(_Document):
    """All photographs of a dataset, train and val, sorted by role and id."""

    images: tuple[ImageEntry, ...]

    def ids(self, role: Role) -> tuple[str, ...]:
        """Return the image ids of a role, sorted."""
        return tuple(entry.id for entry in self.images if entry.role == role)

    def entry(self, name: str) -> ImageEntry:
        """Return what is known of one image."""
        return _find(self._by_id, name)

    def file(self, name: str) -> IndexedFile:
        """Return a photograph as `read_image` takes it, which compares what it holds now."""
        return self._file(self.entry(name))

    def size(self, name: str) -> tuple[int, int]:
        """Return the (width, height) of a photograph."""
        entry = self.entry(name)
        return entry.width, entry.height

    def image(self, name: str) -> Image.Image:
        """Return a photograph, mode RGB; ArtifactError if its file is not the indexed one."""
        return read_image(self.file(name))

    @cached_property
    def _by_id(self) -> dict[str, ImageEntry]:
        return {entry.id: entry for entry in self.images}


class MaskEntry(_Entry):
    """One label map."""


class MaskIndex(_Document):
    """The label maps of one role, sorted by id, and all that is needed to decode them."""

    role: Role
    num_classes: int
    lookup: tuple[int, ...] | None
    """Stored value -> class id, where they differ (Pascal-Context)."""
    masks: tuple[MaskEntry, ...]

    def ids(self) -> tuple[str, ...]:
        """Return the image ids, sorted."""
        return tuple(entry.id for entry in self.masks)

    def label_map(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """Return raw class ids, 255 = void; ArtifactError if its file is not the indexed one."""
        file = self._file(_find(self._by_id, name))
        return read_label_map(file, self.num_classes, lookup=self.lookup)

    @cached_property
    def _by_id(self) -> dict[str, MaskEntry]:
        return {entry.id: entry for entry in self.masks}


def _write(path: Path, holds: str, content: dict[str, Any]) -> None:
    """Publish content wrapped with its schema and a checksum."""
    document = {
        "schema": INDEX.name,
        "holds": holds,
        "xxh3_128": _content_checksum(content),
        "content": content,
    }
    with publish(path) as temporary:
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _read(path: Path, holds: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = (document.get("schema"), document.get("holds"))
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); {_RERUN}") from error
    if found != (INDEX.name, holds):
        raise ArtifactError(f"{path}: holds {found}, not {(INDEX.name, holds)}; {_RERUN}")
    content = document.get("content")
    if document.get("xxh3_128") != _content_checksum(content):
        raise ArtifactError(f"{path}: content does not match its checksum; {_RERUN}")
    return content


def _find(entries: dict[str, Entry], name: str) -> Entry:
    if name not in entries:
        raise ArtifactError(f"{name}: this image is not in the index; rerun the stage 'index'")
    return entries[name]


def _content_checksum(content: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
