"""For all tests: array shapes and types are checked at each call of zslib.

Only here: in production the annotations cost nothing. Processes that a test starts (stages, data
loaders) import zslib without the check.
"""

import errno
import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The numeric tower: an int will do where a float is asked for.
install_import_hook("zslib", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the project, which tests only read."""
    return PROJECT


@pytest.fixture
def disk_per_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each folder be a disk of its own: nothing can be linked or renamed into another one."""

    def refuse_other_folders(name: str) -> None:
        real = getattr(os, name)

        def checked(source: Path, target: Path, **options: object) -> None:
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            real(source, target, **options)

        monkeypatch.setattr(os, name, checked)

    for name in ("link", "rename", "replace"):
        refuse_other_folders(name)
