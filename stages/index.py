"""Check a dataset and write its index."""

from pathlib import Path

from stages.command import Sections, stage


@stage
def main(section: Sections, *, out: Path) -> None:
    """Check every file of the dataset and write its index: images.json, train_masks.json, val_masks.json.

    Where the dataset lies stands in root.json beside them, on which no stage depends.
    Reads params.yaml:dataset, benchmark.classes. Example: python -m stages.index --out artifacts/world/index
    """
    params, classes = section("dataset"), section("benchmark.classes")

    import os

    from zslib.artifacts import publish
    from zslib.datasets.indexing import build_index
    from zslib.datasets.layouts import open_dataset

    dataset = open_dataset(params)
    index = build_index(dataset, num_classes=len(classes), workers=len(os.sched_getaffinity(0)))
    with publish(out) as folder:
        index.save(folder)


if __name__ == "__main__":
    main()
