"""Extraction of pixel features from the frozen, eval-mode backbone into the feature cache.

The view is fixed: the image resized to a given short side, nothing else. Labels come to the feature
grid straight from the original label map, by nearest with floor(i * in / out) as in zs3net §4.3, or
by the pixel under each cell (`features.label_rule`). Since labels tell beforehand how many rows
there will be, the file is allocated first and every process fills its own part of it; a killed
extraction goes on where it stopped.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from zslib.artifacts.features import BANK, DENSE
from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import Room
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.decode import ImageFile, read_image
from zslib.datasets.views import size_with_short_side
from zslib.grids import LABEL_RULES, feature_grid
from zslib.params.backbone import FeatureParams
from zslib.training import Runtime, progress


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
class Photographs:
    """The images of one extraction and the size of their views; every image is seen once."""

    paths: Sequence[ImageFile]
    views: Sequence[tuple[int, int]]
    """(height, width) of each image's view."""
    grids: Sequence[tuple[int, int]]
    """(h, w) of each image's feature map."""

    @classmethod
    def of(
        cls,
        paths: Sequence[ImageFile],
        sizes: Sequence[tuple[int, int]],
        *,
        short_side: int,
        stride: int,
    ) -> "Photographs":
        """Scale images of these (width, height) to a short side, for features of some stride."""
        scaled = [size_with_short_side(size, short_side) for size in sizes]
        views = [(height, width) for width, height in scaled]
        return cls(paths, views, [feature_grid(view, stride) for view in views])


@dataclass(frozen=True)
class Plan:
    """One file to fill: which cells of each image's flattened map go there, and its other arrays."""

    schema: Schema
    cells: Sequence[np.ndarray | slice]
    counts: Sequence[int]
    """How many cells of each image are kept."""
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]

    def begin(self, path: Path, dimension: int) -> None:
        """Make the file in scratch, unless a run that was killed has left it there."""
        rows = (sum(self.counts), dimension), np.dtype(np.float16)
        arrays: dict[str, np.ndarray | Room] = {"features": rows, **self.arrays}
        ResumableFile.begin(path, arrays, items=len(self.counts))


def plan_bank(
    photographs: Photographs,
    label_maps: Sequence[np.ndarray],
    params: FeatureParams,
    *,
    seed: int,
    meta: Mapping[str, Any],
) -> Plan:
    """Plan a pixel bank: a seeded sample of rows per image and class."""
    cells, labels, pixels = [], [], []
    for position, (grid, label_map) in enumerate(zip(photographs.grids, label_maps, strict=True)):
        small = LABEL_RULES[params.label_rule](label_map, grid)
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
    return Plan(BANK, cells, counts, arrays, meta)


def plan_dense(
    photographs: Photographs,
    ids: Sequence[str],
    *,
    kept: Sequence[str] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan dense maps of the images with these ids, or of those `kept` among them."""
    chosen = np.isin(ids, ids if kept is None else kept)
    grids = np.array(photographs.grids, np.int32).reshape(-1, 2)
    counts = np.where(chosen, grids.astype(np.int64).prod(axis=1), 0).tolist()
    cells = [slice(None) if whole else slice(0) for whole in chosen]
    described = {
        "ids": [image_id for image_id, whole in zip(ids, chosen, strict=True) if whole],
        "views": [list(v) for v, whole in zip(photographs.views, chosen, strict=True) if whole],
    }
    arrays = {"grids": grids[chosen]}
    return Plan(DENSE, cells, counts, arrays, described | dict(meta or {}))


def sample_ids(ids: Sequence[str], count: int, *, seed: int) -> tuple[str, ...]:
    """Choose some images, in the order of `ids`; a smaller sample is part of every larger one."""
    chosen = np.random.default_rng(seed).permutation(len(ids))[:count]
    return tuple(ids[position] for position in sorted(chosen.tolist()))


def sample_unlabelled(
    ids: Sequence[str], labelled: Sequence[str], train_maps: int | None, *, seed: int
) -> tuple[str, ...]:
    """Choose the images that self-training labels, in the order of `ids`.

    Labelled and unlabelled images are to be in the proportion that they have in the dataset, since
    published self-training learns from all (zs3net §6): where whole maps are kept of some labelled
    images, the unlabelled ones are the same share of theirs, but not none. An image that keeps its
    seen labels is chosen where its map is kept.
    """
    if train_maps is None:
        return tuple(ids)
    known = set(labelled)
    others = [image_id for image_id in ids if image_id not in known]
    count = math.ceil(len(others) * min(train_maps, len(labelled)) / len(labelled))
    with_maps = sample_ids(labelled, train_maps, seed=seed)
    chosen = {*with_maps, *sample_ids(others, count, seed=seed)}
    return tuple(image_id for image_id in ids if image_id in chosen)


def extract(
    features_of: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b d h w"]],
    photographs: Photographs,
    plans: Mapping[Path, Plan],
    *,
    dimension: int,
    batch_size: int,
    runtime: Runtime,
    scratch: Path,
) -> None:
    """Run the network over the photographs once and publish every planned file at its path.

    `features_of` maps uint8 images on the runtime's device to features. With several processes each
    fills its share of the batches; a run that was killed resumes from `scratch`.
    """
    works = [scratch / f"{index}.h5" for index in range(len(plans))]
    if runtime.rank == 0:
        for work, plan in zip(works, plans.values(), strict=True):
            plan.begin(work, dimension)
    runtime.barrier()
    parts = [
        _Part(ResumableFile(work, items=len(plan.counts), writer=runtime.rank), plan)
        for work, plan in zip(works, plans.values(), strict=True)
    ]
    mine = _batches_of_one_size(photographs.views, batch_size)[runtime.rank :: runtime.world_size]
    todo = [batch for batch in mine if any(part.lacks(batch) for part in parts)]
    shown = progress(todo, name=f"features {next(iter(plans)).stem}", quiet=runtime.rank > 0)
    for batch, images in zip(shown, _decoded_ahead(todo, photographs), strict=True):
        maps = features_of(images.to(runtime.device)).half().cpu()
        for position, feature_map in zip(batch, maps, strict=True):
            rows = feature_map.flatten(1).T.numpy()
            for part in parts:
                part.fill(position, rows)
    for part in parts:
        part.file.flush()
    runtime.barrier()
    if runtime.rank == 0:
        for out, part in zip(plans, parts, strict=True):
            part.file.publish(out, schema=plans[out].schema, meta=plans[out].meta)
    runtime.barrier()


class _Part:
    """One of the files, filled image by image with what an earlier run left to do."""

    def __init__(self, file: ResumableFile, plan: Plan) -> None:
        self.file, self._cells = file, plan.cells
        self._starts = np.cumsum([0, *plan.counts])
        self._to_do = set(file.to_do)

    def lacks(self, batch: Sequence[int]) -> bool:
        return not self._to_do.isdisjoint(batch)

    def fill(self, position: int, rows: np.ndarray) -> None:
        if position in self._to_do:
            start, stop = self._starts[position : position + 2]
            self.file["features"][start:stop] = rows[self._cells[position]]
            self.file.note_done(position)


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


def _decoded_ahead(batches: Sequence[Sequence[int]], photographs: Photographs) -> Iterator[Tensor]:
    """Yield the image tensors of each batch, decoded in threads while the network works."""
    with ThreadPoolExecutor(max_workers=4) as pool:

        def begin(batch: Sequence[int]) -> list[Future[Tensor]]:
            # One by one: a batch in a single thread would keep the first forward pass waiting.
            return [pool.submit(_view, photographs.paths[p], photographs.views[p]) for p in batch]

        waiting = [begin(batch) for batch in batches[:4]]
        for index in range(len(batches)):
            waiting += [begin(batch) for batch in batches[index + 4 : index + 5]]
            yield torch.stack([view.result() for view in waiting.pop(0)]).permute(0, 3, 1, 2)


def _view(file: ImageFile, view: tuple[int, int]) -> UInt8[Tensor, "h w 3"]:
    image = read_image(file)
    if (image.height, image.width) != view:
        image = image.resize((view[1], view[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))
