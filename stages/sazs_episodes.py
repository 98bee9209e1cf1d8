"""Score SAZS by the fold protocol."""

import json
from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--maps", type=EXISTING, required=True, help="SAZS's maps of the validation images.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--held-out-maps", type=EXISTING, required=True, help="As its training leaves them.")
@click.option("--seen-labels", type=EXISTING, required=True)
@click.option("--eigenvectors", type=EXISTING, required=True)
@click.option("--scores", type=PATH, required=True, help="The metrics file (JSON) to write.")
def main(
    section: Sections,
    *,
    maps: Path,
    labels: Path,
    held_out_maps: Path,
    seen_labels: Path,
    eigenvectors: Path,
    scores: Path,
    out: Path,
) -> None:
    """Take each unseen class of an image against all else: with and without eigenvectors.

    Reads params.yaml:sazs.episodes, sazs.folds, seed. Writes counts of the scored pairs (CSV), and
    scores. Example: python -m stages.sazs_episodes --maps artifacts/world/u4/sazs/val_maps.h5 ...
    --scores results/world/episodes/u4-sazs.json --out evaluations/world/u4/sazs-episodes.csv
    """
    params, folds, seed = section("sazs.episodes"), section("sazs.folds"), section("seed")

    from zslib.artifacts import publish
    from zslib.artifacts.eigenvectors import Eigenvectors
    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.datasets.folds import read_pairs
    from zslib.methods.sazs.binary import Material
    from zslib.methods.sazs.episodes import choose_fusion, evaluate_fold

    def material(margins: Path, truth: Path) -> Material:
        opened = DenseMaps.open(margins)
        vectors, split = Eigenvectors.open(eigenvectors), Split.described(opened.meta)
        return Material(opened, open_labels(truth), vectors, split)

    unseen = material(maps, labels)
    choice = choose_fusion(material(held_out_maps, seen_labels), params)
    listed = None if folds is None else read_pairs(folds, unseen.split.name, "val")
    evaluation = evaluate_fold(unseen, listed, choice, params)
    evaluation.save(out)
    text = json.dumps({"seed": seed, **evaluation.describe()}, indent=1, allow_nan=False)
    with publish(scores) as temporary:
        temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
