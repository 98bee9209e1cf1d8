"""For all tests: array shapes and types are checked at each call of zslib.

Only here: in production the annotations cost nothing. Processes that a test starts (stages, data
loaders) import zslib without the check.
"""

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
