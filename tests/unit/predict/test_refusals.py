"""What `zslib predict` refuses in one line, having written nothing."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.unit.predict.project import PROJECT, invoke, predicted, refused
from tests.unit.tiny_clip import tiny_clip
from zslib.cli import main
from zslib.errors import InputError
from zslib.params import load_params
from zslib.predict import Artifacts, chosen_params, class_names
from zslib.predict.artifacts import Artifact
from zslib.predict.methods import METHODS
from zslib.predict.spelling import spelled


def test_a_broken_photograph_is_refused(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    Image.open("photo.png").save(path, exif=b"Exif\x00\x00broken")
    path.write_bytes(path.read_bytes()[:-200])
    assert "broken.jpg: is damaged" in refused(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("nowhere.jpg", "is missing"),
        ("artifacts", "cannot be read (Is a directory)"),
        ("words.txt", "is no readable JPEG or PNG picture"),
    ],
)
def test_what_is_no_photograph_is_refused(
    project: Path, tmp_path: Path, given: str, what: str
) -> None:
    line = refused(given, tmp_path / "out")
    assert line == f"error: {given}: {what}; give a JPEG or PNG photograph of 8 bits, RGB or grey"


# --- artifacts, names, methods, benchmarks ---------------------------------------------------------


def test_a_missing_artifact_names_its_stage(project: Path, tmp_path: Path) -> None:
    options = ("--method", "joem-frozen-head")
    line = refused("photo.png", tmp_path / "out", *options)
    assert (
        "artifacts/tiny/tiny/joem/frozen_head/classifier.safetensors: there is no such artifact"
        in line
    )
    assert "run `dvc repro pipelines/joem/dvc.yaml:frozen_head@tiny`, which makes it" in line


def test_an_artifact_that_no_stage_makes_yet_names_the_parameters_too(
    project: Path, tmp_path: Path
) -> None:
    line = refused("photo.png", tmp_path / "out", "--split", "u9")
    assert "artifacts/tiny/u9/simbaseline/network.safetensors" in line
    stage = "pipelines/simbaseline/dvc.yaml:network@u9"
    assert f"run `dvc exp run -S 'splits=[u9]' {stage}`, which makes it" in line


@pytest.mark.parametrize(
    ("split", "changes"),
    [("u2", ["-S benchmark=voc12"]), ("animals", ["-S benchmark=voc12", "-S 'splits=[animals]'"])],
)
def test_an_artifact_of_another_benchmark_names_it(split: str, changes: list[str]) -> None:
    in_force = load_params(PROJECT / "params.yaml")
    other = chosen_params(PROJECT / "params.yaml", "voc12")
    artifacts = Artifacts.of(other, split, {}, in_force=in_force)
    assert artifacts.root == Path("artifacts/voc12")
    command = " ".join(["dvc exp run", *changes, f"train@{split}"])
    with pytest.raises(InputError, match=re.escape(f"run `{command}`, which makes it")):
        artifacts.find("head", Artifact("{split}/head", "train@{split}"))


def test_an_unknown_split_is_told_which_there_are(project: Path, tmp_path: Path) -> None:
    line = refused("photo.png", tmp_path / "out", "--split", "nope")
    assert line == "error: --split: 'nope' is not one of tiny's, tiny, u9; choose one of them"


@pytest.mark.parametrize(
    ("option", "message"), [("network", "is not NAME=PATH"), ("netwrk=x", "it reads clip, network")]
)
def test_an_artifact_that_is_not_read_is_refused(
    project: Path, tmp_path: Path, option: str, message: str
) -> None:
    assert message in refused("photo.png", tmp_path / "out", "--artifact", option)


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("network", "artifacts", "is a folder, where artifacts/tiny/tiny/simbaseline/network."),
        ("clip", "photo.png", "is a file, where artifacts/tiny/clip/model is a folder"),
    ],
)
def test_a_folder_is_no_file_nor_the_other_way_round(
    project: Path, tmp_path: Path, name: str, path: str, message: str
) -> None:
    line = refused("photo.png", tmp_path / "out", "--artifact", f"{name}={path}")
    assert line.startswith(f"error: {path}: {message}")


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


# --- places -----------------------------------------------------------------------------------------


@pytest.fixture
def no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place is refused before the work, not after it."""

    def predicts(_: object) -> None:
        raise AssertionError("the place should have been refused by now")

    monkeypatch.setitem(METHODS, "simbaseline", predicts)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_prediction")
def test_a_folder_of_something_else_is_left_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    result = invoke("photo.png", tmp_path)
    assert result.exit_code == 2
    assert f"error: {tmp_path}: exists, and is not a folder of picture.png, " in result.stderr
    assert (tmp_path / "holiday.txt").read_text() == "mine"


@pytest.mark.usefixtures("no_prediction")
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("photo.png/out", "File exists"),
        ("a" * 300, "File name too long"),
        (f"new/deep/{'a' * 250}", "File name too long"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_refused(
    project: Path, place: str, reason: str
) -> None:
    before = sorted(project.rglob("*"))
    result = invoke("photo.png", Path(place))
    assert result.exit_code == 2, result.output
    assert f"error: {place}: cannot be written ({reason}); choose another place\n" in result.stderr
    assert sorted(project.rglob("*")) == before


@pytest.mark.usefixtures("no_prediction")
def test_the_current_folder_is_not_replaced(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph, params = project / "photo.png", project / "params.yaml"
    monkeypatch.chdir(tmp_path)
    result = invoke(photograph, Path(), "--params", str(params))
    assert result.exit_code == 2, result.output
    assert result.stderr == "error: .: is in use, and cannot be replaced; name a folder in it\n"


def test_a_photograph_of_too_long_a_name_is_refused(project: Path) -> None:
    arguments = ["predict", "a" * 300 + ".png", "--classes", "a,b"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.endswith("cannot be written (File name too long); choose another place\n")


# --- names that CLIP reads -------------------------------------------------------------------------


LONG = " ".join(["polar bear"] * 40)


def test_a_name_that_the_text_tower_has_no_positions_for_is_refused(
    project: Path, tmp_path: Path
) -> None:
    line = refused("photo.png", tmp_path / "out", names=("g box", LONG))
    assert line.startswith(f"error: --classes: '{LONG}' is ")
    assert line.endswith("tokens long in a sentence, CLIP's text tower takes 77; shorten the name")


def test_names_that_are_spelled_are_named(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predicted(
        "photo.png", tmp_path / "out", names=("polar bear", "xylophone", "grass", "quiz show")
    )
    (message,) = [
        record.getMessage() for record in caplog.records if record.name == "zslib.predict.spelling"
    ]
    assert message.startswith("warning: --classes: CLIP can only spell 'quiz show', 'xylophone', ")
    assert "\n" not in message


def test_names_of_known_words_and_single_letters_are_not_spelled() -> None:
    assert spelled(tiny_clip().tokenizer, ("polar bear", "a zebra", "bus 7", "r")) == []
