"""Score SimBaseline, or one half of it."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--method", required=True, help="Name in the leaderboard.")
@click.option("--protocol", type=click.Choice(["clean", "official"]), required=True)
@click.option("--setting", type=click.Choice(["inductive", "transductive"]), default="inductive")
@click.option(
    "--by",
    type=click.Choice(["both", "queries", "regions", "oracle"]),
    default="both",
    help="What names the masks; the oracle looks at labels.",
)
@click.option("--proposals", type=EXISTING, required=True, help="Of the validation images.")
@click.option("--regions", type=EXISTING, help="Embeddings of their regions.")
@click.option("--text", type=EXISTING, required=True, help="Class names read in template sets.")
@click.option("--prompts", type=EXISTING, help="Class names read in learned ones.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--seen-labels", type=EXISTING, required=True, help="Says what is unseen.")
@click.option("--scores", type=PATH, required=True, help="The metrics file (JSON) to write.")
def main(
    section: Sections,
    *,
    method: str,
    protocol: str,
    setting: str,
    by: str,
    proposals: Path,
    regions: Path | None,
    text: Path,
    prompts: Path | None,
    labels: Path,
    seen_labels: Path,
    scores: Path,
    out: Path,
) -> None:
    """Assemble label maps of the validation images from proposals, and score them.

    Reads params.yaml:simbaseline.clean or simbaseline.official, simbaseline.query_prompts,
    simbaseline.region_prompts, evaluate, seed. Example:
    python -m stages.simbaseline_evaluate --method simbaseline --protocol clean
    --proposals artifacts/world/u4/simbaseline/proposals/val.h5 ...
    --out evaluations/world/u4/simbaseline-clean
    """
    fusion = section(f"simbaseline.{protocol}")
    query_prompts = section("simbaseline.query_prompts")
    region_prompts = section("simbaseline.region_prompts")
    params, seed = section("evaluate"), section("seed")

    from zslib.artifacts.maps import open_labels
    from zslib.artifacts.proposals import Proposals
    from zslib.artifacts.regions import Regions
    from zslib.benchmark import Split
    from zslib.evaluation import Entry, evaluate, save
    from zslib.methods.simbaseline.segmenters import load_text, segmenter

    split, truth = Split.described(open_labels(seen_labels).meta), open_labels(labels)
    proposed = Proposals.open(proposals)
    found = segmenter(
        by,
        proposed,
        load_text(query_prompts, templates=text, learned=prompts),
        split,
        fusion,
        regions=Regions.open(regions, proposals=proposed.key) if regions else None,
        region_text=load_text(region_prompts, templates=text, learned=prompts) if regions else None,
        truth=truth,
    )
    evaluation = evaluate(found, truth, resolution=params.resolution)
    entry = Entry(split.name, method, protocol, seed=seed, setting=setting)
    save(evaluation, entry, params, folder=out, scores=scores)


if __name__ == "__main__":
    main()
