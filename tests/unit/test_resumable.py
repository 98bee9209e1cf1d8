"""Files filled in scratch: any kill, any order, other disks (faults 1 and 9)."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from zslib.artifacts import resumable
from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.store import open_arrays, write_arrays
from zslib.errors import InputError

ITEMS = 6
ROWS = np.arange(2 * ITEMS, dtype=np.float16)
KNOWN = np.arange(3)
META = {"of": "test"}


def begun(folder: Path) -> ResumableFile:
    room = (ROWS.shape, ROWS.dtype)
    return ResumableFile.begin(folder / "work.h5", {"x": room, "known": KNOWN}, items=ITEMS)


def write(file: ResumableFile, item: int) -> None:
    file["x"][2 * item : 2 * item + 2] = ROWS[2 * item : 2 * item + 2]
    file.note_done(item)


def publish(file: ResumableFile, out: Path) -> Path:
    file.publish(out, schema=tiny.SCHEMA, meta=META)
    return out


def full(folder: Path) -> ResumableFile:
    file = begun(folder)
    for item in range(ITEMS):
        write(file, item)
    return file


def at_once(folder: Path) -> bytes:
    """What the file is if there is no hurry: everything at hand, written in one go."""
    out = folder / "at_once.h5"
    write_arrays(out, {"x": ROWS, "known": KNOWN}, schema=tiny.SCHEMA, meta=META)
    return out.read_bytes()


def die(*_: object, **__: object) -> None:
    raise tiny.KilledError


# --- item by item --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(order=st.permutations(range(ITEMS)), kills=st.sets(st.integers(0, ITEMS)))
def test_in_any_order_over_any_kills_the_bytes_are_those_of_one_go(
    order: list[int], kills: set[int]
) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr(resumable, "SECONDS_BETWEEN_FLUSHES", -1.0)
        file, written = begun(folder), []
        for item in order:
            if len(written) in kills:
                file = begun(folder)
            assert file.to_do == sorted(set(range(ITEMS)) - set(written))
            write(file, item)
            written.append(item)
        assert publish(file, folder / "out.h5").read_bytes() == at_once(folder)


def test_what_was_not_brought_to_disk_is_to_do(tmp_path: Path) -> None:
    file = begun(tmp_path)
    write(file, 2)
    file.flush()
    write(file, 0)
    assert begun(tmp_path).to_do == [0, 1, 3, 4, 5]


def test_rows_are_on_disk_before_the_notes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begun(tmp_path)
    write(file, 2)
    monkeypatch.setattr(np.memmap, "flush", die)
    with pytest.raises(tiny.KilledError):
        file.flush()
    assert 2 in begun(tmp_path).to_do


def test_a_file_with_items_to_do_is_not_published(tmp_path: Path) -> None:
    file = begun(tmp_path)
    write(file, 2)
    with pytest.raises(InputError, match=r"work\.h5: 5 of 6 items are missing; rerun the stage"):
        publish(file, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_writers_keep_notes_apart_and_see_those_of_all(tmp_path: Path) -> None:
    """In one file, a page that one machine writes back takes the notes of another with it."""
    first = begun(tmp_path)
    second = ResumableFile(tmp_path / "work.h5", items=ITEMS, writer=1)
    for file, items in ((first, (0, 2, 4)), (second, (1, 3, 5))):
        before = {notes: notes.read_bytes() for notes in tmp_path.glob("*.done")}
        for item in items:
            write(file, item)
        file.flush()
        assert all(notes.read_bytes() == content for notes, content in before.items())
    assert begun(tmp_path).to_do == []
    assert publish(first, tmp_path / "out.h5").read_bytes() == at_once(tmp_path)


def test_notes_of_a_lost_file_are_lost_whoever_wrote_them(tmp_path: Path) -> None:
    begun(tmp_path)
    other = ResumableFile(tmp_path / "work.h5", items=ITEMS, writer=1)
    write(other, 3)
    other.flush()
    (tmp_path / "work.h5").unlink()
    assert begun(tmp_path).to_do == list(range(ITEMS))


def test_a_file_of_no_items_is_published(tmp_path: Path) -> None:
    room = ((0, 3), np.dtype(np.float16))
    file = ResumableFile.begin(tmp_path / "work.h5", {"x": room}, items=0)
    arrays, _ = open_arrays(publish(file, tmp_path / "out.h5"), schema=tiny.SCHEMA)
    assert arrays["x"].shape == (0, 3)


def test_no_room_is_told_where_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    with pytest.raises(InputError, match=r"work\.h5: no room to write it .*MiB needed"):
        begun(tmp_path)


# --- the end -------------------------------------------------------------------------------------


def test_killed_between_finishing_and_placing_it_is_only_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", die)
        with pytest.raises(tiny.KilledError):
            publish(full(tmp_path), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    monkeypatch.setattr(resumable, "allocate", die)
    monkeypatch.setattr(resumable, "finish", die)
    again = begun(tmp_path)
    assert again.to_do == []
    assert publish(again, tmp_path / "out.h5").read_bytes() == at_once(tmp_path)


def test_what_is_placed_and_lost_again_is_only_placed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first file of a folder that is published with the last one."""
    publish(full(tmp_path), tmp_path / "out.h5").unlink()
    monkeypatch.setattr(resumable, "finish", die)
    assert publish(begun(tmp_path), tmp_path / "out.h5").read_bytes() == at_once(tmp_path)


def test_nothing_is_written_to_what_is_in_its_place(tmp_path: Path) -> None:
    publish(full(tmp_path), tmp_path / "out.h5")
    with pytest.raises(ValueError, match="read-only"):
        write(begun(tmp_path), 0)


def test_killed_while_finishing_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("h5py.File.flush", die)
        with pytest.raises(tiny.KilledError):
            publish(full(tmp_path), tmp_path / "out.h5")
    assert begun(tmp_path).to_do == list(range(ITEMS))
    assert publish(full(tmp_path), tmp_path / "out.h5").read_bytes() == at_once(tmp_path)


# --- another disk --------------------------------------------------------------------------------


@pytest.mark.usefixtures("disk_per_folder")
def test_from_another_disk_it_is_copied(tmp_path: Path) -> None:
    scratch, artifacts = tmp_path / "scratch", tmp_path / "artifacts"
    out = publish(full(scratch), artifacts / "out.h5")
    assert out.read_bytes() == at_once(scratch)
    assert list(artifacts.iterdir()) == [out]


@pytest.mark.usefixtures("disk_per_folder")
def test_killed_while_copied_it_is_only_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: Path, target: Path) -> None:
        content = source.read_bytes()
        target.write_bytes(content[: len(content) // 2])
        raise tiny.KilledError

    scratch, artifacts = tmp_path / "scratch", tmp_path / "artifacts"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", half)
        with pytest.raises(tiny.KilledError):
            publish(full(scratch), artifacts / "out.h5")
    assert not list(artifacts.iterdir())
    monkeypatch.setattr(resumable, "finish", die)
    assert publish(begun(scratch), artifacts / "out.h5").read_bytes() == at_once(scratch)
