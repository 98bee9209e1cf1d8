"""Train SPNet with its whole network learning."""

from pathlib import Path

import click

from stages.command import EXISTING, PATH, Sections, scratch, stage


@stage
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--network", type=EXISTING, required=True, help="The seen-only backbone.")
@click.option("--embeddings", type=EXISTING, required=True)
@click.option("--curves", type=PATH, required=True)
def main(
    section: Sections,
    *,
    images: Path,
    labels: Path,
    network: Path,
    embeddings: Path,
    curves: Path,
    out: Path,
) -> None:
    """Train the published form; write network.safetensors and classifier.safetensors.

    Reads params.yaml:spnet.end_to_end, spnet.gammas, selection, features, seed. Example:
    python -m stages.spnet_end_to_end --network artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/spnet/e2e/trained
    """
    params, gammas = section("spnet.end_to_end"), section("spnet.gammas")
    selection, features = section("selection"), section("features")
    seed, compute = section("seed"), section("compute")

    import torch

    from zslib.artifacts import publish
    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.fine_tuning import LabelledImages, Run
    from zslib.methods.spnet.end_to_end import fit
    from zslib.training import Curves, start_runtime

    backbone, recorded = Backbone.load(network), Curves(curves, every=50)
    labelled = LabelledImages.of(ImageIndex.load(images).path, open_labels(labels))
    runtime = start_runtime(compute.on_one_device())
    inputs = [images, labels, network, embeddings]
    sections = [params, gammas, selection, features, seed]
    with scratch(out, inputs, sections) as folder:
        learned, classifier = fit(
            backbone,
            labelled,
            torch.from_numpy(load_class_vectors(embeddings).rows),
            params,
            gammas,
            selection=selection,
            features=features,
            run=Run("spnet end to end", seed, compute, runtime, folder, recorded),
        )
        with publish(out) as temporary:
            learned.save(temporary / "network.safetensors")
            classifier.save(temporary / "classifier.safetensors")
        recorded.write()


if __name__ == "__main__":
    main()
