"""Train SAZS."""

from pathlib import Path

from stages.command import Sections, stage
from stages.end_to_end import Inputs, end_to_end


@stage
@end_to_end
def main(section: Sections, *, inputs: Inputs, out: Path) -> None:
    """Align pixels with class vectors; write network, classifier, and maps for later choices.

    Reads params.yaml:sazs.model, sazs.objectives, sazs.training, sazs.input_size, sazs.gammas,
    sazs.folds, selection, features.tuning_images, features.short_side, features.batch_size, seed.
    Example: python -m stages.sazs --network artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/sazs/trained
    """
    model, objectives = section("sazs.model"), section("sazs.objectives")
    training, input_size = section("sazs.training"), section("sazs.input_size")
    gammas, folds, selection = section("sazs.gammas"), section("sazs.folds"), section("selection")
    tuning = [
        section("features.tuning_images"),
        section("features.short_side"),
        section("features.batch_size"),
    ]
    seed = section("seed")
    sections = [model, objectives, training, input_size, gammas, folds, selection, tuning]

    from zslib.datasets.folds import read_pairs
    from zslib.fine_tuning import Tuning
    from zslib.methods.sazs.fit import Recipe, fit

    with inputs.opened("sazs", sections, seed=seed) as given:
        learned = fit(
            given.backbone,
            given.images,
            None if folds is None else read_pairs(folds, given.images.split.name, "train"),
            given.class_embeddings,
            Recipe(model, objectives, training, input_size),
            gammas,
            selection=selection,
            tuning=Tuning(*tuning),
            run=given.run,
        )
        learned.save(out)


if __name__ == "__main__":
    main()
