"""Train the classifier of ZS3Net with graph context."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--bank", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option(
    "--generator", type=EXISTING, required=True, help="Of pixel features: plain ZS3Net's."
)
@click.option("--graphs", type=EXISTING, required=True)
@click.option("--graph-generator", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    bank: Path,
    maps: Path,
    labels: Path,
    embeddings: Path,
    generator: Path,
    graphs: Path,
    graph_generator: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train plain ZS3Net's classifier with one more branch, on segments in their graphs.

    Reads params.yaml:zs3net.classifier, zs3net.graph.branch, zs3net.graph.convolution, seed. Example:
    python -m stages.zs3net_graph_classifier --bank artifacts/world/u4/features/train/bank.h5 ...
    --out artifacts/world/u4/zs3net-gc/clean
    """
    params, seed = section("zs3net.classifier"), section("seed")
    branch, convolution = section("zs3net.graph.branch"), section("zs3net.graph.convolution")

    import torch

    from zslib.artifacts.features import DenseMaps, PixelBank
    from zslib.artifacts.graphs import ImageGraphs
    from zslib.artifacts.maps import open_labels
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.zs3net.classifier import fit
    from zslib.methods.zs3net.generator import Generator, load_generators
    from zslib.methods.zs3net.graph import GraphGenerator, graph_branches
    from zslib.training import Curves

    recorded = Curves(curves, every=50)
    tuning = DenseMaps.open(maps).tuning
    class_embeddings = torch.from_numpy(load_class_vectors(embeddings).rows)
    classifiers = fit(
        PixelBank.open(bank),
        tuning,
        open_labels(labels),
        load_generators(generator, Generator),
        class_embeddings,
        params,
        branches=graph_branches(
            ImageGraphs.open(graphs),
            load_generators(graph_generator, GraphGenerator),
            class_embeddings,
            branch,
            convolution=convolution,
            dropout=params.synthetic_dropout,
            tuning_ids=tuning.ids,
        ),
        seed=seed,
        curves=recorded,
    )
    classifiers.save(out)
    recorded.write()


if __name__ == "__main__":
    main()
