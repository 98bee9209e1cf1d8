"""What makes a stage run again: code, parameters, and the stages before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import networkx as nx
import pytest

from tests.pipeline.conftest import Declared
from tests.pipeline.trivial import Project
from zslib.code import CODE_LISTS, code_lists, files_of

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def code() -> dict[str, set[str]]:
    """The files that each stage runs."""
    return {
        name: {line.split("  ")[1] for line in lines.splitlines()} for name, lines in code_lists()
    }


def test_every_stage_depends_on_the_list_of_the_code_it_runs(declared: Declared) -> None:
    name = declared.module.removeprefix("stages.")
    listed = [path for path in declared.paths("deps") if Path(path).parent == CODE_LISTS]
    assert listed == ([] if name == "code" else [f"{CODE_LISTS}/{name}.txt"])


def test_lists_of_code_follow_imports_and_hold_what_lies_beside_a_module(
    code: dict[str, set[str]],
) -> None:
    assert {"stages/backbone.py", "zslib/methods/supervised.py", "zslib/training.py"} <= code[
        "backbone"
    ]
    assert {"zslib/report/page.py", "zslib/report/page.html"} <= code["report"]


def test_every_file_of_ours_is_one_that_can_be_listed() -> None:
    graph = grimp.build_graph("stages", "zslib", cache_dir=None)
    found = {path.as_posix() for name in graph.modules for path in files_of(name, graph)}
    assert found == set(Project(PROJECT).call("git", "ls-files", "stages", "zslib").splitlines())


def test_what_stages_share_is_tracked_but_for_the_command_around_them(
    code: dict[str, set[str]],
) -> None:
    own = {path for path in code["joem"] if path.startswith("stages/")}
    assert own == {"stages/__init__.py", "stages/end_to_end.py", "stages/joem.py"}
    assert not [path for path in code["joem"] if path.startswith("zslib/params/")]


def test_a_method_does_not_depend_on_the_code_of_another(
    declared: Declared, code: dict[str, set[str]]
) -> None:
    folder, _, _ = declared.name.rpartition("/")
    strange = of_other_methods(folder, code[declared.module.removeprefix("stages.")])
    assert not strange, (
        f"{declared.module} runs {', '.join(strange)}, of another method than pipelines/{folder}: move "
        "what both need out of zslib/methods, or name the method that the folder belongs to in METHODS_OF"
    )


METHODS_OF = {"cross-dataset": "simbaseline", "zs3net-gc": "zs3net", "cagnet-e2e": "cagnet"}
"""Folders of pipelines/ that are of a method with another name."""


def of_other_methods(folder: str, run: set[str]) -> list[str]:
    """Return those of the files run that are another method's than that of a folder of pipelines/."""
    shared = ("zslib/methods/__init__.py", "zslib/methods/supervised.py")  # the backbone
    own = f"zslib/methods/{METHODS_OF.get(folder, folder).replace('-', '_')}"
    allowed = (*shared, f"{own}/", f"{own}.py") if folder else shared
    return sorted(p for p in run if p.startswith("zslib/methods/") and not p.startswith(allowed))


@pytest.mark.parametrize(
    ("folder", "path", "is_own"),
    [
        ("eszsl", "zslib/methods/eszsl.py", True),
        ("eszsl", "zslib/methods/eszsl/fit.py", True),
        ("eszsl", "zslib/methods/eszsl_more.py", False),
        ("my-net", "zslib/methods/my_net.py", True),
        ("my-net", "zslib/methods/my.py", False),
        ("zs3net-gc", "zslib/methods/zs3net/graph.py", True),
        ("", "zslib/methods/eszsl.py", False),
    ],
)
def test_a_method_is_one_file_or_one_folder(folder: str, path: str, is_own: bool) -> None:
    assert of_other_methods(folder, {path, "zslib/methods/supervised.py", "zslib/heads.py"}) == (
        [] if is_own else [path]
    )


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


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # What `vision_language.templates` chooses; no network is trained with it.
        (
            "artifacts/world/clip/text/vectors.bin",
            {"vectors", "simbaseline/evaluate", "simbaseline/self_training"},
        ),
        ("artifacts/world/u4/cagnet/maps/val.h5", {"cagnet/evaluate"}),
        ("artifacts/world/u4/cagnet/maps/unlabelled.h5", {"cagnet/self_training"}),
    ],
)
def test_a_file_of_a_folder_reruns_what_reads_it_and_no_more(
    path: str, expected: set[str], graph: Any, short_name: Callable[[Any], str]
) -> None:
    readers = (
        stage
        for stage in graph
        if any(Path(path).is_relative_to(dep.def_path) for dep in stage.deps)
    )
    assert {short_name(stage) for stage in readers} == expected


def test_what_only_the_bank_is_made_with_leaves_maps_of_other_images_alone(
    graph: Any, short_name: Callable[[Any], str]
) -> None:
    found = {short_name(stage) for stage in rerun("features.rows_per_class", graph)}
    assert found.isdisjoint({"val_maps", "unlabelled_maps", "supervised/val_maps"})
    assert "train_features" in found


def rerun(parameter: str, graph: Any) -> set[Any]:
    """The stages that a change of a parameter reruns: those that track it, and what follows them."""
    changed = {stage for stage in graph if any(tracks(dep, parameter) for dep in stage.deps)}
    return changed | {after for stage in changed for after in nx.ancestors(graph, stage)}


def tracks(dependency: Any, parameter: str) -> bool:
    """Whether a DVC dependency is on parameters, this one or a section around it among them."""
    names = getattr(dependency, "params", None) or []
    return any(f"{parameter}.".startswith(f"{name}.") for name in names)
