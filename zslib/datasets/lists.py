"""Image lists: text files with one id per line, as all official layouts have them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from zslib.errors import InputError

Role = Literal["train", "val"]
ROLES: tuple[Role, ...] = ("train", "val")


def read_ids(path: Path) -> tuple[str, ...]:
    """Return the ids of a list file in its order, duplicates included.

    Raises:
        InputError: it is missing, empty, or has a line that is not one bare id.
    """
    ids = tuple(line.strip() for line in read_lines(path, "an image list") if line.strip())
    if not ids:
        raise InputError(f"{path}: the list is empty; get the official list again")
    for name in ids:
        if len(name.split()) > 1 or {"/", "\\", "\0"} & set(name):
            raise InputError(
                f"{path}: '{name}' is not an image id; write one id per line, "
                f"without folder, suffix or second column"
            )
    return ids


def read_lines(path: Path, role: str) -> list[str]:
    """Return the lines of a small text file; `role` says in an error what it was wanted for."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing, wanted as {role}; {_CHECK}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as {role} ({error}); {_CHECK}") from error


def first_existing(candidates: Sequence[Path]) -> Path:
    """Return the first path that exists, or else the first one, to be named in the error."""
    return next((path for path in candidates if path.exists()), candidates[0])


def require_folder(root: Path, candidates: Sequence[Path]) -> Path:
    """Return the first of `candidates` that holds JPEGImages.

    Raises:
        InputError: `root` does not exist, or no candidate fits.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_CHECK}")
    for folder in candidates:
        if (folder / "JPEGImages").is_dir():
            return folder
    tried = ", ".join(str(folder / "JPEGImages") for folder in candidates)
    raise InputError(f"{root}: none of {tried} exists; {_CHECK}")


_CHECK = "check dataset.root, dataset.layout and dataset.lists"
