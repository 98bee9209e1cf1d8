"""What the report takes for declared is what DVC does."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.compose_params import compose
from zslib.params import load_params, select
from zslib.report.declared import declared_scores


def test_declared_scores_are_the_metrics_of_the_graph(project: Path, graph: Any) -> None:
    params = load_params(project / "params.yaml")
    found = declared_scores(project, lambda name: select(params, name))
    expected = {}
    for stage in graph:
        scores = [Path(out.def_path).name for out in stage.outs if out.metric]
        evaluation = next(Path(out.def_path).name for out in stage.outs if not out.metric)
        expected |= dict.fromkeys(scores, evaluation)
    assert found == expected
    assert len(found) > 20


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        (
            "voc12",
            {"u10-zs3net-clean.json": "zs3net", "u2-zs3net-official.json": "zs3net-official"},
        ),
        ("pascal5i", {"fold3-sazs.json": "sazs-episodes.csv", "fold3-sazs-clean.json": "sazs"}),
    ],
)
def test_other_benchmarks_have_the_scores_of_their_splits(
    project: Path, tmp_path: Path, benchmark: str, expected: dict[str, str]
) -> None:
    compose(tmp_path / "params.yaml", f"benchmark={benchmark}")
    params = load_params(tmp_path / "params.yaml")
    found = declared_scores(project, lambda name: select(params, name))
    assert expected.items() <= found.items()
    assert {name.split("-")[0] for name in found} == set(params.splits)


@pytest.mark.parametrize("report", ["report", "report_across"])
def test_the_report_is_made_anew_when_a_row_is_switched_on_or_off(
    project: Path, report: str
) -> None:
    files = [project / "dvc.yaml", *project.glob("pipelines/*/dvc.yaml")]
    stages = {file: yaml.safe_load(file.read_text())["stages"] for file in files}
    switches = {
        values.strip("${}")
        for found in stages.values()
        for stage in found.values()
        if "metrics" in stage
        for values in stage["matrix"].values()
    }
    params = set(stages[project / "dvc.yaml"][report]["params"])
    assert {name for name in switches if not {name, name.split(".")[0]} & params} == set()
    assert len(switches) > 10
