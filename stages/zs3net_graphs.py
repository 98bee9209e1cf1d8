"""Build the component graphs of the training images."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of training images.")
@click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
def main(section: Sections, *, maps: Path, labels: Path, out: Path) -> None:
    """Write, for every image with a whole map, which segments touch and the features they have.

    Reads params.yaml:features.label_rule, zs3net.graph.node_features. Example:
    python -m stages.zs3net_graphs --maps artifacts/world/u4/features/train/maps.h5
    --labels artifacts/world/u4/seen_labels.h5 --out artifacts/world/u4/zs3net-gc/graphs.h5
    """
    label_rule, node_features = (
        section("features.label_rule"),
        section("zs3net.graph.node_features"),
    )

    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.graphs import image_graphs

    graphs = image_graphs(
        DenseMaps.open(maps),
        open_labels(labels),
        label_rule=label_rule,
        node_features=node_features,
    )
    graphs.save(out)


if __name__ == "__main__":
    main()
