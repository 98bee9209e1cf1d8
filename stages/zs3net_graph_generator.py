"""Train the graph generators of ZS3Net with graph context."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, stage


@stage
@click.option("--graphs", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections, *, graphs: Path, maps: Path, embeddings: Path, curves: Path, out: Path
) -> None:
    """Train the graph generator of a split, and one without each draw of held-out seen classes.

    Reads params.yaml:zs3net.graph.generator, zs3net.graph.convolution, selection, seed. Example:
    python -m stages.zs3net_graph_generator --graphs artifacts/world/u4/zs3net-gc/graphs.h5 ...
    --out artifacts/world/u4/zs3net-gc/generator.safetensors
    """
    params, convolution = section("zs3net.graph.generator"), section("zs3net.graph.convolution")
    selection, seed = section("selection"), section("seed")

    import torch

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.graphs import ImageGraphs
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.zs3net.generator import save_generators
    from zslib.methods.zs3net.graph import fit_graph_generators
    from zslib.training import Curves

    recorded = Curves(curves, every=50)
    generators = fit_graph_generators(
        ImageGraphs.open(graphs),
        torch.from_numpy(load_class_vectors(embeddings).rows),
        params,
        selection,
        convolution=convolution,
        tuning_ids=DenseMaps.open(maps).tuning.ids,
        seed=seed,
        curves=recorded,
    )
    save_generators(out, generators)
    recorded.write()


if __name__ == "__main__":
    main()
