"""Score every strength of a calibration."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--method", required=True, help="Name in the leaderboard.")
@click.option("--strengths", required=True, help="Name in params.yaml of what to sweep over.")
@click.option("--competitors", type=EXISTING, required=True)
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
def main(
    section: Sections, *, method: str, strengths: str, competitors: Path, labels: Path, out: Path
) -> None:
    """Count one confusion matrix per strength from cached competitors; write the curve of scores.

    Reads params.yaml:<strengths>, seed. Example: python -m stages.sweep --method spnet
    --strengths spnet.gammas --competitors artifacts/world/u4/spnet/competitors.h5
    --labels artifacts/world/val_labels.h5 --out curves/world/calibration/u4-spnet.json
    """
    values, seed = section(strengths), section("seed")

    from zslib.artifacts.maps import open_labels
    from zslib.competitors import CompetitorMaps
    from zslib.sweep import write_curve

    found = CompetitorMaps.open(competitors)
    write_curve(out, found, open_labels(labels), values, method=method, seed=seed)


if __name__ == "__main__":
    main()
