"""Write the leaderboard and the report."""

from pathlib import Path

import click

from stages.command import EXISTING, SCRATCH, Sections, stage


@stage
@click.option("--scores", type=EXISTING, required=True, help="Folder of score files (JSON).")
@click.option("--evaluations", type=EXISTING, required=True, help="Folder of evaluations.")
@click.option("--calibration", type=EXISTING, help="Folder of calibration curves.")
@click.option("--artifacts", type=EXISTING, required=True, help="The benchmark's artifacts.")
def main(
    section: Sections,
    *,
    scores: Path,
    evaluations: Path,
    calibration: Path | None,
    artifacts: Path,
    out: Path,
) -> None:
    """Write leaderboard.csv and index.html, one self-contained page.

    Reads params.yaml:benchmark, splits, report, seed, the lists of splits that switch rows on, and what
    says where networks have their first weights from. Scores that no stage of the dvc.yaml files writes
    are left out, with a warning; a benchmark that is only evaluated on has the splits of its source.
    What scratch/timings.jsonl knows of the stages' cost is shown, if it is there.
    Example: python -m stages.report --scores results/world --evaluations evaluations/world
    --calibration curves/world/calibration --artifacts artifacts/world --out report
    """
    benchmark = section("benchmark")
    splits = section("splits") or benchmark.source_splits
    params, seed = section("report"), section("seed")
    encoder, sazs = section("backbone.model.encoder"), section("sazs.model")
    proposals, clip = section("simbaseline.proposals.encoder"), section("vision_language.name")
    tables = section("vision_language.text_tables")

    from zslib.artifacts import publish
    from zslib.report.build import Inputs, build
    from zslib.report.declared import declared_scores
    from zslib.report.pretraining import Beginnings

    inputs = Inputs(scores, evaluations, calibration, artifacts, SCRATCH / "timings.jsonl")
    beginnings = Beginnings(encoder, sazs, proposals, clip, tables)
    declared = declared_scores(Path(), section)
    leaderboard, html = build(
        inputs, benchmark, splits, beginnings, declared, seed=seed, pictures=params.pictures
    )
    with publish(out) as folder:
        folder.mkdir()
        (folder / "leaderboard.csv").write_text(leaderboard, encoding="utf-8")
        (folder / "index.html").write_text(html, encoding="utf-8")


if __name__ == "__main__":
    main()
