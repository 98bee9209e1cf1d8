"""Eigenvectors of many images into one file.

On a CPU every image is one job of a pool of processes with one BLAS thread each: many threads for one
small matrix are slower than one (sazs §9.3), and their sums differ with their number. On a GPU images
of one grid are solved together. A run that was killed goes on where it stopped.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch

from zslib.artifacts.eigenvectors import EIGENVECTORS, scaled_to_one, starts_of
from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.store import Room
from zslib.params.eigenvectors import EigenvectorParams
from zslib.spectral.block_krylov import batched_affinity, batched_spectra
from zslib.spectral.laplacian import Spectrum, image_spectrum
from zslib.spectral.nodes import Nodes, NodeSource
from zslib.spectral.processes import single_threaded_pool
from zslib.training import progress

BATCH_ENTRIES = 1 << 28
"""Entries of the affinity matrices that a GPU holds at a time: 1 GiB, and as much again for work."""

Solved = Iterator[tuple[int, Spectrum]]
"""Positions of images with what was found for them."""


def extract(
    source: NodeSource,
    params: EigenvectorParams,
    out: Path,
    *,
    processes: int,
    device: torch.device,
    scratch: Path,
) -> None:
    """Publish the eigenvectors of all images of a source at `out`.

    The bytes are the same whatever the number of processes; a GPU's differ by rounding.
    """
    file = ResumableFile.begin(
        scratch / "eigenvectors.h5", _arrays(source, params), items=len(source.ids)
    )
    todo, starts = file.to_do, starts_of(source.grids)
    if device.type == "cuda":
        solved = solved_in_batches(source, todo, params, device)
    else:
        solved = solved_in_processes(source, todo, params, processes)
    done = len(source.ids) - len(todo)
    for position, spectrum in progress(
        solved, name="eigenvectors", total=len(source.ids), initial=done
    ):
        start, stop = starts[position : position + 2]
        file["vectors"][start:stop] = scaled_to_one(spectrum.vectors[1:]).T
        file["eigenvalues"][position] = spectrum.eigenvalues
        file.note_done(position)
    meta = {"aligned": source.aligned, "ids": list(source.ids), **params.model_dump(mode="json")}
    file.publish(out, schema=EIGENVECTORS, meta=meta)


def solved_in_processes(
    source: NodeSource, positions: Sequence[int], params: EigenvectorParams, processes: int
) -> Solved:
    """Yield the spectrum of each image in order, solved by a pool of processes."""
    waiting: deque[tuple[int, Future[Spectrum]]] = deque()
    with single_threaded_pool(processes) as pool:
        for position in positions:
            problem = _problem(source.nodes(position), params)
            waiting.append((position, pool.submit(image_spectrum, *problem)))
            if len(waiting) > 2 * processes:
                first, done = waiting.popleft()
                yield first, done.result()
        yield from ((position, job.result()) for position, job in waiting)


def solved_in_batches(
    source: NodeSource, positions: Sequence[int], params: EigenvectorParams, device: torch.device
) -> Solved:
    """Yield the spectrum of each image, solved on a device together with others of its grid.

    Those that the batch does not settle are solved one by one as on a CPU.
    """
    for batch in _batches_of_one_grid(source.grids, positions):
        nodes = [source.nodes(position) for position in batch]
        features = torch.stack([one.features.to(device) for one in nodes])
        images = [one.image for one in nodes]
        affinity = batched_affinity(features, images, colour_weight=params.colour_weight)
        spectra = batched_spectra(affinity, params.vectors)
        for position, one, spectrum in zip(batch, nodes, spectra, strict=True):
            yield position, spectrum or image_spectrum(*_problem(one, params))


def _problem(
    nodes: Nodes, params: EigenvectorParams
) -> tuple[np.ndarray, np.ndarray | None, int, float]:
    """Return the arguments of `image_spectrum` for one image."""
    features = nodes.features.cpu().numpy()
    return features, nodes.image, params.vectors, params.colour_weight


def _batches_of_one_grid(
    grids: Sequence[tuple[int, int]], positions: Sequence[int]
) -> Iterator[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for position in positions:
        groups.setdefault(grids[position], []).append(position)
    for (height, width), members in sorted(groups.items()):
        size = max(1, BATCH_ENTRIES // (height * width) ** 2)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def _arrays(source: NodeSource, params: EigenvectorParams) -> dict[str, np.ndarray | Room]:
    """Return what the file holds: what is known of the grids, and room for the rest."""
    offsets = starts_of(source.grids)
    return {
        "eigenvalues": ((len(source.ids), params.vectors), np.dtype(np.float64)),
        "offsets": offsets,
        "grids": np.array(source.grids, np.int32).reshape(-1, 2),
        "covered": np.array(source.covered, np.float64).reshape(-1, 2),
        "vectors": ((int(offsets[-1]), params.vectors - 1), np.dtype(np.float16)),
    }
