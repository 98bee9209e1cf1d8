"""Re-hash the DVC cache: DVC trusts the name of a cached object and never looks inside again.

An object's name is the md5 of its content (folders have a listing, `.dir`, named the same way). A
flipped byte, a truncation, a write through a hard link: each shows as a name that does not fit. What
has no such name is foreign, and none of our business.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zslib.errors import InputError

_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Damage:
    """A cached object that is not what its name says."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Findings:
    """What a cache holds: how many objects, the damaged ones, and files that are no objects."""

    objects: int
    damages: tuple[Damage, ...]
    foreign: tuple[Path, ...]


def find_cache(project: Path) -> Path:
    """Return the folder of cached objects, as this project's DVC configuration has it.

    Raises:
        InputError: `project` is not in a DVC repository.
    """
    return Path(_repository(project).cache.local.path)


def given_cache(folder: Path) -> Path:
    """Return the folder of cached objects of a cache by its root, or by that folder itself.

    A root keeps run-cache entries too, whose names are no md5 of their content.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise InputError(f"--cache: {folder} {what}; give the folder of a DVC cache")
    below = folder / "files" / "md5"
    return below if below.is_dir() else folder


def examine(cache: Path, *, threads: int | None = None) -> Findings:
    """Hash every object of a cache."""
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    objects = [path for path in files if _is_object(path, cache)]
    with ThreadPoolExecutor(
        threads or len(os.sched_getaffinity(0))
    ) as pool:  # hashing frees the GIL
        damages = tuple(damage for damage in pool.map(_damage_of, objects) if damage)
    return Findings(len(objects), damages, tuple(sorted({*files} - {*objects})))


def remove_damage(project: Path, damages: Sequence[Damage]) -> list[Path]:
    """Delete damaged objects, and the project's outputs with the same damage; return the latter.

    An output is often a hard link to its cached object, and DVC takes it for sound as long as its
    time and size are unchanged. Without both, the next `dvc repro` makes them anew.
    """
    names = {_name(damage.path) for damage in damages}
    outputs = [path for path, md5 in _outputs(project) if md5 in names and _is_damaged(path, md5)]
    for path in [*outputs, *(damage.path for damage in damages)]:
        path.unlink()
    return outputs


def _is_object(path: Path, cache: Path) -> bool:
    """Whether a file lies where DVC keeps objects, under the name that it gives them."""
    at_its_place = path.parent.parent == cache and len(path.parent.name) == 2
    return at_its_place and _OBJECT.fullmatch(_name(path)) is not None


def _damage_of(path: Path) -> Damage | None:
    if (found := _md5(path)) != _name(path).removesuffix(".dir"):
        return Damage(path, f"its content has md5 {found}")
    return None


def _name(path: Path) -> str:
    """The cache keeps the first two digits of an md5 as a folder."""
    return path.parent.name + path.name


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _is_damaged(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) != md5


def _outputs(project: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file that a stage wrote, with the md5 that dvc.lock has for it."""
    repository = _repository(project)
    cache = Path(repository.cache.local.path)
    for out in repository.index.outs:
        name, path = out.hash_info.value, Path(out.fs_path)
        if not name:
            continue
        if not name.endswith(".dir"):
            yield path, name
            continue
        for entry in _listing(cache / name[:2] / name[2:]):
            yield path / entry["relpath"], entry["md5"]


def _listing(path: Path) -> list[dict[str, str]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # absent or damaged: reported as an object of its own
        return []


def _repository(project: Path) -> Any:
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        return Repo(str(project))
    except NotDvcRepoError as error:
        raise InputError(f"{project}: no DVC project; run this in the project's folder") from error
