"""DVC does not look into its cache again: `make fsck` does."""

import hashlib
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from zslib.cli import main
from zslib.fsck import Findings, examine


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
    assert examine(tmp_path) == Findings(21, (), ())


def test_each_kind_of_damage_is_found(tmp_path: Path) -> None:
    add(tmp_path, b"sound")
    flipped = add(tmp_path, b"one byte")
    flipped.write_bytes(b"ond byte")
    truncated = add(tmp_path, b"long content")
    truncated.write_bytes(b"long")
    listing = add(tmp_path, b'[{"relpath": "a", "md5": "b"}]', suffix=".dir")
    listing.write_bytes(b"[]")
    found = examine(tmp_path, threads=3)
    assert found.objects == 4
    assert {damage.path for damage in found.damages} == {flipped, truncated, listing}


MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    "name",
    [
        "ab/unfinished.tmp",
        f"{MD5[:2]}/{MD5[2:]}.unfinished",
        f"{MD5[:2]}/{MD5[2:].upper()}",
        f"{MD5[:2]}/deeper/{MD5[2:]}",
        f"{MD5[:1]}/{MD5[1:]}",
        MD5,
        "docs/thesis.tex",
    ],
)
def test_what_has_no_name_of_an_object_is_foreign(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not what the name says")
    assert examine(tmp_path) == Findings(0, (), (path,))


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


def test_a_folder_that_is_no_cache_keeps_its_files(project: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "home" / "docs" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    result = CliRunner().invoke(main, ["fsck", "--cache", str(tmp_path / "home"), "--delete"])
    assert result.exit_code == 0, result.output
    assert thesis.read_text() == "years of work"
    assert f"1 file(s) are no objects of DVC and stay, such as {thesis}" in result.output
    assert "home: holds no objects; is it the folder of a DVC cache?" in result.output
    assert "no damaged of 0 objects" in result.output


def test_the_root_of_a_cache_holds_entries_of_runs_that_are_left_alone(project: Path) -> None:
    root = project / ".dvc" / "cache"
    entry = root / "runs" / "ab" / ("ab" * 32) / ("cd" * 32)
    entry.parent.mkdir(parents=True)
    entry.write_text("cmd: python -m stages.backbone")
    damage_silently(project / "file")
    result = CliRunner().invoke(main, ["fsck", "--cache", str(root), "--delete"])
    assert "1 damaged of 3 objects" in result.output
    assert entry.exists()
    assert not (project / "file").exists()


@pytest.mark.parametrize(("name", "said"), [("nowhere", "does not exist"), ("a", "is no folder")])
def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a").touch()
    result = CliRunner().invoke(main, ["fsck", "--cache", str(tmp_path / name)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: --cache: {tmp_path / name} {said}; ")
    assert result.stderr.count("\n") == 1


def test_outside_a_project_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["fsck"])
    assert result.exit_code == 2
    assert "no DVC project" in result.output
