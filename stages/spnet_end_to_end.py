"""Train SPNet with its whole network learning."""

from pathlib import Path

from stages.command import Sections, stage
from stages.end_to_end import Inputs, end_to_end


@stage
@end_to_end
def main(section: Sections, *, inputs: Inputs, out: Path) -> None:
    """Train the published form; write network.safetensors and classifier.safetensors.

    Reads params.yaml:spnet.end_to_end, spnet.gammas, selection, features.tuning_images,
    features.short_side, features.batch_size, seed. Example: python -m stages.spnet_end_to_end
    --network artifacts/world/u4/backbone/network.safetensors ... --out artifacts/world/u4/spnet/e2e/trained
    """
    params, gammas = section("spnet.end_to_end"), section("spnet.gammas")
    selection, seed = section("selection"), section("seed")
    tuning = [
        section("features.tuning_images"),
        section("features.short_side"),
        section("features.batch_size"),
    ]
    sections = [params, gammas, selection, tuning]

    from zslib.artifacts import publish
    from zslib.fine_tuning import Tuning
    from zslib.methods.spnet.end_to_end import fit

    with inputs.opened("spnet end to end", sections, seed=seed) as given:
        learned, classifier = fit(
            given.backbone,
            given.images,
            given.class_embeddings,
            params,
            gammas,
            selection=selection,
            tuning=Tuning(*tuning),
            run=given.run,
        )
        with publish(out) as temporary:
            learned.save(temporary / "network.safetensors")
            classifier.save(temporary / "classifier.safetensors")


if __name__ == "__main__":
    main()
