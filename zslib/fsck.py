"""Re-hash the DVC cache: DVC trusts the name of a cached object and never looks inside again.

An object's name is the md5 of its content (folders have a listing, `.dir`, named the same way). A
flipped byte, a truncation, a write through a hard link: each shows as a name that does not fit.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zslib.errors import InputError


@dataclass(frozen=True)
class Damage:
    """A cached object that is not what its name says."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def find_cache(project: Path) -> Path:
    """Return the folder of cached objects, as this project's DVC configuration has it.

    Raises:
        InputError: `project` is not in a DVC repository.
    """
    return Path(_repository(project).cache.local.path)


def find_damage(cache: Path, *, threads: int | None = None) -> tuple[int, list[Damage]]:
    """Hash every object of a cache; return how many there are, and the damaged ones by name."""
    objects = sorted(path for path in cache.rglob("*") if path.is_file())
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:  # hashing frees the GIL
        findings = pool.map(_examine, objects)
        return len(objects), [damage for damage in findings if damage]


def remove_damage(project: Path, damages: list[Damage]) -> list[Path]:
    """Delete damaged objects, and the project's outputs with the same damage; return the latter.

    An output is often a hard link to its cached object, and DVC takes it for sound as long as its
    time and size are unchanged. Without both, the next `dvc repro` makes them anew.
    """
    names = {_name(damage.path) for damage in damages}
    outputs = [path for path, md5 in _outputs(project) if md5 in names and _is_damaged(path, md5)]
    for path in [*outputs, *(damage.path for damage in damages)]:
        path.unlink()
    return outputs


def _examine(path: Path) -> Damage | None:
    expected = _name(path).removesuffix(".dir")
    if len(expected) != hashlib.md5(usedforsecurity=False).digest_size * 2:
        return Damage(path, "is no object of DVC (its name is no md5)")
    if (found := _md5(path)) != expected:
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
