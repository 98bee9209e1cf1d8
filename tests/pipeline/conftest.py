"""The pipeline files and DVC's graph of them, read once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
PROTOCOLS = ("clean", "official")


@dataclass(frozen=True)
class Declared:
    """One stage as a dvc.yaml declares it, before `${...}` is filled in."""

    name: str
    entry: dict[str, Any]

    @property
    def cmd(self) -> str:
        return self.entry["cmd"]

    @property
    def module(self) -> str:
        """The module of stages that it runs."""
        words = self.cmd.split()
        return words[words.index("-m") + 1]

    @property
    def options(self) -> dict[str, list[str]]:
        """Option -> its values in the command, of all times it is given; flags have none."""
        found: dict[str, list[str]] = {}
        values: list[str] = []
        for word in self.cmd.split()[4:]:
            if word.startswith("--"):
                values = found.setdefault(word.removeprefix("--"), [])
            else:
                values.append(word)
        return found

    @property
    def scores(self) -> list[str]:
        """The metrics file of every row that it scores; each row is three words long."""
        words, (folder,) = self.options["row"], self.options["scores"]
        protocol = self.options.get("protocol", ["clean"])[0]
        rows = [words[start : start + 3] for start in range(0, len(words), 3)]
        names = [f"{row[1]}-{row[2] if row[2] in PROTOCOLS else protocol}" for row in rows]
        return [f"{folder}/${{item.split}}-{name}.json" for name in names]

    def paths(self, kind: str) -> list[str]:
        """The paths under deps, outs, metrics or plots."""
        return [next(iter(item)) if isinstance(item, dict) else item for item in self._items(kind)]

    def flags(self, kind: str) -> list[dict[str, Any]]:
        """The flags (cache, persist, ...) of each path under outs, metrics or plots."""
        return [next(iter(item.values())) for item in self._items(kind) if isinstance(item, dict)]

    def _items(self, kind: str) -> list[Any]:
        return self.entry.get(kind, [])


def declared_stages() -> list[Declared]:
    """Every stage of the root dvc.yaml and of pipelines/*/dvc.yaml."""
    stages = []
    for path in [PROJECT / "dvc.yaml", *sorted(PROJECT.glob("pipelines/*/dvc.yaml"))]:
        folder = "" if path.parent == PROJECT else f"{path.parent.name}/"
        for name, entry in yaml.safe_load(path.read_text())["stages"].items():
            stages.append(Declared(folder + name, entry.get("do", entry)))
    return stages


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "declared" in metafunc.fixturenames:
        stages = declared_stages()
        metafunc.parametrize("declared", stages, ids=[stage.name for stage in stages])


@pytest.fixture(scope="session")
def graph() -> Any:
    """DVC's graph: an edge goes from a stage to each stage that it depends on."""
    from dvc.repo import Repo

    return Repo(str(PROJECT)).index.graph


@pytest.fixture(scope="session")
def short_name() -> Callable[[Any], str]:
    """A DVC stage's name as in `declared`: folder and name, without the split."""

    def shorten(stage: Any) -> str:
        return stage.addressing.split("@")[0].removeprefix("pipelines/").replace("/dvc.yaml:", "/")

    return shorten
