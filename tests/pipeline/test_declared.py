"""What the report takes for declared is what DVC does."""

from pathlib import Path
from typing import Any

import pytest

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
