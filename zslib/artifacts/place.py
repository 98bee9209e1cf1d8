"""Whether a command may write where the user wants it, asked before the work and not after it."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from zslib.artifacts.publish import explained_if_unwritable, publish
from zslib.errors import InputError


def refuse_place(out: Path, files: Collection[str] = ()) -> None:
    """Refuse a place where nothing can be published, or where something else would be replaced.

    What the command wrote there earlier is no hindrance: a file, or with `files` a folder of these
    alone. Nothing of the trial is left behind.

    Raises:
        InputError: it is such a place; the message says what is in the way.
    """
    with explained_if_unwritable(out):
        if out.exists():
            _refuse_to_replace(out, files)
        missing = [folder for folder in out.absolute().parents if not folder.exists()]
    try:
        with suppress(_BrokenOff), publish(out) as temporary:
            temporary.touch()
            raise _BrokenOff
    finally:
        for folder in missing:  # the deepest first
            with suppress(OSError):  # it was never made, or another process writes there by now
                folder.rmdir()


class _BrokenOff(Exception):
    """Ends a trial, of which `publish` leaves nothing."""


def _refuse_to_replace(out: Path, files: Collection[str]) -> None:
    if not files and not out.is_file():
        raise InputError(f"{out}: exists, and is not a file; name the file to be written")
    if files and not (out.is_dir() and {file.name for file in out.iterdir()} <= set(files)):
        raise InputError(
            f"{out}: exists, and is not a folder of {', '.join(files)} alone; name another folder"
        )
    if files and (out.samefile(Path.cwd()) or out.is_mount()):
        raise InputError(f"{out}: is in use, and cannot be replaced; name a folder in it")
