"""Score classifiers of the same dense maps, each a row of the leaderboard."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.command import EXISTING, PATH, Sections, stage

if TYPE_CHECKING:
    from zslib.benchmark import ProtocolName, Setting
    from zslib.segmenters import Segmenter

KINDS = click.Choice(["plain", "uncalibrated", "self-trained", "fused"])


@stage
@click.option(
    "--row",
    "rows",
    type=(KINDS, str, EXISTING),
    multiple=True,
    required=True,
    help="What to do with a classifier, the row's name, its file; to fuse it, the folder that has its draws.",
)
@click.option("--protocol", type=click.Choice(["clean", "official"]), default="clean")
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of the validation images.")
@click.option("--train-maps", type=EXISTING, help="Of training images; fused rows need them.")
@click.option("--eigenvectors", type=EXISTING, help="Of both; fused rows need them.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--seen-labels", type=EXISTING, required=True, help="Says what is unseen.")
@click.option("--scores", type=PATH, required=True, help="Folder of the metrics files (JSON).")
def main(
    section: Sections,
    *,
    rows: tuple[tuple[str, str, Path], ...],
    protocol: "ProtocolName",
    maps: Path,
    train_maps: Path | None,
    eigenvectors: Path | None,
    labels: Path,
    seen_labels: Path,
    scores: Path,
    out: Path,
) -> None:
    """Predict the validation images, count the confusion matrix, derive every figure from it.

    A self-trained row is transductive; a fused one chooses on held-out classes how readily it fuses.
    Reads params.yaml:evaluate, fusion.taus, seed. Writes confusion.h5 and predictions.h5 of each row
    to a folder of its name, and its scores. Example:
    python -m stages.evaluate --row plain zs3net artifacts/world/u4/zs3net/clean/classifier.safetensors
    ... --scores results/world --out evaluations/world/u4/zs3net
    """
    params, seed, taus = section("evaluate"), section("seed"), ()
    if eigenvectors:
        taus = section("fusion.taus")
    if not (eigenvectors and train_maps) and any(kind == "fused" for kind, _, _ in rows):
        raise click.UsageError("a fused row needs --eigenvectors and --train-maps")

    from zslib.artifacts.eigenvectors import Eigenvectors
    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.evaluation import Entry, score
    from zslib.fusion.segmenter import FusedSegmenter, choose_tau
    from zslib.heads import Classifiers, load_head
    from zslib.segmenters import HeadSegmenter

    known, validation = open_labels(seen_labels), DenseMaps.open(maps)
    split = Split.described(known.meta)
    segmenters: dict[Entry, Segmenter] = {}
    for kind, method, trained in rows:
        setting: Setting = "transductive" if kind == "self-trained" else "inductive"
        if kind == "fused":
            assert eigenvectors
            assert train_maps
            classifiers = Classifiers.load(trained, load_head)
            tuning, vectors = DenseMaps.open(train_maps).tuning, Eigenvectors.open(eigenvectors)
            rehearsals = [HeadSegmenter(draw, tuning) for draw in classifiers.held_out]
            tau, choice = choose_tau(rehearsals, known, vectors, taus)
            plain = HeadSegmenter(classifiers.final.for_split(split), validation)
            segmenter: Segmenter = FusedSegmenter(plain, vectors, tau, choice)
        else:
            head = load_head(trained).for_split(split)
            head = head.uncalibrated() if kind == "uncalibrated" else head
            segmenter = HeadSegmenter(head, validation)
        segmenters[Entry(split.name, method, protocol, seed=seed, setting=setting)] = segmenter
    score(segmenters, open_labels(labels), params, folder=out, scores=scores)


if __name__ == "__main__":
    main()
