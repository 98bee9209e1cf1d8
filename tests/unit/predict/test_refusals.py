"""What `zslib predict` refuses in one line, having written nothing."""

from pathlib import Path

import pytest
from PIL import Image

from tests.unit.predict.project import invoke, refused
from zslib.errors import InputError
from zslib.predict import class_names


def test_a_broken_photograph_is_refused(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    Image.open("photo.png").save(path, exif=b"Exif\x00\x00broken")
    path.write_bytes(path.read_bytes()[:-200])
    assert "broken.jpg: is damaged" in refused(path, tmp_path / "out")


def test_a_missing_photograph_is_refused(project: Path, tmp_path: Path) -> None:
    assert "nowhere.jpg: is missing" in refused("nowhere.jpg", tmp_path / "out")


# --- artifacts, names, methods, benchmarks ---------------------------------------------------------


def test_a_missing_artifact_names_its_stage(project: Path, tmp_path: Path) -> None:
    line = refused("photo.png", tmp_path / "out", "--split", "u9")
    assert "artifacts/tiny/u9/simbaseline/network.safetensors" in line
    assert "dvc repro pipelines/simbaseline/dvc.yaml:network@u9" in line


@pytest.mark.parametrize(
    ("option", "message"), [("network", "is not NAME=PATH"), ("netwrk=x", "it reads clip, network")]
)
def test_an_artifact_that_is_not_read_is_refused(
    project: Path, tmp_path: Path, option: str, message: str
) -> None:
    assert message in refused("photo.png", tmp_path / "out", "--artifact", option)


@pytest.mark.parametrize(
    ("names", "message"),
    [("a", "is one class"), ("a,,b", "empty name"), ("a,b, a", "'a' is listed twice")],
)
def test_names_are_checked(names: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_names(names)


def test_an_unknown_method_is_told_which_there_are(project: Path, tmp_path: Path) -> None:
    line = refused("photo.png", tmp_path / "out", "--method", "cagnet")
    assert "for any names take simbaseline, " in line
    assert "for the benchmark's own also joem-frozen-head, zs3net, " in line


def test_an_unknown_benchmark_is_refused(project: Path, tmp_path: Path) -> None:
    line = refused("photo.png", tmp_path / "out", "--benchmark", "voc12")
    assert "there is no 'voc12'; there are only that of params.yaml, 'tiny'" in line


def test_a_folder_of_something_else_is_left_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    result = invoke("photo.png", tmp_path)
    assert result.exit_code == 2
    assert "is not a folder of an earlier prediction" in result.stderr
    assert (tmp_path / "holiday.txt").read_text() == "mine"
