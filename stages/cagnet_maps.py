"""Gate feature maps by CaGNet's contextual module."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, scratch, stage


@stage
@click.option("--recipe", type=click.Choice(["cagnet", "cagnet.official"]), required=True)
@click.option("--train", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--val", type=EXISTING, required=True, help="Those of validation images.")
@click.option("--unlabelled", type=EXISTING, required=True, help="Those of unlabelled images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
@click.option("--step1", type=EXISTING, required=True)
def main(
    section: Sections,
    *,
    recipe: str,
    train: Path,
    val: Path,
    unlabelled: Path,
    labels: Path,
    step1: Path,
    out: Path,
) -> None:
    """Write train.h5, val.h5 and unlabelled.h5, gated maps, and bank.h5, which step 2 draws from.

    Reads params.yaml:<recipe>.bank_rows, features.label_rule, seed. Example:
    python -m stages.cagnet_maps --recipe cagnet --train artifacts/world/u4/features/train/maps.h5 ...
    --out artifacts/world/u4/cagnet/maps
    """
    rows, seed, compute = section(f"{recipe}.bank_rows"), section("seed"), section("compute")
    rule = section("features.label_rule")

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.methods.cagnet.batches import label_grids
    from zslib.methods.cagnet.maps import BankPlan, publish_gated
    from zslib.methods.cagnet.step1 import Step1
    from zslib.training import start_runtime

    networks, runtime = Step1.load(step1), start_runtime(compute)
    paths = {"train": train, "val": val, "unlabelled": unlabelled}
    maps, split = {name: DenseMaps.open(path) for name, path in paths.items()}, networks.split
    grids = label_grids(maps["train"], open_labels(labels), split, rule)
    plan = BankPlan.of(list(grids), split, rows_per_image=rows, seed=seed)
    with scratch(out, [*paths.values(), labels, step1], [rows, rule, seed]) as folder:
        publish_gated(out, networks.context, maps, runtime, bank=plan, scratch=folder)


if __name__ == "__main__":
    main()
