"""Train JoEm, both encoders learning."""

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

    Reads params.yaml:joem.end_to_end, joem.objectives, joem.sigmas, selection, features, seed.
    Example: python -m stages.joem --network artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/joem/trained
    """
    params, objectives = section("joem.end_to_end"), section("joem.objectives")
    sigmas, selection = section("joem.sigmas"), section("selection")
    features, seed, compute = section("features"), section("seed"), section("compute")

    import torch

    from zslib.artifacts import publish
    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.fine_tuning import LabelledImages, Run
    from zslib.methods.joem.end_to_end import fit
    from zslib.training import Curves, start_runtime

    backbone, recorded = Backbone.load(network), Curves(curves, every=50)
    labelled = LabelledImages.of(ImageIndex.load(images).path, open_labels(labels))
    runtime = start_runtime(compute.on_one_device())
    inputs = [images, labels, network, embeddings]
    sections = [params, objectives, sigmas, selection, features, seed]
    with scratch(out, inputs, sections) as folder:
        learned, classifier = fit(
            backbone,
            labelled,
            torch.from_numpy(load_class_vectors(embeddings).rows),
            params,
            objectives,
            sigmas,
            selection=selection,
            features=features,
            run=Run("joem", seed, compute, runtime, folder, recorded),
        )
        with publish(out) as temporary:
            learned.save(temporary / "network.safetensors")
            classifier.save(temporary / "classifier.safetensors")
        recorded.write()


if __name__ == "__main__":
    main()
