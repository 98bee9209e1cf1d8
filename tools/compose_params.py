"""Write params.yaml as DVC composes it from conf/: `make params`, or with other choices

`make params ARGS="benchmark=voc12 recipe=laptop"`, to look at them or to work on them for a while.
"""

import sys
from pathlib import Path

from dvc.utils.hydra import compose_and_dump

PROJECT = Path(__file__).resolve().parents[1]


def compose(out: Path, *overrides: str) -> None:
    """Compose a parameter file; overrides are GROUP=NAME or KEY=VALUE."""
    conf = PROJECT / "conf"
    compose_and_dump(out, str(conf), None, "config", str(conf / "plugins"), list(overrides))


if __name__ == "__main__":
    compose(PROJECT / "params.yaml", *sys.argv[1:])
