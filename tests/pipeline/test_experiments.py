"""`zslib leaderboard --experiments` on real DVC experiments, in a project of one trivial stage."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.pipeline.trivial import Project
from zslib.cli import main
from zslib.errors import InputError
from zslib.report.experiments import Run, read_runs, rows_of, variants
from zslib.report.leaderboard import BOUNDED, FIGURES, IDENTITY, RESTRICTED

STAGE = f"""
import json, sys, yaml
from pathlib import Path

params = yaml.safe_load(Path("params.yaml").read_text())
split, value = sys.argv[1], 0.1 * params["seed"] + 0.01 * params["spnet"]["lr"] + 0.2
scores = dict.fromkeys({FIGURES}, value)
scores |= {{"split": split, "method": "spnet", "protocol": "clean", "setting": "inductive"}}
scores |= {{"seed": params["seed"], "class_iou": {{"zebra": None}}}}
scores |= {{"interval95": dict.fromkeys({BOUNDED}, [0.1, 0.9])}}
scores |= {{"protocols": {{"restricted_to_unseen": {{"miou_unseen": value}}}}}}
out = Path("results/world", f"{{split}}-spnet-clean.json")
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(json.dumps(scores))
"""
PIPELINE = {
    "evaluate": {
        "matrix": {"split": "${splits}"},
        "cmd": "python stages/evaluate.py ${item.split}",
        "deps": ["artifacts/code/evaluate.txt"],
        "params": ["seed", "spnet"],
        "metrics": [{"results/world/${item.split}-spnet-clean.json": {"cache": False}}],
    }
}
PARAMS = {"seed": 0, "splits": ["u4"], "spnet": {"lr": 1.0}, "compute": {"device": "cpu"}}


def experiment(project: Project, name: str, *changes: str) -> None:
    """Run an experiment; the workspace then is the last commit again."""
    options = [word for change in changes for word in ("-S", change)]
    project.call("dvc", "exp", "run", "--name", name, *options)
    project.call("git", "checkout", "--quiet", "--force", ".")


def write_stage(project: Project, text: str) -> None:
    """Write the stage's module, and the list of its code as the stage `code` would."""
    project.write("stages/evaluate.py", text)
    project.write("artifacts/code/evaluate.txt", text)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Seed 0 committed; seeds 1 and 2 as experiments. Scores tell seed and rate."""
    root = tmp_path_factory.mktemp("seeds")
    project = Project.create(root, stages=PIPELINE, params=PARAMS)
    write_stage(project, STAGE)
    project.call("dvc", "repro")
    project.commit()
    experiment(project, "one", "seed=1")
    experiment(project, "two", "seed=2", "compute.device=cuda")  # no score depends on the device
    return project


@pytest.fixture
def project(seeds: Project, tmp_path: Path) -> Project:
    """A copy of `seeds`, to make further experiments in."""
    return Project(Path(shutil.copytree(seeds.root, tmp_path / "copy", symlinks=True)))


def leaderboard(project: Project, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(project.root)
    return CliRunner().invoke(main, ["leaderboard", "--experiments"])


def test_the_last_commit_and_two_experiments_are_three_seeds(
    seeds: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = leaderboard(seeds, monkeypatch)
    assert result.exit_code == 0, result.output
    assert "| world | u4 | spnet | clean | inductive | 3 | 31.0 ± 10.0 |" in result.output
    assert result.output.splitlines()[-1] == "variant 1: world: main, one, two"


def test_another_rate_and_other_code_are_variants_of_their_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The commit of `fast` still holds the row of u4 at the old rate, which its pipeline does not write.
    experiment(project, "fast", "seed=1", "spnet.lr=5.0", "splits=[u2]")
    write_stage(project, STAGE.replace("+ 0.2", "+ 0.3"))
    experiment(project, "edited", "seed=1")
    result = leaderboard(project, monkeypatch)
    assert result.exit_code == 0, result.output
    table = [line.split(" | ")[1:8] for line in result.output.splitlines() if "spnet" in line][:3]
    kind = ["spnet", "clean", "inductive"]
    assert table == [
        ["u2", *kind, "2", "1 of 3", "35.0"],
        ["u4", *kind, "1", "3", "31.0 ± 10.0"],
        ["u4", *kind, "3", "1 of 3", "41.0"],
    ]
    first, second, third = result.output.splitlines()[-3:]
    assert re.fullmatch(
        r"variant 1: world; spnet.lr=1.0; code of evaluate=\w{8}: .*, one, two", first
    )
    assert re.fullmatch(r"variant 2: world; spnet.lr=5.0; code of evaluate=\w{8}: fast", second)
    assert third.split("=")[-1] != first.split("=")[-1]


def test_what_an_experiment_holds_is_checked(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stage(project, STAGE.replace('"inductive"', '"unknown"'))
    experiment(project, "odd", "seed=1")
    result = leaderboard(project, monkeypatch)
    assert result.exit_code == 2
    assert re.search(r"error: odd:results/world/u4-spnet-clean.json: setting: .*\n$", result.stderr)


def test_without_experiments_of_the_last_commit_it_says_how_to_make_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("notes.txt", "")
    project.commit()
    result = leaderboard(project, monkeypatch)
    assert result.exit_code == 2
    assert "no experiment was made from the last commit" in result.stderr
    assert "`dvc exp run -S seed=1`" in result.stderr


def test_a_folder_without_dvc_or_git_is_refused(tmp_path: Path) -> None:
    from dvc.repo import Repo

    with pytest.raises(InputError, match="DVC cannot read experiments"):
        read_runs(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    with pytest.raises(InputError, match="is not under git"):
        read_runs(tmp_path)


# --- which runs are alike ------------------------------------------------------------------------


def run(name: str, *, seed: int, hiou: float = 0.5, lr: str = "1", **options: Any) -> Run:
    row = dict(zip(IDENTITY, ("world", "u4", "spnet", "clean", "inductive", seed), strict=True))
    row |= dict.fromkeys((*FIGURES, RESTRICTED), 0.5) | {"hiou": hiou}
    given = {"benchmark": "world", "params": {"lr": lr}, "code": {}} | options
    return Run(name=name, rows=(row,), **given)


def test_a_seed_that_ran_twice_counts_once_and_must_be_the_same() -> None:
    twice = [run("a", seed=0), run("b", seed=0), run("c", seed=1)]
    assert [row["seed"] for row in rows_of(variants(twice))] == [0, 1]
    with pytest.raises(InputError, match=r"b: has other scores than a .*world u4 spnet .* 0"):
        list(rows_of(variants([run("a", seed=0), run("b", seed=0, hiou=0.4)])))


def test_runs_of_several_benchmarks_are_compared_within_each() -> None:
    found = variants(
        [run("a", seed=0), run("b", seed=1), run("c", seed=0, benchmark="voc12", lr="2")]
    )
    assert [str(variant) for variant in found] == ["world: a, b", "voc12: c"]
    assert [row["variant"] for row in rows_of(found)] == [1, 1, 2]


def test_a_parameter_that_is_missing_is_a_difference_and_a_stage_is_none() -> None:
    found = variants([run("a", seed=0), run("b", seed=1, params={"lr": "1", "decay": "2"})])
    assert [str(variant) for variant in found] == ["world; decay=none: a", "world; decay=2: b"]
    code = {"evaluate": "0123"}
    assert len(variants([run("a", seed=0, code=code), run("b", seed=1)])) == 1
    other = {"evaluate": "4567"}
    assert len(variants([run("a", seed=0, code=code), run("b", seed=1, code=other)])) == 2


def test_a_variant_with_many_parameters_names_some_and_counts_the_rest() -> None:
    params = {f"p{i}": "0" for i in range(8)}
    first, _ = variants([run("a", seed=0, params=params), run("b", seed=0, params={})])
    assert str(first) == "world; p0=0; p1=0; p2=0; p3=0; p4=0; p5=0; 2 more: a"
