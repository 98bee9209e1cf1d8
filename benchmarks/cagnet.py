"""Training steps of CaGNet from cached maps and rows, and with the backbone in the loop (cagnet §11)."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from benchmarks.material import draw_bank, draw_maps, published_params
from benchmarks.measure import Result, peak_memory, time_side_by_side
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.backbones.network import Normalise
from zslib.backbones.trained import build_network
from zslib.methods.cagnet.batches import RowSampler, Windows, WindowSampler
from zslib.methods.cagnet.networks import ContextualModule
from zslib.methods.cagnet.objectives import word_table
from zslib.methods.cagnet.players import Players, losses_on_real, take_steps
from zslib.methods.cagnet.step1 import (
    cached_pixels,
    context_optimiser,
    contextual_pixels,
    joint_step,
)
from zslib.params.backbone import ModelParams
from zslib.params.cagnet import CagnetStep1

ROWS, MAPS, BACKBONE = "step 2 from the bank", "step 1 from maps", "backbone pass and step 1"
EMBEDDING_DIMENSION, CLASSES = 600, 20


class Steps:
    """Training steps of both kinds on pixels, wherever those come from."""

    def __init__(self, params: CagnetStep1, dimension: int) -> None:
        self.params = params
        self.context = ContextualModule(dimension, params.networks)
        self._players = Players(EMBEDDING_DIMENSION, dimension, CLASSES, params.networks)
        self._optimisers = {
            "context": context_optimiser(self.context, params),
            **self._players.optimisers(params),
        }
        self._words = word_table(torch.randn(CLASSES, EMBEDDING_DIMENSION))

    def joint(self, windows: Windows) -> None:
        """Take a step of all networks, as step 1 does."""
        pixels, divergence = contextual_pixels(self.context, windows, self._words)
        joint_step(self._players, pixels, divergence, self.params, self._optimisers)

    def players_only(self, bank: PixelBank, rows: np.ndarray) -> None:
        """Take a step with the contextual module fixed, as step 2 does."""
        pixels = cached_pixels(bank, rows, self._words)
        losses = losses_on_real(self._players, pixels, self.params.objectives, self.params)
        take_steps(losses.of_players(), self._optimisers, step_idle=False)


def from_maps(steps: Steps, maps: DenseMaps) -> Callable[[object], None]:
    """Return a step on windows that are cut from cached maps."""
    params, rng = steps.params, np.random.default_rng(0)
    grids = [rng.integers(0, CLASSES, grid, dtype=np.uint8) for grid in maps.grids.tolist()]
    sampler = WindowSampler(
        maps, grids, side=params.crop, batch_size=params.batch_size, rows=params.rows
    )
    return lambda _: steps.joint(sampler.draw(steps.context.centre, rng))


def from_bank(steps: Steps, bank: PixelBank) -> Callable[[object], None]:
    """Return a step on cached rows."""
    params, rng = steps.params, np.random.default_rng(0)
    every = np.ones(len(bank.labels), bool)
    sampler = RowSampler(bank, every, batch_size=params.batch_size, rows=params.rows)
    return lambda _: steps.players_only(bank, sampler.draw(rng))


def behind_backbone(steps: Steps, model: ModelParams) -> Callable[[object], None]:
    """Return a step on what the frozen backbone makes of a batch of images."""
    params = steps.params
    network = build_network(model, CLASSES, pretrained=False).eval()
    normalise = Normalise(model.encoder.mean, model.encoder.std)
    side = params.crop * model.feature_stride
    images = torch.randint(256, (params.batch_size, 3, side, side), dtype=torch.uint8)

    def step(_: object) -> None:
        with torch.no_grad():
            features: Tensor = network.features(normalise(images))
        cells = torch.randperm(features[:, 0].numel())[: params.rows].sort().values
        labels = torch.randint(CLASSES, (len(cells),))
        steps.joint(Windows(features, cells, labels))

    return step


def measure(
    *,
    model: ModelParams | None = None,
    params: CagnetStep1 | None = None,
    images: int = 24,
    repeats: int = 2,
) -> list[Result]:
    """Time a step each way, at the published sizes with a batch of two images.

    Peaks of resident memory are the process's so far, in the order of the rows.
    """
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        published = published_params(folder)
        model = model or published.backbone.model
        params = params or published.cagnet.step1.model_copy(update={"batch_size": 2})
        dimension, side = model.feature_channels, params.crop
        steps = Steps(params, dimension)
        options = {"images": images, "rows_per_image": 512, "dimension": 3 * dimension}
        bank = draw_bank(folder / "bank.h5", **options)
        maps = draw_maps(folder / "maps.h5", images=images, grid=(side, side), dimension=dimension)
        contestants = {
            ROWS: from_bank(steps, bank),
            MAPS: from_maps(steps, maps),
            BACKBONE: behind_backbone(steps, model),
        }
        notes = {}
        for row, step in contestants.items():
            step(None)
            notes[f"peak memory up to {row}, MiB"] = peak_memory()
        seconds = time_side_by_side(contestants, lambda: None, repeats=repeats)
    sizes: dict[str, int | str] = {"backbone": model.encoder.name, "dimension": dimension}
    sizes |= {"batch": params.batch_size, "crop": f"{side} cells", "rows": params.rows}
    title = "cagnet: one training step"
    return [
        Result(
            title,
            sizes | {"repeats": repeats},
            seconds,
            reference=MAPS,
            amount=1,
            unit="steps",
            notes=notes,
        )
    ]
