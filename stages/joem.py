"""Train JoEm, both encoders learning."""

from pathlib import Path

from stages.command import Sections, stage
from stages.end_to_end import Inputs, end_to_end


@stage
@end_to_end
def main(section: Sections, *, inputs: Inputs, out: Path) -> None:
    """Train the published form; write network.safetensors and classifier.safetensors.

    Reads params.yaml:joem.end_to_end, joem.objectives, joem.sigmas, selection,
    features.tuning_images, features.short_side, features.batch_size, seed. Example:
    python -m stages.joem --network artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/joem/trained
    """
    params, objectives = section("joem.end_to_end"), section("joem.objectives")
    sigmas, selection = section("joem.sigmas"), section("selection")
    tuning = [
        section("features.tuning_images"),
        section("features.short_side"),
        section("features.batch_size"),
    ]
    seed = section("seed")
    sections = [params, objectives, sigmas, selection, tuning]

    from zslib.artifacts import publish
    from zslib.fine_tuning import Tuning
    from zslib.methods.joem.end_to_end import fit

    with inputs.opened("joem", sections, seed=seed) as given:
        learned, classifier = fit(
            given.backbone,
            given.images,
            given.class_embeddings,
            params,
            objectives,
            sigmas,
            selection=selection,
            tuning=Tuning(*tuning),
            run=given.run,
        )
        with publish(out) as temporary:
            learned.save(temporary / "network.safetensors")
            classifier.save(temporary / "classifier.safetensors")


if __name__ == "__main__":
    main()
