"""The command `zslib` as a user meets it: help, doctor, audit, leaderboard, and places to write to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from tools.compose_params import compose
from zslib.cli import main
from zslib.report.leaderboard import COLUMNS, to_csv

PROJECT = Path(__file__).resolve().parents[2]
ROW = {
    **dict.fromkeys(COLUMNS, 0.5),
    "benchmark": "world",
    "split": "u4",
    "method": "spnet",
    "protocol": "clean",
    "setting": "inductive",
    "seed": 0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of params.yaml for the built-in world, with a split of another name."""
    path = tmp_path_factory.mktemp("world") / "params.yaml"
    compose(path, "splits=[u]")
    return path.read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str) -> Path:
    """An empty project with a dataset of three classes, and params.yaml for it."""
    monkeypatch.chdir(tmp_path)
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for role, name in [("train", "a"), ("val", "b")]:
        (lists / f"{role}.txt").write_text(name)
        for sub, suffix, shape in [
            ("JPEGImages", "jpg", (4, 4, 3)),
            ("SegmentationClass", "png", (4, 4)),
        ]:
            path = tmp_path / "voc" / sub / f"{name}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full(shape, 1, np.uint8)).save(path)
    params = yaml.safe_load(world)
    params["benchmark"] |= {"classes": ["sky", "horse", "zebra"], "unseen": {"u": ["zebra"]}}
    params["selection"] = {"held_out": 1, "draws": 1, "candidates_from": "all"}
    params["dataset"] = {"layout": "voc12", "root": "voc", "lists": "train"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_help_is_there_before_anything_heavy_is_imported() -> None:
    script = """
import sys
from zslib.cli import main
main(["--help"], standalone_mode=False)
print(*sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    *text, modules = run.stdout.splitlines()
    assert not {"torch", "dvc", "transformers", "numpy", "PIL"} & set(modules.split())
    assert all(any(line.startswith(f"  {name} ") for line in text) for name in main.commands)
    assert "..." not in "".join(text[1:]), "a first sentence is too long for the list"


def test_doctor_says_what_the_images_hold(folder: Path) -> None:
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert "train: 1 images, 0.00% of the pixels void, classes never present: sky, zebra" in (
        result.output
    )
    assert result.output.endswith(
        "no problem(s) in voc, with the 3 classes of benchmark 'world' (params.yaml)\n"
    )


def test_doctor_lists_every_problem(folder: Path) -> None:
    (folder / "voc" / "JPEGImages" / "a.jpg").unlink()
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(folder / "voc/SegmentationClass/b.png")
    result = invoke("doctor")
    assert result.exit_code == 2
    assert "a.jpg: is missing" in result.output
    assert "b.png: holds label values 7" in result.output
    assert "2 problem(s) in voc" in result.output


def test_doctor_looks_where_it_is_told(folder: Path) -> None:
    (folder / "voc").rename(folder / "elsewhere")
    assert invoke("doctor").exit_code == 2
    assert invoke("doctor", "--root", "elsewhere").exit_code == 0
    result = invoke("doctor", "--root", "elsewhere", "--lists", "trainaug")
    assert result.exit_code == 2
    assert "trainaug.txt" in result.output


def test_doctor_refuses_a_root_that_is_empty(folder: Path) -> None:
    result = invoke("doctor", "--root", "")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "error: --root: is empty; " in result.stderr


def test_audit_refuses_a_negative_seed(folder: Path) -> None:
    result = invoke("audit", "--seed", "-1")
    assert result.exit_code == 2
    assert "'--seed': -1 is not in the range x>=0" in result.stderr


@pytest.mark.parametrize("command", ["doctor", "audit"])
def test_wrong_parameters_end_in_one_line(command: str, folder: Path) -> None:
    (folder / "params.yaml").write_text("seed: many")
    result = invoke(command)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "params.yaml: seed" in result.stderr


def test_a_benchmark_without_training_names_the_one_that_has(folder: Path) -> None:
    compose(folder / "params.yaml", "benchmark=ade20k")
    result = invoke("predict", "photo.png", "--classes", "road,sky")
    assert result.exit_code == 2
    assert "nothing is trained there; take cocostuff-simbaseline" in result.stderr


def test_debug_raises(folder: Path) -> None:
    (folder / "params.yaml").write_text("seed: many")
    assert type(invoke("doctor", "--debug").exception).__name__ == "InputError"


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_leaderboard_refuses_what_is_none(folder: Path, content: str | None) -> None:
    if content is not None:
        (folder / "board.csv").write_text(content)
    result = invoke("leaderboard", "board.csv")
    assert result.exit_code == 2
    assert "error: board.csv: " in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--experiments", "board.csv"]])
def test_leaderboard_takes_files_or_experiments(folder: Path, arguments: list[str]) -> None:
    result = invoke("leaderboard", *arguments)
    assert result.exit_code == 2
    assert "give one of both" in result.stderr


def test_leaderboard_averages_over_seeds(folder: Path) -> None:
    for seed, hiou in enumerate([0.4, 0.6]):
        (folder / f"{seed}.csv").write_text(to_csv([{**ROW, "seed": seed, "hiou": hiou}]))
    result = invoke("leaderboard", "0.csv", "1.csv")
    assert result.exit_code == 0, result.output
    assert "| spnet |" in result.output
    assert "50.0 ± 14.1" in result.output


def test_leaderboard_says_how_many_seeds_each_row_has(folder: Path) -> None:
    for seed in range(3):
        rows = [{**ROW, "seed": seed}]
        if seed != 1:
            rows.append({**ROW, "seed": seed, "method": "cagnet+st", "setting": "transductive"})
        (folder / f"{seed}.csv").write_text(to_csv(rows))
    result = invoke("leaderboard", "0.csv", "1.csv", "2.csv")
    assert result.exit_code == 0, result.output
    assert "| spnet | clean | inductive | 3 |" in result.output
    assert "| cagnet+st | clean | transductive | 2 of 3 |" in result.output


def test_leaderboard_refuses_a_run_given_twice(folder: Path) -> None:
    (folder / "board.csv").write_text(to_csv([ROW]))
    result = invoke("leaderboard", "board.csv", "board.csv")
    assert result.exit_code == 2
    assert "occurs twice" in result.stderr


# --- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("params.yaml/out", "cannot be written (File exists); choose another place"),
        (f"new/deep/{'a' * 250}", "cannot be written (File name too long); choose another place"),
        ("voc", "exists, and is not a file; name the file to be written"),
        ("/dev/null", "exists, and is not a file; name the file to be written"),
    ],
)
def test_a_place_is_refused_before_the_work_that_would_be_lost(
    folder: Path, place: str, reason: str
) -> None:
    before = sorted(folder.rglob("*"))
    result = invoke("text-vectors", "no/clip", "--source", "word2vec", "--out", place)
    assert result.exit_code == 2, result.output
    assert result.stderr == f"error: {place}: {reason}\n"
    assert sorted(folder.rglob("*")) == before
