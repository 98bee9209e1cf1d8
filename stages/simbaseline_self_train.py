"""Self-train SimBaseline: pseudo-labels, and a second training on all classes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage

if TYPE_CHECKING:
    from zslib.benchmark import Split
    from zslib.embeddings.table import ClassVectors
    from zslib.methods.simbaseline.segmenters import ProposalSegmenter
    from zslib.params import FusionParams


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--network", type=EXISTING, required=True, help="The trained MaskFormer.")
@click.option("--proposals", type=EXISTING, required=True, help="Its proposals, unlabelled images.")
@click.option("--regions", type=EXISTING, required=True, help="Embeddings of their regions.")
@click.option("--text", type=EXISTING, required=True, help="Class names read in template sets.")
@click.option("--prompts", type=EXISTING, required=True, help="Class names read in learned ones.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    images: Path,
    labels: Path,
    network: Path,
    proposals: Path,
    regions: Path,
    text: Path,
    prompts: Path,
    curves: Path,
    out: Path,
) -> None:
    """Write pseudo_labels.h5, network.safetensors, and val.h5: what it proposes for validation.

    Reads params.yaml:simbaseline but for its proposals, seed. Example:
    python -m stages.simbaseline_self_train --network artifacts/world/u4/simbaseline/network.safetensors ...
    --out artifacts/world/u4/simbaseline/st
    """
    params, fusion = section("simbaseline.self_training"), section("simbaseline.clean")
    query_prompts = section("simbaseline.query_prompts")
    region_prompts = section("simbaseline.region_prompts")
    views, batch_size = section("simbaseline.test"), section("simbaseline.batch_size")
    seed = section("seed")
    compute = section("compute").on_one_device()

    from zslib.artifacts.maps import open_labels
    from zslib.artifacts.publish import publish
    from zslib.datasets.index import ImageIndex
    from zslib.methods.simbaseline.extraction import TestImages, extract
    from zslib.methods.simbaseline.network import Proposer
    from zslib.methods.simbaseline.segmenters import load_text
    from zslib.methods.simbaseline.self_training import self_train
    from zslib.training import Curves, start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    proposer, recorded = Proposer.load(network), Curves(curves, every=20)
    runtime = start_runtime(compute)
    query_text, region_text = (
        load_text(one, templates=text, learned=prompts) for one in (query_prompts, region_prompts)
    )
    first = _segmenter(proposals, regions, query_text, region_text, proposer.split, fusion)
    inputs = [images, labels, network, proposals, regions]
    sections = [params, fusion, views, query_text.made_from, query_prompts, region_prompts, seed]
    with scratch(out, inputs, sections) as folder, publish(out) as temporary:
        self_train(
            proposer,
            first,
            query_text,
            index,
            label_maps,
            params,
            path=temporary / "pseudo_labels.h5",
            seed=seed,
            compute=compute,
            runtime=runtime,
            scratch=folder,
            curves=recorded,
        )
        proposer.save(temporary / "network.safetensors")
        extract(
            proposer,
            TestImages.of(index, index.ids("val"), views),
            temporary / "val.h5",
            batch_size=batch_size,
            runtime=runtime,
            scratch=folder / "val",
        )
        recorded.write()


def _segmenter(
    proposals: Path,
    regions: Path,
    query_text: "ClassVectors",
    region_text: "ClassVectors",
    split: "Split",
    fusion: "FusionParams",
) -> "ProposalSegmenter":
    """Return what labels the unlabelled images: both classifiers of their proposals."""
    from zslib.artifacts.proposals import Proposals
    from zslib.artifacts.regions import Regions
    from zslib.methods.simbaseline.segmenters import segmenter

    proposed = Proposals.open(proposals)
    embedded = Regions.open(regions, proposals=proposed.key)
    return segmenter(
        "both", proposed, query_text, split, fusion, regions=embedded, region_text=region_text
    )


if __name__ == "__main__":
    main()
