"""Gated feature maps, and the bank that step 2 draws from: the contextual module, applied once.

With the module fixed, every later step sees a pixel as (F, mean, log-variance); the latent code is
drawn anew each time (cagnet §11). At test time the code is its mean, so the gated map is fixed as
well. F and the gated feature are stored rather than their sigmoid, whose tails float16 would flatten.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zslib.artifacts.features import BANK, DENSE, DenseMaps
from zslib.artifacts.publish import link_or_copy, publish
from zslib.artifacts.store import allocate, finish, map_array
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.methods.cagnet.networks import ContextualModule, gate
from zslib.training import Runtime, progress

FLOAT16 = np.dtype(np.float16)


@dataclass(frozen=True)
class BankPlan:
    """Which cells of each map go into the bank, and what else it holds."""

    cells: Sequence[np.ndarray]
    labels: np.ndarray
    pixels: np.ndarray
    """How many labelled pixels of its map each row stands for."""
    offsets: np.ndarray
    split: Split

    @classmethod
    def of(
        cls,
        grids: Sequence[np.ndarray],
        split: Split,
        *,
        rows_per_image: int,
        seed: int,
    ) -> "BankPlan":
        """Draw at most `rows_per_image` labelled cells of each map, alike whatever their class."""
        cells, labels, pixels = [], [], []
        for position, grid in enumerate(grids):
            labelled = np.flatnonzero(grid != IGNORE_INDEX)
            chosen = labelled
            if len(labelled) > rows_per_image:
                rng = np.random.default_rng([seed, position])
                chosen = np.sort(rng.choice(labelled, rows_per_image, replace=False))
            cells.append(chosen)
            labels.append(grid.reshape(-1)[chosen])
            pixels.append(np.full(len(chosen), len(labelled) / max(len(chosen), 1), np.float32))
        offsets = np.cumsum([0, *map(len, cells)]).astype(np.int64)
        return cls(cells, np.concatenate(labels), np.concatenate(pixels), offsets, split)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"labels": self.labels, "pixels": self.pixels, "offsets": self.offsets}


def publish_gated(
    out: Path,
    context: ContextualModule,
    sources: Mapping[str, DenseMaps],
    runtime: Runtime,
    *,
    bank: BankPlan,
    scratch: Path,
) -> None:
    """Publish a folder of gated maps, a file for each source, and the bank of the source `train`.

    What a killed run has finished of them is found in `scratch`, and not made again.
    """
    for name, maps in sources.items():
        if (finished := scratch / name).exists():
            continue
        with publish(finished) as temporary:
            temporary.mkdir()
            planned = (temporary / "bank.h5", bank) if name == "train" else None
            write_gated(temporary / f"{name}.h5", context, maps, runtime, bank=planned)
    with publish(out) as temporary:
        temporary.mkdir()
        for name in sources:
            for file in (scratch / name).iterdir():
                link_or_copy(file, temporary / file.name)


@torch.inference_mode()
def write_gated(
    path: Path,
    context: ContextualModule,
    maps: DenseMaps,
    runtime: Runtime,
    *,
    bank: tuple[Path, BankPlan] | None = None,
) -> None:
    """Write the gated maps (cagnet §3, z = mean) of all images, under their ids; and a bank of them.

    The bank's rows are [F, mean, log-variance]. The files are finished, but not published.
    """
    counts = maps.grids.astype(np.int64).prod(axis=1)
    room = (int(counts.sum()), maps.dimension), FLOAT16
    allocate(path, {"features": room, "grids": maps.grids})
    gated = map_array(path, "features", mode="r+")
    starts = np.cumsum([0, *counts])
    if bank is not None:
        room = (len(bank[1].labels), 3 * maps.dimension), FLOAT16
        allocate(bank[0], {"features": room, **bank[1].arrays})
        rows = map_array(bank[0], "features", mode="r+")
    for position, (features, mean, log_variance) in enumerate(contextual(context, maps, runtime)):
        start, stop = starts[position : position + 2]
        gated[start:stop] = gate(features, mean).half().cpu().numpy()
        if bank is not None:
            chosen = torch.from_numpy(bank[1].cells[position]).to(runtime.device)
            parts = torch.cat([features, mean, log_variance], dim=1).index_select(0, chosen)
            start, stop = bank[1].offsets[position : position + 2]
            rows[start:stop] = parts.half().cpu().numpy()
    del gated
    finish(path, schema=DENSE, meta=maps.meta | {"ids": list(maps.ids)})
    if bank is not None:
        del rows
        meta = {"labels": bank[1].split.describe(), "ids": list(maps.ids)}
        finish(bank[0], schema=BANK, meta=meta)


def contextual(
    context: ContextualModule, maps: DenseMaps, runtime: Runtime
) -> Iterator[tuple[Float[Tensor, "p d"], Float[Tensor, "p d"], Float[Tensor, "p d"]]]:
    """Yield standardised features, mean and log-variance of the pixels of each map."""
    context = context.to(runtime.device).eval()
    shown = progress(maps, name="contextual maps", total=len(maps), quiet=runtime.rank > 0)
    for feature_map in shown:
        standardised = context.standardise(feature_map.to(runtime.device).float())
        mean, log_variance = context(standardised.permute(2, 0, 1)[None])
        moments = (moment[0].permute(1, 2, 0).flatten(0, 1) for moment in (mean, log_variance))
        yield standardised.flatten(0, 1), *moments
