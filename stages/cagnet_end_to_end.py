"""Train CaGNet's networks on seen classes, the backbone among them."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage
from stages.end_to_end import Inputs, end_to_end


@stage
@end_to_end
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images by it.")
def main(section: Sections, *, inputs: Inputs, maps: Path, out: Path) -> None:
    """Train the published first step; write network.safetensors and step1.safetensors.

    Reads params.yaml:cagnet.end_to_end, cagnet.step1, features.label_rule, seed. Example:
    python -m stages.cagnet_end_to_end --network artifacts/world/u4/backbone/network.safetensors ...
    --out artifacts/world/u4/cagnet/e2e/networks
    """
    params, step1 = section("cagnet.end_to_end"), section("cagnet.step1")
    rule, seed = section("features.label_rule"), section("seed")
    name, sections = "cagnet end to end", [params, step1, rule]

    from zslib.artifacts import publish
    from zslib.artifacts.features import DenseMaps
    from zslib.methods.cagnet.end_to_end import fit

    with inputs.opened(name, sections, seed=seed, more=[maps]) as given:
        networks = fit(
            given.backbone,
            given.images,
            DenseMaps.open(maps),
            given.class_embeddings,
            step1,
            params,
            label_rule=rule,
            run=given.run,
        )
        with publish(out) as temporary:
            given.backbone.save(temporary / "network.safetensors")
            networks.save(temporary / "step1.safetensors")


if __name__ == "__main__":
    main()
