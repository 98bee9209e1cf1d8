"""Self-train SimBaseline: pseudo-labels, and a second training on all classes."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


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
    seed, compute = section("seed"), section("compute")

    from zslib.artifacts.maps import open_labels
    from zslib.artifacts.proposals import Proposals
    from zslib.artifacts.regions import Regions
    from zslib.datasets.index import ImageIndex
    from zslib.fine_tuning import Run
    from zslib.methods.simbaseline.extraction import TestImages
    from zslib.methods.simbaseline.network import Proposer
    from zslib.methods.simbaseline.segmenters import load_text, segmenter
    from zslib.methods.simbaseline.self_training import self_train
    from zslib.training import Curves, start_runtime

    index, proposer = ImageIndex.load(images), Proposer.load(network)
    proposed, recorded = Proposals.open(proposals), Curves(curves, every=20)
    query_text, region_text = (
        load_text(one, templates=text, learned=prompts) for one in (query_prompts, region_prompts)
    )
    labeller = segmenter(
        "both",
        proposed,
        query_text,
        proposer.split,
        fusion,
        regions=Regions.open(regions, proposals=proposed.key),
        region_text=region_text,
    )
    inputs = [images, labels, network, proposals, regions, prompts / "text.safetensors"]
    sections = [params, fusion, views, query_text.made_from, region_text.made_from, seed]
    with scratch(out, inputs, sections) as folder:
        name, runtime = f"self-training {proposer.split.name}", start_runtime(compute)
        self_train(
            proposer,
            labeller,
            query_text,
            index,
            open_labels(labels),
            params,
            test=TestImages.of(index, index.ids("val"), views),
            batch_size=batch_size,
            out=out,
            run=Run(name, seed, compute, runtime, folder, recorded),
        )
        recorded.write()


if __name__ == "__main__":
    main()
