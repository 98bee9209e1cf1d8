"""DVC does not look into its cache again: `make fsck` does."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from zslib.cli import main
from zslib.fsck import find_damage


def add(cache: Path, content: bytes, *, suffix: str = "") -> Path:
    """Store content as DVC does."""
    name = hashlib.md5(content).hexdigest() + suffix
    path = cache / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_sound_objects_are_counted(tmp_path: Path) -> None:
    for position in range(20):
        add(tmp_path, bytes([position]) * 100)
    add(tmp_path, b"[]", suffix=".dir")
    assert find_damage(tmp_path) == (21, [])


def test_each_kind_of_damage_is_found(tmp_path: Path) -> None:
    add(tmp_path, b"sound")
    flipped = add(tmp_path, b"one byte")
    flipped.write_bytes(b"ond byte")
    truncated = add(tmp_path, b"long content")
    truncated.write_bytes(b"long")
    listing = add(tmp_path, b'[{"relpath": "a", "md5": "b"}]', suffix=".dir")
    listing.write_bytes(b"[]")
    stray = tmp_path / "ab" / "unfinished.tmp"
    stray.parent.mkdir(exist_ok=True)
    stray.touch()
    count, damages = find_damage(tmp_path, threads=3)
    assert count == 5
    assert {damage.path for damage in damages} == {flipped, truncated, listing, stray}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project that has run: one stage with a file, one with a folder."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    dvc("config", "cache.type", "hardlink")
    stages = {
        "file": {"cmd": "printf content > file", "outs": ["file"]},
        "folder": {"cmd": "mkdir folder && printf inside > folder/a", "outs": ["folder"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc("repro")
    return tmp_path


def dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def damage_silently(path: Path) -> None:
    """Change the content, as a failing disk does: time and size tell nothing."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"X" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("output", "content"), [("file", "content"), ("folder/a", "inside")])
def test_damaged_outputs_are_made_anew(output: str, content: str, project: Path) -> None:
    damage_silently(project / output)
    assert "Data and pipelines are up to date" in dvc("status")  # what this command is for

    report = CliRunner().invoke(main, ["fsck"])
    assert report.exit_code == 2
    assert "1 damaged of" in report.output
    assert (project / output).exists()

    assert CliRunner().invoke(main, ["fsck", "--delete"]).exit_code == 2
    dvc("repro")
    assert (project / output).read_text() == content
    assert CliRunner().invoke(main, ["fsck"]).exit_code == 0


def test_outside_a_project_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["fsck"])
    assert result.exit_code == 2
    assert "no DVC project" in result.output
