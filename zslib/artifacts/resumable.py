"""Files that take hours to fill: what a killed run wrote of one is not made again.

Such a file is filled in a folder of scratch, item by item in any order, by one process or by many. Beside
it stand the notes of each writer, a byte for each item, set once the item is on disk; two machines that
wrote into one file of notes could undo each other's. A full file is linked to its place, and stays in
scratch as well until the stage ends: a stage killed before that finds it, and only links it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from zslib.artifacts.publish import link_or_copy, publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import Mode, Room, allocate, finish, map_array, state
from zslib.errors import InputError

SECONDS_BETWEEN_FLUSHES = 5.0


class ResumableFile:
    """A file that `begin` has made, perhaps in a run before this one; no two writers share a number."""

    def __init__(self, path: Path, *, items: int, writer: int = 0) -> None:
        self._path, self._items = path, items
        self._notes = path.with_suffix(f".{writer}.done")
        # What is finished may be in its place already, and nothing there is ever written to.
        self._mode: Mode = "r+" if state(path) == "unfinished" else "r"
        self._arrays: dict[str, np.ndarray] = {}
        self._done = self._noted()
        self._flushed_at = time.monotonic()

    @classmethod
    def begin(
        cls, path: Path, arrays: Mapping[str, np.ndarray | Room], *, items: int
    ) -> "ResumableFile":
        """Open the file at `path`; if a run before has left none, make one with no item done.

        Raises:
            InputError: there is no room for it.
        """
        if state(path) == "lost":
            path.unlink(missing_ok=True)  # damaged, it would keep the room that the new one needs
            for notes in _notes_beside(path):
                notes.unlink()
            with publish(path) as temporary:
                allocate(temporary, arrays)
        return cls(path, items=items)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array of the file, to be written to."""
        if name not in self._arrays:
            self._arrays[name] = map_array(self._path, name, mode=self._mode)
        return self._arrays[name]

    @property
    def to_do(self) -> list[int]:
        """The items, in order, that no process has brought to disk yet."""
        return np.flatnonzero(~self._noted()).tolist()

    def _noted(self) -> Bool[np.ndarray, " items"]:
        """Return which items any of the writers has noted."""
        done = np.zeros(self._items, bool)
        for notes in _notes_beside(self._path):
            done |= np.fromfile(notes, bool)
        return done

    def note_done(self, item: int) -> None:
        """Note that all rows of an item are written."""
        self._done[item] = True
        if time.monotonic() - self._flushed_at > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Bring to disk what was written, and after it the notes."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):  # an empty one is not
                array.flush()
        with publish(self._notes) as temporary:
            temporary.write_bytes(self._done.tobytes())
        self._flushed_at = time.monotonic()

    def publish(self, out: Path, *, schema: Schema, meta: Mapping[str, Any]) -> None:
        """Describe the file, of which every item is done, and put it at `out`.

        Raises:
            InputError: items are missing.
        """
        self.flush()
        self._arrays.clear()
        if missing := self.to_do:
            raise InputError(
                f"{self._path}: {len(missing)} of {self._items} items are missing; rerun the stage, "
                "which makes those and no others"
            )
        if self._mode == "r+":
            finish(self._path, schema=schema, meta=meta)
        with publish(out) as temporary:
            link_or_copy(self._path, temporary)


def _notes_beside(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.stem}.*.done"))
