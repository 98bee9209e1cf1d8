"""Self-train the classifier of a method."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.command import EXISTING, PATH, Sections, stage
from zslib.errors import InputError

if TYPE_CHECKING:
    from zslib.artifacts.features import DenseMaps
    from zslib.classifier import PixelClassifier


@stage
@click.option("--method", required=True, help="Whose settings: params.yaml:self_training.METHOD.")
@click.option("--classifiers", type=EXISTING, required=True, help="Folder of the method's own.")
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of labelled images.")
@click.option("--unlabelled", type=EXISTING, required=True, help="Dense maps of unlabelled images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    method: str,
    classifiers: Path,
    maps: Path,
    unlabelled: Path,
    labels: Path,
    images: Path,
    curves: Path,
    out: Path,
) -> None:
    """Give pseudo-labels to unlabelled images, and train the classifier further on them.

    Reads params.yaml:self_training, features.label_rule, seed. Writes pseudo_labels.h5 and
    classifier.safetensors. Example: python -m stages.self_train --method zs3net
    --classifiers artifacts/world/u4/zs3net/clean ... --out artifacts/world/u4/zs3net/st
    """
    params, seed = section(f"self_training.{method}"), section("seed")
    label_rule = section("features.label_rule")

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.classifier import PixelClassifier
    from zslib.datasets.index import ImageIndex
    from zslib.grids import LABEL_RULES
    from zslib.heads import Classifiers
    from zslib.self_training.fit import fit
    from zslib.self_training.tasks import Material
    from zslib.training import Curves

    trained = Classifiers.load(classifiers, PixelClassifier.load)
    index = ImageIndex.load(images)
    train, others, label_maps = (
        DenseMaps.open(maps),
        DenseMaps.open(unlabelled),
        open_labels(labels),
    )
    _refuse_other_features(trained.final, classifiers, {maps: train, unlabelled: others})
    if trained.final.split != Split.described(label_maps.meta):
        raise InputError(f"{classifiers} and {labels} are of different splits; give those of one")
    sizes = {entry.id: (entry.height, entry.width) for entry in map(index.entry, others.ids)}
    recorded = Curves(curves, every=50)
    fit(
        trained,
        Material(train, label_maps, others, sizes),
        params,
        label_rule=LABEL_RULES[label_rule],
        folder=out,
        seed=seed,
        curves=recorded,
    )
    recorded.write()


def _refuse_other_features(
    classifier: "PixelClassifier", folder: Path, files: dict[Path, "DenseMaps"]
) -> None:
    for path, maps in files.items():
        if maps.dimension != classifier.dimension:
            raise InputError(
                f"{path}: features of {maps.dimension} dimensions, where the classifier in {folder} "
                f"takes {classifier.dimension}; give the maps that it was trained on"
            )


if __name__ == "__main__":
    main()
