"""Train ZS3Net as its authors released it."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Labels of all classes: the leak.")
@click.option("--network", type=EXISTING, required=True)
@click.option("--seen-labels", type=EXISTING, required=True, help="Says what is unseen.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--graph", is_flag=True, help="With the graph branch: ZS3Net + GC.")
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    images: Path,
    labels: Path,
    network: Path,
    seen_labels: Path,
    embeddings: Path,
    graph: bool,
    curves: Path,
    out: Path,
) -> None:
    """Train generator and classifier interleaved, on the ground truth of unseen classes.

    Reads params.yaml:zs3net.official, seed; with --graph, zs3net.graph.official_epochs. Writes
    network.safetensors (its batch statistics have moved) and classifier.safetensors. Example:
    python -m stages.zs3net_official --images artifacts/world/index/images.json ...
    --out artifacts/world/u4/zs3net/official
    """
    params, seed, compute = section("zs3net.official"), section("seed"), section("compute")
    if graph:
        params = params.model_copy(update={"epochs": section("zs3net.graph.official_epochs")})

    import torch

    from zslib.artifacts import publish
    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.benchmark import Split
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.methods.zs3net import official
    from zslib.training import Checkpoint, Curves, start_runtime

    index, label_maps = ImageIndex.load(images), open_labels(labels)
    backbone = Backbone.load(network)
    recorded = Curves(curves, every=50)
    with scratch(out, [images, labels, network, embeddings], [params, seed]) as folder:
        classifier = official.fit(
            backbone.network,
            backbone.params.encoder,
            images=[index.file(image_id) for image_id in label_maps.ids],
            label_maps=label_maps,
            class_embeddings=torch.from_numpy(load_class_vectors(embeddings).rows),
            split=Split.described(open_labels(seen_labels).meta),
            params=params,
            graph=graph,
            seed=seed,
            compute=compute,
            runtime=start_runtime(compute),
            checkpoint=Checkpoint(folder, compute.checkpoint_seconds),
            curves=recorded,
        )
        with publish(out) as temporary:
            backbone.save(temporary / "network.safetensors")
            classifier.save(temporary / "classifier.safetensors")
        recorded.write()


if __name__ == "__main__":
    main()
