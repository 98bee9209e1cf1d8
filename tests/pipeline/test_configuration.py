"""conf/ composes into valid parameters, and params.yaml is what it composes into by default."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tools.compose_params import compose
from zslib.params import load_params

CONF = Path(__file__).resolve().parents[2] / "conf"


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
