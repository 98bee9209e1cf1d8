"""The one door through which an artifact reaches its place: write beside it, fsync, rename.

A crash at any moment leaves the old artifact or none, never a part of one. Every artifact gets a new
inode, so files that DVC hard-linked into its cache are never written through.
"""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zslib.errors import InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PLACE = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT),
    *(errno.ENAMETOOLONG, errno.EBUSY),
}


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move what was written there into place on success.

    The body writes either a file or a folder at the yielded path (which does not exist yet). If the
    body raises, the temporary is removed and an old artifact at `path` stays as it was.

    Raises:
        InputError: the disk is full (the message says how much room is left), or `path` is where
            nothing can be written.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    with _explained_if_full(path), explained_if_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        try:
            yield temporary
            _move_into_place(temporary, path)
        finally:
            _remove(temporary)


@contextmanager
def _explained_if_full(path: Path) -> Iterator[None]:
    """Turn a full disk into an InputError that says what `path` needs."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(_existing(path.absolute().parent)).free
        raise InputError(
            f"{path}: no room to write it ({error.strerror}; {free / 2**20:.0f} MiB free on this "
            "disk); free some space or move the project, then rerun. The old artifact, if any, is "
            "intact"
        ) from error


@contextmanager
def explained_if_unwritable(path: Path) -> Iterator[None]:
    """Turn what the system has against writing at `path` into an InputError.

    An error about any other file is none of it, and goes through.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE or not _concerns(error, path):
            raise
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about `path`, a folder on the way to it, or what is written beside it."""
    if not isinstance(error.filename, str | Path):
        return False
    named, beside = Path(error.filename), path.parent / f".{path.name}.{os.getpid()}."
    return named in (path, *path.parents) or str(named).startswith(str(beside))


def _existing(folder: Path) -> Path:
    return folder if folder.is_dir() else _existing(folder.parent)


def _move_into_place(source: Path, path: Path) -> None:
    """Flush `source` (a file or a folder) to disk and rename it to `path`, replacing what is there."""
    for file in [source] if source.is_file() else sorted(source.rglob("*")):
        if file.is_file():
            _fsync(file)
    if path.is_dir() or (path.exists() and source.is_dir()):
        discarded = source.with_suffix(".old")
        path.rename(discarded)
        source.rename(path)
        _remove(discarded)
    else:
        source.replace(path)
    _fsync(path.parent)


def link_or_copy(source: Path, out: Path) -> None:
    """Give a file that nobody writes to any more a second place, inside what is being published."""
    try:
        os.link(source, out)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, out)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif os.path.lexists(path):  # a disk that cannot be written refuses even to remove nothing
        path.unlink()


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of this artifact, and this process's own temporary."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        process, _, kind = leftover.name.removeprefix(f".{path.name}.").partition(".")
        if process.isdecimal() and kind in ("tmp", "old") and not _is_other_process(int(process)):
            _remove(leftover)


def _is_other_process(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
