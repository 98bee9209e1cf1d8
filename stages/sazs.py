"""Train SAZS."""

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
    """Align pixels with class vectors; write network, classifier, and maps for later choices.

    Reads params.yaml:sazs.model, sazs.objectives, sazs.training, sazs.input_size, sazs.gammas,
    sazs.folds, selection, features, seed. Example: python -m stages.sazs
    --network artifacts/world/u4/backbone/network.safetensors ... --out artifacts/world/u4/sazs/trained
    """
    model, objectives = section("sazs.model"), section("sazs.objectives")
    training, input_size = section("sazs.training"), section("sazs.input_size")
    gammas, folds, selection = section("sazs.gammas"), section("sazs.folds"), section("selection")
    features, seed, compute = section("features"), section("seed"), section("compute")

    import torch

    from zslib.artifacts.maps import open_labels
    from zslib.backbones.trained import Backbone
    from zslib.datasets.folds import read_pairs
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.fine_tuning import LabelledImages, Run
    from zslib.methods.sazs.fit import Recipe, fit
    from zslib.training import Curves, start_runtime

    labelled = LabelledImages.of(ImageIndex.load(images).path, open_labels(labels))
    listed = None if folds is None else read_pairs(folds, labelled.split.name, "train")
    recorded, runtime = Curves(curves, every=50), start_runtime(compute.on_one_device())
    sections = [model, objectives, training, input_size, gammas, folds, selection, features, seed]
    with scratch(out, [images, labels, network, embeddings], sections) as folder:
        learned = fit(
            Backbone.load(network),
            labelled,
            listed,
            torch.from_numpy(load_class_vectors(embeddings).rows),
            Recipe(model, objectives, training, input_size),
            gammas,
            selection=selection,
            features=features,
            run=Run("sazs", seed, compute, runtime, folder, recorded),
        )
        learned.save(out)
        recorded.write()


if __name__ == "__main__":
    main()
