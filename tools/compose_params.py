"""Write params.yaml as DVC composes it from conf/: `make params`, or with other choices

`make params ARGS="benchmark=voc12 recipe=laptop"`, to look at them or to work on them for a while.
"""

import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from dvc.utils.hydra import compose_and_dump

from zslib.errors import one_line_errors
from zslib.params import load_params

PROJECT = Path(__file__).resolve().parents[1]


def compose(out: Path, *overrides: str) -> None:
    """Compose a parameter file; overrides are GROUP=NAME or KEY=VALUE."""
    conf = PROJECT / "conf"
    compose_and_dump(out, str(conf), None, "config", str(conf / "plugins"), list(overrides))


def replace(params: Path, *overrides: str) -> None:
    """Compose a parameter file anew; it stays as it was where `load_params` refuses what comes out.

    Raises:
        InputError: the values are not valid together.
    """
    params = params.absolute()
    with TemporaryDirectory() as folder, chdir(folder):
        fresh = Path(params.name)
        compose(fresh, *overrides)
        load_params(fresh)
        params.write_bytes(fresh.read_bytes())


if __name__ == "__main__":
    with one_line_errors(debug=False):
        replace(PROJECT / "params.yaml", *sys.argv[1:])
