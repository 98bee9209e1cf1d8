"""Write label maps with all classes in them."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--masks", type=EXISTING, required=True, help="A masks file of the index.")
def main(section: Sections, *, masks: Path, out: Path) -> None:
    """Write label maps of all images: for evaluation, the ceiling, and the official protocol.

    No class is unseen in them; those that the benchmark declares void are void, as everywhere.
    Reads params.yaml:benchmark. Example: python -m stages.all_labels
    --masks artifacts/world/index/val_masks.json --out artifacts/world/val_labels.h5
    """
    classes, void = section("benchmark.classes"), section("benchmark.void")

    from zslib.benchmark import ALL_SEEN, Split
    from zslib.datasets.labels import write_labels

    everything = Split.named(ALL_SEEN, classes, unseen=[], void=void)
    write_labels(masks, everything, out, unseen_images="ignore")


if __name__ == "__main__":
    main()
