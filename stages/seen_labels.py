"""Write the seen labels of a split: the only stage of the clean protocol that reads training masks."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--masks", type=EXISTING, required=True, help="train_masks.json of the index.")
@click.option("--split", required=True)
def main(section: Sections, *, masks: Path, split: str, out: Path) -> None:
    """Write label maps in which unseen pixels are void, or whose images are left out.

    Reads params.yaml:benchmark. Example: python -m stages.seen_labels --split u4
    --masks artifacts/world/index/train_masks.json --out artifacts/world/u4/seen_labels.h5
    """
    classes, void = section("benchmark.classes"), section("benchmark.void")
    unseen = section(f"benchmark.unseen.{split}")
    unseen_images = section("benchmark.unseen_images")

    from zslib.benchmark import Split
    from zslib.datasets.labels import write_labels

    chosen = Split.named(split, classes, unseen=unseen, void=void)
    write_labels(masks, chosen, out, unseen_images=unseen_images)


if __name__ == "__main__":
    main()
