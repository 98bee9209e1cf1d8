"""Score SimBaseline, or one half of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.command import EXISTING, PATH, Sections, stage

if TYPE_CHECKING:
    from zslib.benchmark import ProtocolName, Setting
    from zslib.methods.simbaseline.segmenters import By

NAMED_BY = click.Choice(["both", "queries", "regions", "oracle"])
PROTOCOL = click.Choice(["clean", "official"])
SETTING = click.Choice(["inductive", "transductive", "cross-dataset"])


@stage
@click.option(
    "--row",
    "rows",
    type=(NAMED_BY, str, PROTOCOL),
    multiple=True,
    required=True,
    help="What names the masks (the oracle looks at labels), name in the leaderboard, protocol.",
)
@click.option("--setting", type=SETTING, default="inductive")
@click.option("--proposals", type=EXISTING, required=True, help="Of the validation images.")
@click.option("--regions", type=EXISTING, help="Embeddings of their regions.")
@click.option("--text", type=EXISTING, required=True, help="Class names read in template sets.")
@click.option("--prompts", type=EXISTING, help="Class names read in learned ones.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--seen-labels", type=EXISTING, required=True, help="Says what is unseen.")
@click.option("--scores", type=PATH, required=True, help="Folder of the metrics files (JSON).")
def main(
    section: Sections,
    *,
    rows: "tuple[tuple[By, str, ProtocolName], ...]",
    setting: "Setting",
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

    Reads params.yaml:simbaseline.clean, simbaseline.official, simbaseline.query_prompts,
    simbaseline.region_prompts, evaluate, seed. Example:
    python -m stages.simbaseline_evaluate --row both simbaseline clean
    --proposals artifacts/world/u4/simbaseline/proposals/val.h5 ... --scores results/world
    --out evaluations/world/u4/simbaseline
    """
    # Without regions nothing is fused.
    fusion = dict.fromkeys(("clean", "official"), section("simbaseline.clean"))
    query_prompts = section("simbaseline.query_prompts")
    if regions:
        fusion["official"] = section("simbaseline.official")
        region_prompts = section("simbaseline.region_prompts")
    params, seed = section("evaluate"), section("seed")

    from zslib.artifacts.maps import open_labels
    from zslib.artifacts.proposals import Proposals
    from zslib.artifacts.regions import Regions
    from zslib.benchmark import Split
    from zslib.evaluation import Entry, score
    from zslib.methods.simbaseline.segmenters import load_text, segmenter

    split, truth = Split.described(open_labels(seen_labels).meta), open_labels(labels)
    proposed = Proposals.open(proposals)
    query_text = load_text(query_prompts, templates=text, learned=prompts)
    region_text = load_text(region_prompts, templates=text, learned=prompts) if regions else None
    embedded = Regions.open(regions, proposals=proposed.key) if regions else None
    segmenters = {
        Entry(split.name, method, protocol, seed=seed, setting=setting): segmenter(
            named_by,
            proposed,
            query_text,
            split,
            fusion[protocol],
            regions=embedded,
            region_text=region_text,
            truth=truth,
        )
        for named_by, method, protocol in rows
    }
    score(segmenters, truth, params, folder=out, scores=scores)


if __name__ == "__main__":
    main()
