"""The one door through which an artifact reaches its place: write beside it, fsync, rename.

A crash at any moment leaves the old artifact or none, never a part of one. Every artifact gets a new
inode, so files that DVC hard-linked into its cache are never written through.
"""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zslib.errors import InputError


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move what was written there into place on success.

    The body writes either a file or a folder at the yielded path (which does not exist yet). If the
    body raises, the temporary is removed and an old artifact at `path` stays as it was.

    Raises:
        InputError: the disk is full; the message says how much room is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    _remove_leftovers(path)
    try:
        with explained_if_full(path):
            yield temporary
            move_into_place(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def explained_if_full(path: Path) -> Iterator[None]:
    """Turn a full disk into an InputError that says what `path` needs."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def move_into_place(source: Path, path: Path) -> None:
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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


def _explained(error: OSError, path: Path) -> Exception:
    import errno

    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    free = shutil.disk_usage(path.parent).free
    return InputError(
        f"{path}: no room to write it ({error.strerror}; {free / 2**20:.0f} MiB free on this disk); "
        f"free some space or move the project, then rerun. The old artifact, if any, is intact"
    )
