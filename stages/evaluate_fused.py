"""Score a classifier whose label maps are fused with eigenvectors of the images."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--method", required=True, help="Name in the leaderboard.")
@click.option("--setting", type=click.Choice(["inductive", "transductive"]), default="inductive")
@click.option("--classifier", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of the validation images.")
@click.option("--train-maps", type=EXISTING, required=True, help="Of training images.")
@click.option("--eigenvectors", type=EXISTING, required=True, help="Of both.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--seen-labels", type=EXISTING, required=True)
@click.option("--scores", type=PATH, required=True, help="The metrics file (JSON) to write.")
def main(
    section: Sections,
    *,
    method: str,
    setting: str,
    classifier: Path,
    maps: Path,
    train_maps: Path,
    eigenvectors: Path,
    labels: Path,
    seen_labels: Path,
    scores: Path,
    out: Path,
) -> None:
    """Choose how readily to fuse on training images, then predict the validation images and score.

    Reads params.yaml:evaluate, fusion.taus, seed. Writes confusion.h5 and predictions.h5, and the
    scores. Example: python -m stages.evaluate_fused --method zs3net+eig
    --eigenvectors artifacts/world/u4/eigenvectors.h5 ... --out evaluations/world/u4/zs3net+eig
    """
    params, taus, seed = section("evaluate"), section("fusion.taus"), section("seed")

    from zslib.artifacts.eigenvectors import Eigenvectors
    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.evaluation import Entry, evaluate, save
    from zslib.fusion.segmenter import FusedSegmenter, choose_tau
    from zslib.heads import load_head
    from zslib.segmenters import HeadSegmenter

    known, vectors = open_labels(seen_labels), Eigenvectors.open(eigenvectors)
    head = load_head(classifier).for_split(Split.described(known.meta))
    tuning = HeadSegmenter(head, DenseMaps.open(train_maps).tuning)
    fused = FusedSegmenter(
        HeadSegmenter(head, DenseMaps.open(maps)),
        vectors,
        choose_tau(tuning, known, vectors, taus),
    )
    evaluation = evaluate(fused, open_labels(labels), resolution=params.resolution)
    entry = Entry(head.split.name, method, "clean", seed=seed, setting=setting)
    save(evaluation, entry, params, folder=out, scores=scores)


if __name__ == "__main__":
    main()
