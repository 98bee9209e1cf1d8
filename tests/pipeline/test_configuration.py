"""conf/ composes into valid parameters, and params.yaml is what it composes into by default."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tools.compose_params import compose
from zslib.errors import InputError
from zslib.params import load_params

PROJECT = Path(__file__).resolve().parents[2]
CONF = PROJECT / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_params_yaml_is_the_default_composition(project: Path, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml")
    in_force = yaml.safe_load((project / "params.yaml").read_text())
    assert in_force == yaml.safe_load((tmp_path / "params.yaml").read_text()), (
        "params.yaml is not what conf/ composes into: edit conf/, then `make params`"
    )


@pytest.mark.parametrize(
    ("benchmark", "recipe"), [*itertools.product(names("benchmark"), names("recipe"))]
)
def test_each_benchmark_is_complete_with_each_recipe(
    benchmark: str, recipe: str, tmp_path: Path
) -> None:
    model = ["model=deeplab_v3_plus"] if recipe == "laptop" else []  # it shrinks no other network
    assert_complete(tmp_path / "params.yaml", f"benchmark={benchmark}", f"recipe={recipe}", *model)


@pytest.mark.parametrize(
    ("benchmark", "model"), [*itertools.product(["world", "voc12", "voc12-spnet"], names("model"))]
)
def test_benchmarks_are_complete_with_each_model(
    benchmark: str, model: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    assert_complete(path, f"benchmark={benchmark}", f"model={model}")
    written = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())["backbone"]["model"]
    assert load_params(path).backbone.model.model_dump(mode="json") == written


@pytest.mark.parametrize("vectors", names("vectors"))
def test_voc12_is_complete_with_other_class_vectors(vectors: str, tmp_path: Path) -> None:
    assert_complete(tmp_path / "params.yaml", "benchmark=voc12", f"+vectors={vectors}")


@pytest.mark.parametrize("form", names("simbaseline"))
@pytest.mark.parametrize("benchmark", ["voc12", "voc12-simbaseline", "cocostuff-simbaseline"])
def test_benchmarks_are_complete_with_each_form_of_simbaseline(
    benchmark: str, form: str, tmp_path: Path
) -> None:
    assert_complete(tmp_path / "params.yaml", f"benchmark={benchmark}", f"+simbaseline={form}")


def assert_complete(path: Path, *overrides: str) -> None:
    compose(path, *overrides)
    params = load_params(path)
    assert params.splits or params.benchmark.source_splits
    # DVC tracks no default of zslib/params/, so none may be in force.
    in_force, written = params.model_dump(mode="json"), yaml.safe_load(path.read_text())
    assert set(leaves(in_force)) - set(leaves(written)) == set(), "write these keys into conf/"
    assert in_force == written


def leaves(value: object, name: str = "") -> Iterator[str]:
    """The dotted names of all values that are no mapping."""
    if not isinstance(value, dict) or not value:
        yield name
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{name}.{key}".lstrip("."))


@pytest.mark.parametrize("compute", names("compute"))
def test_each_compute_group_is_valid(compute: str, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", f"compute={compute}")
    load_params(tmp_path / "params.yaml")


# --- what is refused before anything runs --------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["selection.candidates_from=[bird,cup,fork]"],
            r"selection\.candidates_from: not among benchmark\.classes: cup, fork; ",
        ),
        (
            ["selection.candidates_from=[bird,cow,cat,dog]", "selection.held_out=2"],
            r"selection\.candidates_from: 2 draws of 2 classes need 4 seen .*'u2' has 3 to draw from",
        ),
        (
            ["selection.candidates_from=[bird,cat,dog,background]", "selection.held_out=2"],
            r"'u2' has 3 to draw from beside the background; name more, or lower selection\.held_out",
        ),
        (  # only the splits that run count
            ["selection.candidates_from=[bird,cat,dog]", "selection.draws=1", "splits=[u4,u8]"],
            r"split 'u8' has 2 to draw from",
        ),
        (
            ["selection.candidates_from=all", "selection.held_out=19", "selection.draws=1"],
            r"1 draws of 19 classes need 19 seen ones and leave others, split 'u2' has 18",
        ),
    ],
)
def test_classes_that_cannot_be_held_out_are_refused_before_any_training(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    compose(path, "benchmark=voc12", *overrides)
    with pytest.raises(InputError, match=message):
        load_params(path)


def test_without_a_background_one_seen_class_is_not_held_out(tmp_path: Path) -> None:
    path, all_15 = tmp_path / "params.yaml", ["selection.candidates_from=all", "selection.draws=1"]
    compose(path, "benchmark=voc12-spnet", *all_15, "selection.held_out=14")
    load_params(path)
    compose(path, "benchmark=voc12-spnet", *all_15, "selection.held_out=15")
    with pytest.raises(InputError, match="need 15 seen ones and leave others"):
        load_params(path)


def test_make_params_leaves_the_file_alone_where_values_are_refused(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    shutil.copytree(PROJECT / "tools", tmp_path / "tools")

    def make_params(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(tmp_path / "tools" / "compose_params.py"), *overrides],
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert make_params("seed=7").returncode == 0
    before = (tmp_path / "params.yaml").read_bytes()
    refused = make_params("backbone.epochs=-3")
    assert (refused.returncode, (tmp_path / "params.yaml").read_bytes()) == (2, before)
    (line,) = refused.stderr.splitlines()
    assert re.match(r"error: params\.yaml: backbone\.epochs: .*got -3", line)


# --- docs/your-data.md ---------------------------------------------------------------------------


@pytest.fixture
def with_your_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give conf/ the benchmark of the page as it stands there; return an empty folder."""
    shutil.copytree(CONF, tmp_path / "project" / "conf")
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```", (PROJECT / "docs/your-data.md").read_text(), re.M | re.S
    )
    (tmp_path / "project/conf/benchmark/mine.yaml").write_text(block)
    monkeypatch.setattr("tools.compose_params.PROJECT", tmp_path / "project")
    return tmp_path


@pytest.mark.parametrize("recipe", ["published", "laptop"])
def test_your_own_data_as_documented_is_complete(with_your_data: Path, recipe: str) -> None:
    path = with_your_data / "params.yaml"
    assert_complete(path, "benchmark=mine", f"recipe={recipe}")
    params = load_params(path)
    assert (params.benchmark.name, params.splits) == ("mine", ["u2"])
    assert list(params.benchmark.unseen) == ["u2"]
    assert params.dataset.published is None


def test_your_own_data_with_candidates_of_voc_is_refused(with_your_data: Path) -> None:
    page = with_your_data / "project/conf/benchmark/mine.yaml"
    page.write_text(page.read_text().replace("  candidates_from: all\n", ""))
    compose(with_your_data / "params.yaml", "benchmark=mine")
    with pytest.raises(InputError, match=r"candidates_from: not among .*bicycle, bird, boat"):
        load_params(with_your_data / "params.yaml")
