"""The whole pipeline by DVC, in a copy of the project, on a world of sixty pictures."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.compose_params import compose

PROJECT = Path(__file__).resolve().parents[2]
METHODS = {
    ("spnet", "clean"),
    ("spnet-c", "clean"),
    ("spnet-e2e", "clean"),
    ("spnet-c-e2e", "clean"),
    ("zs3net", "clean"),
    ("zs3net", "official"),
    ("zs3net+st", "clean"),
    ("zs3net-gc", "clean"),
    ("zs3net-gc+st", "clean"),
    ("cagnet", "clean"),
    ("cagnet", "official"),
    ("cagnet+st", "clean"),
    ("cagnet-e2e", "clean"),
    ("cagnet-v2", "clean"),
    ("joem", "clean"),
    ("joem-frozen", "clean"),
    ("joem-frozen-head", "clean"),
    ("sazs", "clean"),
    ("simbaseline", "clean"),
    ("simbaseline", "official"),
    ("simbaseline+st", "clean"),
    ("simbaseline-queries", "clean"),
    ("simbaseline-regions", "clean"),
    ("simbaseline-oracle", "official"),
    *((f"simbaseline-{row}", "clean") for row in ("fcn", "fcn-clip", "fcn-fused")),
    ("supervised", "clean"),
    *((f"{m}+eig", "clean") for m in ("spnet-c", "zs3net", "zs3net-gc", "cagnet", "joem-frozen")),
}
TINY = (
    "world.train_images=60",
    "world.val_images=12",
    "world.sentences=3000",
    "backbone.epochs=1",
    "backbone.batch_size=8",
    "features.tuning_images=8",
    "selection.held_out=2",
    "selection.draws=1",
    "spnet.training.steps=5",
    "spnet.gammas=[0.0,0.5]",
    "spnet.end_to_end_splits=[u4]",
    "spnet.end_to_end.steps=2",
    "zs3net.generator.steps=5",
    "zs3net.classifier.training.steps=5",
    "zs3net.classifier.unseen_weights=[1.0,10.0]",
    "zs3net.official.epochs=1",
    "zs3net.graph.generator.steps=5",
    "self_training.zs3net.training.steps=5",
    "self_training.cagnet.training.steps=5",
    "cagnet.official_splits=[u4]",
    "cagnet.end_to_end_splits=[u4]",
    "cagnet.end_to_end.steps=2",
    "cagnet.v2_splits=[u4]",
    "cagnet.patches.step1.steps=5",
    "cagnet.patches.step2.steps=5",
    "cagnet.patches.step2.unseen_boosts=[3.0,30.0]",
    "cagnet.step1.steps=5",
    "cagnet.step2.steps=5",
    "cagnet.step2.unseen_boosts=[3.0,30.0]",
    "cagnet.official.step1.steps=5",
    "cagnet.official.step2.steps=5",
    "joem.end_to_end_splits=[u4]",
    "joem.sigmas=[0.5,1.0]",
    "joem.closed_form.ridges=[0.001,0.1]",
    "joem.head.steps=5",
    "joem.end_to_end.epochs=1",
    "sazs.episodes.count=20",
    "vision_language.training.steps=3",
    "vision_language.prompts.steps=3",
    "simbaseline.proposals.training.steps=3",
    "simbaseline.self_training.training.steps=3",
    "simbaseline.fcn.splits=[u4]",
    "simbaseline.fcn.training.steps=3",
    "evaluate.bootstrap=20",
    "report.pictures=2",
)


class Copy:
    """A copy of the project's files, with its own git history and DVC cache."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command in the copy; both streams come back as text."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        return subprocess.run(
            command, cwd=self.root, env=environment, text=True, capture_output=True, check=check
        )

    def repro(self, *arguments: str) -> set[str]:
        """Run `dvc repro`; return the names of the stages that ran, without their split."""
        done = self.run("dvc", "repro", *arguments, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
        return {line.split("'")[1].split("@")[0] for line in lines}

    def set(self, *overrides: str) -> None:
        """Compose params.yaml anew."""
        compose(self.root / "params.yaml", *TINY, *overrides)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    # A space and an umlaut in the path: both are legal, both have broken pipelines.
    root = tmp_path_factory.mktemp("ein Projekt für sich")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if is_code(name) and (PROJECT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((PROJECT / name).read_bytes())
    made = Copy(root)
    made.set()
    made.run("git", "init", "--quiet")
    commit(made)
    return made


def is_code(name: str) -> bool:
    """Not a result of a run in the project itself."""
    return not name.startswith(("results/", "curves/")) and not name.endswith("dvc.lock")


def commit(copy: Copy) -> None:
    copy.run("git", "add", "--all")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    copy.run("git", *identity, "commit", "--quiet", "--message", "state")


def results(copy: Copy) -> dict[str, str]:
    return {path.name: path.read_text() for path in (copy.root / "results/world").glob("*.json")}


@pytest.fixture(scope="module")
def finished(copy: Copy) -> Copy:
    """The copy after its first run, two stages at a time as in `make demo`, committed."""
    done = copy.run(sys.executable, "-m", "tools.repro", "--jobs", "2", check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    commit(copy)
    return copy


def test_every_method_has_its_row_and_its_picture(finished: Copy) -> None:
    text = (finished.root / "report/leaderboard.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert {(row["method"], row["protocol"]) for row in rows} == METHODS
    assert all(0 <= float(row["miou_seen"]) <= 1 for row in rows)
    assert "<html" in (finished.root / "report/index.html").read_text()


def test_a_second_run_has_nothing_to_do(finished: Copy) -> None:
    assert finished.repro() == set()


def test_dvc_shows_metrics_plots_and_experiments(finished: Copy) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)
    assert "hiou" in str(shown)
    plots = json.loads(finished.run("dvc", "plots", "show", "--json").stdout)
    assert any("backbone" in name for name in plots["data"])
    assert plots["data"]["Calibration of SPNet"]
    assert "zs3net" in finished.run("dvc", "exp", "show", "--csv").stdout


def test_a_generator_parameter_reruns_what_follows_the_generator(finished: Copy) -> None:
    before = results(finished)
    finished.set("zs3net.generator.lr=0.01")
    zs3net = "pipelines/zs3net/dvc.yaml:"
    graph = "pipelines/zs3net-gc/dvc.yaml:"
    after = ("classifier", "self_training", "evaluate")
    expected = {f"{pipeline}{name}" for pipeline in (zs3net, graph) for name in after}
    assert finished.repro() == expected | {f"{zs3net}generator", "report"}
    difference = finished.run("dvc", "metrics", "diff", "--json").stdout
    assert "zs3net-clean" in difference
    assert "spnet" not in difference
    finished.set()
    finished.repro()
    assert results(finished) == before


def test_code_reruns_what_runs_it_and_comments_nothing(finished: Copy) -> None:
    module, page = (finished.root / f"zslib/{name}" for name in ("training.py", "report/page.html"))
    module.write_text(module.read_text() + "# The end.\n")
    assert finished.repro() == {"code"}
    page.write_text(page.read_text() + "<!-- The end. -->\n")
    assert finished.repro() == {"code", "report"}
    heads = finished.root / "zslib/heads.py"
    heads.write_text(heads.read_text() + "_EDITED = True\n")
    one = ("dvc", "repro", "--force", "--single-item", "pipelines/spnet/dvc.yaml:evaluate@u4")
    refused = finished.run(*one, check=False)  # as it is when an edit comes while a run goes on
    assert refused.returncode != 0
    assert "zslib/heads.py: has been edited since the run began" in refused.stderr
    evaluations = {name for name in finished.repro() if "evaluate" in name}
    assert "pipelines/spnet/dvc.yaml:evaluate" in evaluations


def test_unseen_labels_of_training_images_reach_no_training_stage(finished: Copy) -> None:
    facts = json.loads((finished.root / "artifacts/world/index/train_masks.json").read_text())
    classes, listed = world_ids(finished)
    unseen = [classes.index(name) for name in listed]
    changed = 0
    for entry in facts["content"]["masks"]:
        path = finished.root / "data/world" / entry["path"]
        with Image.open(path) as mask:
            labels, palette = np.array(mask), mask.getpalette()
        if np.isin(labels, unseen).any():
            exchanged = np.where(labels == unseen[0], unseen[1], labels)
            exchanged[labels == unseen[1]] = unseen[0]
            changed += 1
            picture = Image.fromarray(exchanged)
            picture.putpalette(palette)
            path.unlink()
            picture.save(path)
    assert changed > 0
    finished.run("dvc", "commit", "--force", "pipelines/world/dvc.yaml:draw")
    ran = finished.repro()
    # What reads all labels says so: the ceiling, and the official protocol.
    leaky = ("supervised", "official", "all_labels")
    assert {name for name in ran if not any(word in name for word in leaky)} == {
        "index",
        "seen_labels",
        "report",
    }


def world_ids(copy: Copy) -> tuple[Sequence[str], Sequence[str]]:
    from zslib.params import load_params

    benchmark = load_params(copy.root / "params.yaml").benchmark
    return benchmark.classes, benchmark.unseen["u4"]
