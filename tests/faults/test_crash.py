"""Faults 1, 2, 3: killed while writing, abandoned by DVC, and out of disk space."""

import errno
import fcntl
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from zslib.artifacts import publish
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.store import open_arrays, write_arrays
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.errors import InputError
from zslib.features import Photographs, extract, plan_dense
from zslib.training import SingleProcess

KILLS = 20
ROWS = 20_000


def killed_after(seconds: float, target: Callable[..., None], *arguments: object) -> int:
    """Run `target` in a process of its own, killed after a while; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


# --- fault 1: SIGKILL while writing --------------------------------------------------------------


def write_forever(write: Callable[..., None], path: Path) -> None:
    for version in range(1, 100_000):
        content = {"x": np.full(ROWS, version), "y": np.full(3, version)}
        write(path, content, schema=tiny.SCHEMA, meta={"version": version})


@pytest.mark.parametrize(
    ("write", "read"), [(write_arrays, open_arrays), (save_tensors, load_tensors)]
)
def test_fault_1_a_killed_writer_leaves_the_old_artifact_or_the_new(
    tmp_path: Path, write: Callable[..., None], read: Callable[..., tuple]
) -> None:
    path, moments = tmp_path / "artifact", random.Random(0)
    found = 0
    for kill in range(KILLS):
        # Later and later: on a slow machine a writer needs a while for its first version.
        moment = moments.uniform(0.001, 0.06 + 0.02 * kill)
        assert killed_after(moment, write_forever, write, path) == -9
        if path.exists():
            arrays, meta = read(path, schema=tiny.SCHEMA)
            assert len(arrays["x"]) == ROWS
            assert (arrays["x"] == meta["version"]).all()
            assert (arrays["y"] == meta["version"]).all()
            found += 1
    assert found > 0
    write(path, {"x": np.zeros(1)}, schema=tiny.SCHEMA, meta={})
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"], "leftovers of killed writers"


def write_folders_forever(path: Path) -> None:
    for version in range(100_000):
        with publish(path) as temporary:
            temporary.mkdir()
            for name in ("one", "two", "three"):
                (temporary / name).write_text(f"{version}")


def test_fault_1_a_killed_writer_of_a_folder_never_leaves_a_part_of_one(tmp_path: Path) -> None:
    path, moments = tmp_path / "folder", random.Random(1)
    found = 0
    for kill in range(KILLS):
        killed_after(moments.uniform(0.001, 0.04 + 0.02 * kill), write_folders_forever, path)
        if path.exists():
            versions = {(path / name).read_text() for name in ("one", "two", "three")}
            assert len(versions) == 1
            found += 1
    assert found > 0
    with publish(path) as temporary:
        temporary.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["folder"], "leftovers of killed writers"


IMAGES = 24


def slow_network(images: Tensor) -> Tensor:
    time.sleep(0.004)
    return images[:, :, ::4, ::4].float() / 255


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    maps = tiny.block_maps(IMAGES, range(9), side=16)
    return tiny.write_images(tmp_path_factory.mktemp("images"), maps)


def run_extraction(images: list[Path], out: Path, network: Callable[[Tensor], Tensor]) -> None:
    torch.set_num_threads(1)
    photographs = Photographs.of(images, [(16, 16)] * IMAGES, short_side=16, stride=4)
    extract(
        network,
        photographs,
        {out: plan_dense(photographs, tiny.image_ids(IMAGES))},
        dimension=3,
        batch_size=2,
        runtime=SingleProcess(),
        scratch=out.parent / "scratch",
    )


@pytest.fixture(scope="module")
def uninterrupted(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "dense.h5"
    run_extraction(images, out, slow_network)
    return out.read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_fault_1_a_killed_extraction_is_absent_and_its_rerun_gives_the_same_bytes(
    images: list[Path],
    uninterrupted: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    monkeypatch.setattr("zslib.artifacts.resumable.SECONDS_BETWEEN_FLUSHES", 0.0)
    out, moments = tmp_path / "dense.h5", random.Random(seed)
    kills = 0
    while not out.exists():
        seconds = moments.uniform(0.01, 0.03 + 0.01 * kills)
        kills += killed_after(seconds, run_extraction, images, out, slow_network) == -9
        assert kills < 60, "no progress from run to run"
    assert kills > 1
    assert out.read_bytes() == uninterrupted
    assert len(DenseMaps.open(out)) == IMAGES


def killed_in(function: str, images: list[Path], out: Path) -> None:
    """Extract, and be killed when a function is called."""
    pytest.MonkeyPatch().setattr(function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    run_extraction(images, out, slow_network)


@pytest.mark.parametrize(
    ("function", "left_to_do"),
    [
        ("zslib.artifacts.store._checksum", 0),
        ("h5py.File.flush", IMAGES),  # HDF5 does not open what was open for writing
        ("os.link", 0),
    ],
)
def test_fault_1_after_a_kill_at_the_end_no_image_is_seen_again_if_the_file_can_be_opened(
    images: list[Path], uninterrupted: bytes, tmp_path: Path, function: str, left_to_do: int
) -> None:
    out, seen = tmp_path / "dense.h5", []

    def counting(batch: Tensor) -> Tensor:
        seen.extend(batch)
        return slow_network(batch)

    assert killed_after(30, killed_in, function, images, out) == -9
    assert not out.exists()
    run_extraction(images, out, counting)
    assert out.read_bytes() == uninterrupted
    assert len(seen) == left_to_do


@pytest.mark.usefixtures("disk_per_folder")
def test_scratch_and_artifacts_may_be_on_two_disks(
    images: list[Path], uninterrupted: bytes, tmp_path: Path
) -> None:
    run_extraction(images, tmp_path / "dense.h5", slow_network)
    assert (tmp_path / "dense.h5").read_bytes() == uninterrupted


# --- fault 2: DVC is killed, its child must not go on --------------------------------------------

STAGE = """
import os, sys, time
from pathlib import Path
from stages.command import stage

@stage
def main(section, *, out):
    'Write late.'
    Path("child.pid").write_text(str(os.getpid()))
    time.sleep(float(os.environ["SECONDS"]))
    out.write_text("done")

main()
"""

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "stage.py", *sys.argv[1:]]).wait()
"""


@pytest.fixture
def stage_folder(tmp_path: Path) -> Path:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "parent.py").write_text(PARENT)
    return tmp_path


@contextmanager
def started(project: Path, folder: Path, script: str, seconds: float) -> Iterator[subprocess.Popen]:
    arguments = ["--params", str(project / "params.yaml"), "--out", "out.txt"]
    environment = os.environ | {"PYTHONPATH": str(project), "SECONDS": str(seconds)}
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def wait_for(condition: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
def test_fault_2_a_stage_dies_with_its_parent(project: Path, stage_folder: Path) -> None:
    pid_file = stage_folder / "child.pid"
    with started(project, stage_folder, "parent.py", 20) as parent:
        assert wait_for(lambda: pid_file.exists() and bool(pid_file.read_text()), seconds=20)
        child = int(pid_file.read_text())
        assert is_alive(child)
        os.kill(parent.pid, signal.SIGKILL)
        assert wait_for(lambda: not is_alive(child), seconds=2)
    assert not (stage_folder / "out.txt").exists()


def test_fault_2_a_second_run_is_refused_while_the_first_lives(
    project: Path, stage_folder: Path
) -> None:
    pid_file = stage_folder / "child.pid"
    with started(project, stage_folder, "stage.py", 20):
        assert wait_for(lambda: pid_file.exists() and bool(pid_file.read_text()), seconds=20)
        with started(project, stage_folder, "stage.py", 0) as second:
            _, message = second.communicate(timeout=20)
    assert second.returncode == 2
    assert message.count("\n") == 1
    assert "out.txt: another process is writing it" in message
    assert not (stage_folder / "out.txt").exists()
    with started(project, stage_folder, "stage.py", 0) as third:
        third.communicate(timeout=20)
    assert third.returncode == 0, "the lock goes with the process"
    assert (stage_folder / "out.txt").read_text() == "done"


# --- fault 3: no room ----------------------------------------------------------------------------


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


BIG = {"x": np.zeros(200_000)}


@pytest.mark.parametrize("write", [write_arrays, save_tensors])
def test_fault_3_no_room_is_a_clear_error_and_leaves_the_old_artifact(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    path = tmp_path / "artifact"
    write(path, {"x": np.ones(3)}, schema=tiny.SCHEMA, meta={})
    old = path.read_bytes()
    refusal = pytest.raises(InputError, match=r"artifact: no room to write it.*MiB free")
    with refusal, files_limited_to(100_000):
        write(path, BIG, schema=tiny.SCHEMA, meta={})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    write(path, BIG, schema=tiny.SCHEMA, meta={})


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_fault_3_a_full_disk_is_noticed_at_allocation_with_the_room_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    with pytest.raises(InputError, match=r"a\.h5: no room to write it \(2 MiB needed"):
        write_arrays(tmp_path / "a.h5", BIG, schema=tiny.SCHEMA, meta={})
    assert not list(tmp_path.iterdir())


def test_room_is_reserved_where_the_file_system_leaves_it_to_libc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then libc reads and writes, and answers EBADF unless both are allowed, at any place."""
    opened = []

    def noting(descriptor: int, *_: int) -> None:
        opened.append(fcntl.fcntl(descriptor, fcntl.F_GETFL))

    monkeypatch.setattr(os, "posix_fallocate", noting)
    write_arrays(tmp_path / "a.h5", BIG, schema=tiny.SCHEMA, meta={})
    assert opened
    for flags in opened:
        assert flags & os.O_ACCMODE == os.O_RDWR
        assert not flags & os.O_APPEND


def test_fault_3_an_extraction_without_room_is_the_same_clear_error(
    images: list[Path], uninterrupted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dense.h5"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full_disk)
        with pytest.raises(InputError, match=r"no room to write it .*MiB needed"):
            run_extraction(images, out, slow_network)
    assert not out.exists()
    run_extraction(images, out, slow_network)
    assert out.read_bytes() == uninterrupted


# --- a place where nothing can be written ----------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/artifact", "File exists"),
        ("file/folder/artifact", "Not a directory"),
        ("a" * 300, "File name too long"),
        ("a" * 250, "File name too long"),  # the temporary's name is longer
    ],
)
@pytest.mark.parametrize("write", [write_arrays, save_tensors])
def test_an_impossible_place_is_a_clear_error(
    tmp_path: Path, write: Callable[..., None], place: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    said = re.escape(f"{tmp_path / place}: cannot be written ({reason}); choose another place")
    with pytest.raises(InputError, match=f"^{said}$"):
        write(tmp_path / place, BIG, schema=tiny.SCHEMA, meta={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_folder_of_the_kernel_is_a_clear_error() -> None:
    said = r"^/proc/nope: cannot be written \(No such file or directory\); choose another place$"
    with pytest.raises(InputError, match=said):
        save_tensors(Path("/proc/nope"), BIG, schema=tiny.SCHEMA, meta={})


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_refuses_all_changes_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on a disk mounted to be read only, where even a file that is not there cannot be removed."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        if not path.is_dir():
            raise OSError(number, os.strerror(number), str(path))

    path = tmp_path / "artifact"
    path.write_text("old")
    for change in ("mkdir", "unlink"):
        monkeypatch.setattr(Path, change, refuse)
    said = re.escape(f"{path}: cannot be written ({os.strerror(number)})")
    with pytest.raises(InputError, match=said), publish(path) as temporary:
        temporary.mkdir()
    assert path.read_text() == "old"


def test_a_missing_file_that_was_to_be_read_is_no_matter_of_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), publish(tmp_path / "artifact"):
        (tmp_path / "input").read_bytes()


def test_a_folder_that_finds_no_room_tells_how_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: full_disk())
    path = tmp_path / "new" / "artifact"
    with pytest.raises(InputError, match=r"new/artifact: no room.*MiB free"), publish(path):
        pass
