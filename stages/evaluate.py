"""Score a classifier."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--method", required=True, help="Name in the leaderboard.")
@click.option("--protocol", type=click.Choice(["clean", "official"]), default="clean")
@click.option("--setting", type=click.Choice(["inductive", "transductive"]), default="inductive")
@click.option("--classifier", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of the validation images.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--seen-labels", type=EXISTING, required=True, help="Says what is unseen.")
@click.option("--uncalibrated", is_flag=True, help="Leave calibration out.")
@click.option("--scores", type=PATH, required=True, help="The metrics file (JSON) to write.")
def main(
    section: Sections,
    *,
    method: str,
    protocol: str,
    setting: str,
    classifier: Path,
    maps: Path,
    labels: Path,
    seen_labels: Path,
    uncalibrated: bool,
    scores: Path,
    out: Path,
) -> None:
    """Predict the validation images, count the confusion matrix, derive every figure from it.

    Reads params.yaml:evaluate, seed. Writes confusion.h5 and predictions.h5, and the scores.
    Example: python -m stages.evaluate --method spnet-c
    --classifier artifacts/world/u4/spnet/classifier.safetensors ... --out evaluations/world/u4/spnet-c
    """
    params, seed = section("evaluate"), section("seed")

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.benchmark import Split
    from zslib.evaluation import Entry, evaluate, save
    from zslib.heads import load_head
    from zslib.segmenters import HeadSegmenter

    split = Split.described(open_labels(seen_labels).meta)
    head = load_head(classifier).for_split(split)
    segmenter = HeadSegmenter(head.uncalibrated() if uncalibrated else head, DenseMaps.open(maps))
    evaluation = evaluate(segmenter, open_labels(labels), resolution=params.resolution)
    entry = Entry(split.name, method, protocol, seed=seed, setting=setting)
    save(evaluation, entry, params, folder=out, scores=scores)


if __name__ == "__main__":
    main()
