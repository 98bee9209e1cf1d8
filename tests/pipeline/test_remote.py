"""A DVC remote shares what was computed: another clone pulls it, and reruns no stage of it."""

from pathlib import Path

import pytest

from tests.pipeline.trivial import Project

STAGES = {
    # Each stage tells that it ran, in a file that belongs to no clone.
    "features": {
        "cmd": "echo features >> ${log} && mkdir -p features && seq ${size} > features/bank",
        "params": ["size"],
        "outs": ["features"],
    },
    "classifier": {
        "cmd": "echo classifier >> ${log} && tail -n ${rows} features/bank > classifier",
        "deps": ["features"],
        "params": ["rows"],
        "outs": ["classifier"],
    },
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "ran"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Project:
    """A project whose stages have run, and are pushed to a folder."""
    root, params = tmp_path_factory.mktemp("first"), {"size": 9, "rows": 1, "log": str(log)}
    made = Project.create(root, stages=STAGES, params=params)
    made.call("dvc", "repro")
    made.call("dvc", "remote", "add", "--default", "shared", str(tmp_path_factory.mktemp("remote")))
    made.commit()
    made.call("dvc", "push")
    return made


@pytest.fixture
def clone(project: Project, tmp_path: Path, log: Path) -> Project:
    """What another machine has after `git clone`: no artifact, and an empty cache."""
    made = Project(tmp_path / "second")
    project.call("git", "clone", "--quiet", str(project.root), str(made.root))
    assert not (made.root / "features").exists()
    log.write_text("")
    return made


def test_a_clone_pulls_the_features_and_has_nothing_to_run(
    project: Project, clone: Project, log: Path
) -> None:
    clone.call("dvc", "pull")
    for name in ("features/bank", "classifier"):
        assert (clone.root / name).read_bytes() == (project.root / name).read_bytes()
    assert "Data and pipelines are up to date." in clone.call("dvc", "repro")
    assert log.read_text() == ""


def test_a_variant_in_a_clone_reruns_only_what_follows_the_pulled_features(
    clone: Project, log: Path
) -> None:
    clone.call("dvc", "exp", "run", "--pull", "-S", "rows=2")
    assert (clone.root / "classifier").read_text() == "8\n9\n"
    assert log.read_text() == "classifier\n"


def test_what_was_run_and_never_committed_comes_with_the_run_cache(
    project: Project, clone: Project, log: Path
) -> None:
    project.call("dvc", "exp", "run", "-S", "rows=3")
    project.call("dvc", "push", "--run-cache")
    clone.call("dvc", "pull", "--run-cache")
    clone.call("dvc", "exp", "run", "--pull", "-S", "rows=3")
    assert (clone.root / "classifier").read_text() == "7\n8\n9\n"
    assert log.read_text() == "classifier\n"
