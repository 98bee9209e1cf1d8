"""Compute the eigenvectors of images."""

import os
from pathlib import Path

import click

from stages.command import EXISTING, Sections, scratch, stage


@stage
@click.option(
    "--images", type=EXISTING, required=True, help="images.json of an index, or a folder."
)
@click.option("--maps", type=EXISTING, help="Dense maps; only their images are taken.")
@click.option("--train-maps", type=EXISTING, help="More dense maps; their tuning images are taken.")
@click.option("--processes", type=click.IntRange(min=1), help="One for each core if not given.")
def main(
    section: Sections,
    *,
    images: Path,
    maps: Path | None,
    train_maps: Path | None,
    processes: int | None,
    out: Path,
) -> None:
    """Write the smallest eigenvectors of the normalised Laplacian of each image's graph.

    Nodes are the cells of the dense maps, or patches with the keys of `eigenvectors.encoder`, which
    needs no maps: without any, all images are taken. Reads params.yaml:eigenvectors.
    Example: python -m stages.eigenvectors --images photos --out photos.h5
    """
    params, compute = section("eigenvectors"), section("compute")

    from zslib.artifacts.features import DenseMaps
    from zslib.datasets.index import ImageIndex
    from zslib.spectral.extraction import extract
    from zslib.spectral.nodes import choose_source, index_folder
    from zslib.training import start_runtime

    index = index_folder(images) if images.is_dir() else ImageIndex.load(images)
    chosen = [DenseMaps.open(maps)] if maps else []
    tuning = [DenseMaps.open(train_maps).tuning] if train_maps else []
    device = start_runtime(compute).device
    source = choose_source(params, index, chosen + tuning, device)
    inputs = [path for path in (maps, train_maps) if path]
    with scratch(out, inputs, [params, index]) as folder:
        extract(
            source,
            params,
            out,
            processes=processes or len(os.sched_getaffinity(0)),
            device=device,
            scratch=folder,
        )


if __name__ == "__main__":
    main()
