"""Fault 7: what must never be written into a dvc.yaml, since DVC punishes it silently."""

from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
FILES = [PROJECT / "dvc.yaml", *sorted(PROJECT.glob("pipelines/*/dvc.yaml"))]


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def stages(request: pytest.FixtureRequest) -> dict[str, dict]:
    entries = yaml.safe_load(request.param.read_text())["stages"]
    return {name: entry.get("do", entry) for name, entry in entries.items()}


def flags(stage: dict, *kinds: str) -> set[str]:
    items = [item for kind in kinds for item in stage.get(kind, []) if isinstance(item, dict)]
    return {flag for item in items for settings in item.values() for flag in settings}


def test_commands_replace_their_shell(stages: dict[str, dict]) -> None:
    """Otherwise a stage outlives the DVC that was killed, and writes on."""
    assert all(stage["cmd"].startswith("exec ") for stage in stages.values())


def test_outputs_are_neither_kept_nor_uncached(stages: dict[str, dict]) -> None:
    """`persist`, and `cache: false` on a plain output, disable the run-cache for the stage."""
    for stage in stages.values():
        assert not flags(stage, "outs", "metrics", "plots") & {"persist"}
        assert not flags(stage, "outs") & {"cache"}


def test_metrics_and_curves_are_kept_in_git(stages: dict[str, dict]) -> None:
    for stage in stages.values():
        for item in [*stage.get("metrics", []), *stage.get("plots", [])]:
            assert isinstance(item, dict)
            (settings,) = item.values()
            assert settings["cache"] is False


def test_no_stage_always_runs(stages: dict[str, dict]) -> None:
    assert not any({"always_changed", "frozen"} & set(stage) for stage in stages.values())


def test_stages_of_a_file_stay_few() -> None:
    """DVC parses a file's dvc.lock once per stage in it."""
    for path in FILES:
        assert len(yaml.safe_load(path.read_text())["stages"]) <= 20
