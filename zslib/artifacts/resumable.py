"""Files that take hours to fill: what a killed run wrote of one is not made again.

Such a file is filled in a folder of scratch, item by item in any order, by one process or by many. Beside
it stand notes, a byte for each item, set once the item is on disk. A full one is linked to its place, and
stays in scratch as well until the stage ends: a stage killed before that finds it, and only links it.
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import Mode, Room, allocate, finish, map_array, state

SECONDS_BETWEEN_FLUSHES = 5.0


class ResumableFile:
    """A file that `begin` has made, perhaps in a run before this one."""

    def __init__(self, path: Path) -> None:
        self._path, self._notes = path, path.with_suffix(".done")
        # What is finished may be in its place already, and nothing there is ever written to.
        self._mode: Mode = "r+" if state(path) == "unfinished" else "r"
        self._arrays: dict[str, np.ndarray] = {}
        self._pending: list[int] = []
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
            with publish(path.with_suffix(".done")) as temporary:
                temporary.write_bytes(bytes(items))
            with publish(path) as temporary:
                allocate(temporary, arrays)
        return cls(path)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array of the file, to be written to."""
        if name not in self._arrays:
            self._arrays[name] = map_array(self._path, name, mode=self._mode)
        return self._arrays[name]

    @property
    def to_do(self) -> list[int]:
        """The items, in order, that no process has brought to disk yet."""
        return np.flatnonzero(np.fromfile(self._notes, np.uint8) == 0).tolist()

    def note_done(self, item: int) -> None:
        """Note that all rows of an item are written."""
        self._pending.append(item)
        if time.monotonic() - self._flushed_at > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Bring to disk what was written, and after it the notes."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):  # an empty one is not
                array.flush()
        with self._notes.open("r+b", buffering=0) as notes:
            for item in self._pending:
                notes.seek(item)
                notes.write(b"\1")
        self._pending, self._flushed_at = [], time.monotonic()

    def publish(self, out: Path, *, schema: Schema, meta: Mapping[str, Any]) -> None:
        """Describe the file, of which every item is done, and put it at `out`."""
        self.flush()
        self._arrays.clear()
        assert not self.to_do, f"{self._path}: items {self.to_do} are missing"
        if self._mode == "r+":
            finish(self._path, schema=schema, meta=meta)
        with publish(out) as temporary:
            try:
                os.link(self._path, temporary)
            except OSError:  # another disk, or one without links
                shutil.copyfile(self._path, temporary)
