"""Projects of trivial stages under git and DVC, to see what DVC does with them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Project:
    """A folder with its own git history and DVC cache."""

    root: Path

    @classmethod
    def create(cls, root: Path, *, stages: dict[str, Any], params: dict[str, Any]) -> "Project":
        """Make a project of these stages; nothing is committed yet."""
        root.mkdir(parents=True, exist_ok=True)
        project = cls(root)
        project.call("git", "init", "--quiet", "--initial-branch", "main")
        project.call("dvc", "init", "--quiet")
        project.write("dvc.yaml", yaml.safe_dump({"stages": stages}))
        project.write("params.yaml", yaml.safe_dump(params))
        return project

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def call(self, *command: str) -> str:
        """Run a command and return what it printed; `python` and `dvc` are ours."""
        people = {
            f"GIT_{who}_{what}": "test@localhost"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | people | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(
            command, cwd=self.root, env=environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def commit(self) -> None:
        self.call("git", "add", "--all")
        self.call("git", "commit", "--quiet", "--message", "state")
