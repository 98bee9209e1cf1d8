"""Look whether the benchmark that a model was trained on has left it here, before it is tried."""

from pathlib import Path

import click

from stages.command import Sections, stage
from zslib.errors import InputError

ARTIFACTS = Path("artifacts")
TAKEN = (
    "clip/model",
    "{split}/simbaseline/prompts/prompts.safetensors",
    "{split}/simbaseline/network.safetensors",
)
"""Of the source's artifacts, what cross-dataset stages read."""


@stage
@click.option("--split", required=True, help="Of the source.")
def main(section: Sections, *, split: str, out: Path) -> None:
    """Write the seen labels of a benchmark on which nothing is trained: no image, and no class is seen.

    The source's files are no dependencies of this stage: DVC would refuse to start it without them, and
    not say what makes them. All later stages depend on what it writes, and on the files they read.
    Reads params.yaml:benchmark.trained_on, benchmark.classes, benchmark.void. Example:
    python -m stages.source --split u15 --out artifacts/ade20k/u15/seen_labels.h5
    """
    source = section("benchmark.trained_on")
    classes, void = section("benchmark.classes"), section("benchmark.void")
    for path in (ARTIFACTS / source / name.format(split=split) for name in TAKEN):
        if not path.exists():
            raise InputError(
                f"{path}: missing; train the source first, in this folder: `dvc exp run "
                f"-S benchmark={source} -S dataset.root=... pipelines/simbaseline/dvc.yaml`"
            )

    from zslib.artifacts.maps import LABELS, write_label_maps
    from zslib.benchmark import Split

    scored = [name for name in classes if name not in void]
    target = Split.named(split, classes, unseen=scored, void=void)
    write_label_maps(out, [], [], [], schema=LABELS, meta=target.describe())


if __name__ == "__main__":
    main()
