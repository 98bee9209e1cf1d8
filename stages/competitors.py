"""Cache the two classes that each validation pixel is decided between."""

from pathlib import Path

import click

from stages.command import EXISTING, Sections, stage


@stage
@click.option("--classifier", type=EXISTING, required=True)
@click.option("--maps", type=EXISTING, required=True, help="Dense maps of the validation images.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels; their sizes only.")
def main(_: Sections, *, classifier: Path, maps: Path, labels: Path, out: Path) -> None:
    """Keep four values per pixel, from which every strength of the calibration is exact.

    Reads no parameters. Example: python -m stages.competitors
    --classifier artifacts/world/u4/spnet/frozen/classifier.safetensors ...
    --out artifacts/world/u4/spnet/competitors.h5
    """
    from zslib.artifacts.features import DenseMaps
    from zslib.artifacts.maps import open_labels
    from zslib.competitors import write_competitors
    from zslib.heads import load_head

    write_competitors(out, load_head(classifier), DenseMaps.open(maps), open_labels(labels))


if __name__ == "__main__":
    main()
