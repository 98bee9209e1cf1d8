"""Extraction of pixel features from the frozen, eval-mode backbone into the feature cache.

The view is fixed: the image resized to a given short side, nothing else. Labels come to the feature
grid straight from the original label map, by nearest with floor(i * in / out) as in zs3net §4.3, or
by the pixel under each cell (`features.label_rule`). Since labels tell beforehand how many rows
there will be, the file is allocated first and every process fills its own part of it; what is done
is noted, so a killed extraction goes on where it stopped.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from zslib.artifacts.publish import explained_if_full, move_into_place
from zslib.artifacts.schemas import BANK, DENSE
from zslib.artifacts.store import allocate, finish, is_unfinished, map_array
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.decode import read_image
from zslib.datasets.views import size_with_short_side
from zslib.grids import LABEL_RULES, feature_grid
from zslib.params import FeatureParams
from zslib.training import Runtime, progress

SECONDS_BETWEEN_FLUSHES = 5.0


def sample_rows(
    labels: UInt8[np.ndarray, "gh gw"], rows_per_class: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Choose at most `rows_per_class` cells of each class; return them in order, with how many
    cells of the map each one stands for."""
    flat = labels.reshape(-1)
    chosen, weights = [], []
    for label in np.unique(flat[flat != IGNORE_INDEX]):
        cells = np.flatnonzero(flat == label)
        kept = cells[:rows_per_class]
        if len(cells) > rows_per_class:
            kept = rng.choice(cells, rows_per_class, replace=False)
        chosen.append(kept)
        weights.append(np.full(len(kept), len(cells) / len(kept), np.float32))
    if not chosen:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    cells, shares = np.concatenate(chosen), np.concatenate(weights)
    order = np.argsort(cells, kind="stable")
    return cells[order].astype(np.int64), shares[order]


@dataclass(frozen=True)
class Extraction:
    """What to extract: images, the rows of each image's map that are kept, and the other arrays."""

    schema: str
    images: Sequence[Path]
    views: Sequence[tuple[int, int]]
    """(height, width) of each image's view."""
    cells: Sequence[np.ndarray | slice]
    """Which cells of each flattened map are kept."""
    counts: Sequence[int]
    """How many those are."""
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def plan_bank(
    images: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    label_maps: Sequence[np.ndarray],
    params: FeatureParams,
    *,
    seed: int,
    meta: Mapping[str, Any],
) -> Extraction:
    """Plan a pixel bank: a seeded sample of rows per image and class. Sizes are (width, height)."""
    views = _views(sizes, params)
    cells, labels, pixels = [], [], []
    for position, (view, label_map) in enumerate(zip(views, label_maps, strict=True)):
        small = LABEL_RULES[params.label_rule](label_map, feature_grid(view))
        rng = np.random.default_rng([seed, position])
        chosen, shares = sample_rows(small, params.rows_per_class, rng)
        cells.append(chosen)
        labels.append(small.reshape(-1)[chosen])
        pixels.append(shares)
    counts = [len(c) for c in cells]
    arrays = {
        "labels": np.concatenate(labels),
        "pixels": np.concatenate(pixels),
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    }
    return Extraction(BANK, images, views, cells, counts, arrays, meta)


def plan_dense(
    images: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    params: FeatureParams,
    *,
    meta: Mapping[str, Any],
) -> Extraction:
    """Plan dense maps. Sizes are (width, height) of the images."""
    views = _views(sizes, params)
    grids = np.array([feature_grid(view) for view in views], np.int32).reshape(-1, 2)
    counts = grids.astype(np.int64).prod(axis=1).tolist()
    cells = [slice(None)] * len(images)
    meta = {**meta, "views": [list(view) for view in views]}
    return Extraction(DENSE, images, views, cells, counts, {"grids": grids}, meta)


def tuning_sample(ids: Sequence[str], count: int, *, seed: int) -> tuple[str, ...]:
    """Choose the training images that free choices are scored on, in the order of `ids`."""
    chosen = np.random.default_rng(seed).permutation(len(ids))[:count]
    return tuple(ids[position] for position in sorted(chosen.tolist()))


def extract(
    features_of: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b d h w"]],
    plan: Extraction,
    out: Path,
    *,
    dimension: int,
    batch_size: int,
    runtime: Runtime,
    scratch: Path,
) -> None:
    """Run the network over the planned images and publish the file at `out`.

    `features_of` maps uint8 images on the runtime's device to features. With several processes each
    fills its share of the batches; a run that was killed resumes from `scratch`.
    """
    work = scratch / "features.h5"
    if runtime.rank == 0 and not is_unfinished(work):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        with explained_if_full(out):
            _allocate(work, plan, dimension)
    runtime.barrier()
    rows = map_array(work, "features", mode="r+")
    starts = np.concatenate([[0], np.cumsum(plan.counts)])
    batches = _batches_of_one_size(plan.views, batch_size)
    journal = _Journal(scratch, runtime.rank)
    todo = [b for b in range(runtime.rank, len(batches), runtime.world_size) if not journal.has(b)]
    shown = progress(todo, name=f"{plan.schema.split('/')[0]} features", quiet=runtime.rank > 0)
    decoded = _decoded_ahead([batches[b] for b in todo], plan)
    for batch, images in zip(shown, decoded, strict=True):
        maps = features_of(images.to(runtime.device)).half().cpu()
        for position, feature_map in zip(batches[batch], maps, strict=True):
            flat = feature_map.flatten(1).T.numpy()
            rows[starts[position] : starts[position + 1]] = flat[plan.cells[position]]
        journal.note(batch, flush=rows)
    journal.close(rows)
    runtime.barrier()
    if runtime.rank == 0:
        del rows
        finish(work, schema=plan.schema, meta=plan.meta)
        out.parent.mkdir(parents=True, exist_ok=True)
        move_into_place(work, out)
    runtime.barrier()


def _views(sizes: Sequence[tuple[int, int]], params: FeatureParams) -> list[tuple[int, int]]:
    scaled = [size_with_short_side(size, params.short_side) for size in sizes]
    return [(height, width) for width, height in scaled]


def _allocate(work: Path, plan: Extraction, dimension: int) -> None:
    partial = work.with_suffix(".new")
    shapes = {"features": ((sum(plan.counts), dimension), np.dtype(np.float16))}
    allocate(partial, shapes | {n: (a.shape, a.dtype) for n, a in plan.arrays.items()})
    for name, array in plan.arrays.items():
        if array.size:
            map_array(partial, name, mode="r+")[...] = array
    partial.replace(work)


def _batches_of_one_size(views: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Group positions into batches of equal view size, in a fixed order."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, view in enumerate(views):
        groups.setdefault(view, []).append(position)
    return [
        members[start : start + batch_size]
        for _, members in sorted(groups.items())
        for start in range(0, len(members), batch_size)
    ]


def _decoded_ahead(batches: Sequence[Sequence[int]], plan: Extraction) -> Iterator[Tensor]:
    """Yield the image tensors of each batch, decoded in threads while the network works."""

    def decode(positions: Sequence[int]) -> Tensor:
        return torch.stack([_view(plan.images[p], plan.views[p]) for p in positions])

    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = [pool.submit(decode, batch) for batch in batches[:4]]
        for index in range(len(batches)):
            if index + 4 < len(batches):
                waiting.append(pool.submit(decode, batches[index + 4]))
            yield waiting.pop(0).result()


def _view(path: Path, view: tuple[int, int]) -> Tensor:
    image = read_image(path)
    if (image.height, image.width) != view:
        image = image.resize((view[1], view[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class _Journal:
    """Which batches are on disk: rows are flushed before their batches are noted."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = folder / f"done.{rank}.txt"
        # Another number of processes may have begun: believe all their notes.
        notes = [f.read_text().splitlines() for f in sorted(folder.glob("done.*.txt"))]
        # A line that was cut off, whatever its number has become, lacks the last word.
        whole = [line.split() for lines in notes for line in lines if line.endswith(" done")]
        self._done = {int(batch) for batch, _ in whole}
        self._pending: list[int] = []
        self._flushed_at = time.monotonic()

    def has(self, batch: int) -> bool:
        return batch in self._done

    def note(self, batch: int, *, flush: np.ndarray) -> None:
        self._pending.append(batch)
        if time.monotonic() - self._flushed_at > SECONDS_BETWEEN_FLUSHES:
            self.close(flush)

    def close(self, rows: np.ndarray) -> None:
        if isinstance(rows, np.memmap):
            rows.flush()
        with self._file.open("a") as file:
            file.write("".join(f"\n{batch} done" for batch in self._pending))
        self._pending = []
        self._flushed_at = time.monotonic()
