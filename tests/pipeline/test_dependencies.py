"""What makes a stage run again: code, parameters, and the stages before it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import networkx as nx
import pytest

from tools.code_deps import code_of, is_code, updated

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    return dict(updated(PROJECT))


def test_code_dependencies_are_those_of_the_import_graph(generated: dict[Path, str]) -> None:
    stale = [str(path) for path, text in generated.items() if path.read_text() != text]
    assert not stale, "run `make deps`"


def test_generating_code_dependencies_touches_nothing_else(generated: dict[Path, str]) -> None:
    for path, text in generated.items():
        assert without_code(text) == without_code(path.read_text())


def test_what_stages_share_is_tracked_but_for_the_command_around_them() -> None:
    code = code_of("stages.joem", grimp.build_graph("stages", "zslib", cache_dir=None))
    own = [path for path in code if path.startswith("stages/")]
    assert own == ["stages/end_to_end.py", "stages/joem.py"]


def without_code(text: str) -> list[str]:
    # A stage without other dependencies gets its `deps:` from the generator.
    lines = [line for line in text.splitlines() if not is_code(line)]
    return re.sub(r"\n +deps:(?=\n +\w+:)", "", "\n".join(lines)).splitlines()


def test_a_method_does_not_depend_on_the_code_of_another(graph: Any) -> None:
    for stage in graph:
        if not stage.addressing.startswith("pipelines/"):
            continue
        own = stage.addressing.split("/")[1].split("-")[0]  # zs3net-gc extends ZS3Net
        others = [
            dep.def_path
            for dep in stage.deps
            if dep.def_path.startswith("zslib/methods/")
            and not dep.def_path.startswith(f"zslib/methods/{own}")
            and dep.def_path != "zslib/methods/supervised.py"  # the backbone, shared by all
        ]
        assert not others, stage.addressing


def test_the_report_comes_after_every_evaluation(
    graph: Any, short_name: Callable[[Any], str]
) -> None:
    evaluations = {s for s in graph if "evaluate" in short_name(s)}
    methods = {path.parent.name for path in PROJECT.glob("pipelines/*/dvc.yaml")} - {"world"}
    methods -= {"cagnet-e2e", "cross-dataset"}  # off by default
    assert {short_name(s).split("/")[0] for s in evaluations} == methods
    (report,) = (stage for stage in graph if short_name(stage) == "report")
    assert evaluations <= nx.descendants(graph, report)


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (
            "zs3net.generator.lr",
            {"zs3net/generator", "zs3net/classifier", "report"}
            | {"zs3net/self_training", "zs3net/evaluate"}
            | {"zs3net-gc/classifier", "zs3net-gc/self_training", "zs3net-gc/evaluate"},
        ),
        (
            "zs3net.official.unseen_weight",
            {
                "zs3net/official",
                "zs3net/official_val_maps",
                "zs3net/evaluate_official",
                "report",
            },
        ),
        (
            "spnet.gammas",
            {"spnet/train", "spnet/evaluate", "spnet/competitors", "spnet/sweep", "report"},
        ),
        (
            "joem.closed_form",
            {"joem/frozen", "joem/evaluate_frozen", "joem/competitors", "joem/sweep", "report"},
        ),
        (
            "fusion.taus",
            {f"{method}/evaluate" for method in ("spnet", "zs3net", "zs3net-gc", "cagnet")}
            | {"joem/evaluate_frozen", "report"},
        ),
        ("report.pictures", {"report"}),
        ("compute.device", set()),
    ],
)
def test_a_parameter_reruns_what_depends_on_it_and_no_more(
    parameter: str, expected: set[str], graph: Any, short_name: Callable[[Any], str]
) -> None:
    assert {short_name(stage) for stage in rerun(parameter, graph)} == expected


def test_other_class_vectors_rerun_every_method_and_nothing_that_methods_share(
    graph: Any, short_name: Callable[[Any], str]
) -> None:
    found = {short_name(stage) for stage in rerun("vectors.source", graph)}
    assert {name.split("/")[0] for name in found} >= {"spnet", "zs3net", "cagnet", "joem", "sazs"}
    # Neither backbone nor features nor the vectors themselves, and not the ceiling.
    assert {name for name in found if "/" not in name} == {"embeddings", "report"}
    assert not {name for name in found if name.startswith("supervised/")}


def rerun(parameter: str, graph: Any) -> set[Any]:
    """The stages that a change of a parameter reruns: those that track it, and what follows them."""
    changed = {stage for stage in graph if any(tracks(dep, parameter) for dep in stage.deps)}
    return changed | {after for stage in changed for after in nx.ancestors(graph, stage)}


def tracks(dependency: Any, parameter: str) -> bool:
    """Whether a DVC dependency is on parameters, this one or a section around it among them."""
    names = getattr(dependency, "params", None) or []
    return any(f"{parameter}.".startswith(f"{name}.") for name in names)
