"""DVC does not look into its cache again: `make fsck` does."""

import hashlib
import os
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
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\n[cache]\ntype = hardlink\n")
    stages = {
        "file": {"cmd": "printf content > file", "outs": ["file"]},
        "folder": {"cmd": "mkdir folder && printf inside > folder/a", "outs": ["folder"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    reproduce(tmp_path)
    return tmp_path


def reproduce(project: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(project)) as repository:
        repository.reproduce()


def is_up_to_date(project: Path) -> bool:
    from dvc.repo import Repo

    with Repo(str(project)) as repository:
        return not repository.status()


def damage_silently(path: Path) -> None:
    """Change the content, as a failing disk does: time and size tell nothing."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"X" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_damaged_outputs_are_made_anew(project: Path) -> None:
    contents = {project / "file": "content", project / "folder" / "a": "inside"}
    for output in contents:
        damage_silently(output)
    assert is_up_to_date(project)  # so says DVC, which is why this command exists

    report = CliRunner().invoke(main, ["fsck"])
    assert report.exit_code == 2
    assert "2 damaged of 3 objects" in report.output
    assert all(output.exists() for output in contents)

    assert CliRunner().invoke(main, ["fsck", "--delete"]).exit_code == 2
    reproduce(project)
    assert {output: output.read_text() for output in contents} == contents
    assert CliRunner().invoke(main, ["fsck"]).exit_code == 0


def test_outside_a_project_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["fsck"])
    assert result.exit_code == 2
    assert "no DVC project" in result.output
