"""CaGNet's first step: contextual module and players learn together on seen classes (cagnet §5).

The backbone is frozen, so a batch is windows of cached maps. The contextual module learns to gate
features for the classifier, to keep its latent code near N(0, 1), and, in the paper's form, to code
what the generator needs to reconstruct a feature; the released code cuts that last path (cagnet §4).

`fit_players` trains players alone, with the module fixed, from the bank of `maps.py`: those that free
choices are made with, which must not know the held-out classes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.benchmark import Split
from zslib.methods.cagnet.batches import RowSampler, Windows, WindowSampler, label_grids
from zslib.methods.cagnet.networks import ContextualModule, gate, sample_latent
from zslib.methods.cagnet.objectives import kl_divergence, word_table
from zslib.methods.cagnet.players import Pixels, Players, losses_on_real, take_steps
from zslib.params.cagnet import CagnetNetworks, CagnetStep1
from zslib.training import (
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    build_optimiser,
    train,
)

CAGNET = Schema("cagnet/1", "step1 of cagnet")
STATISTICS_CELLS = 2**18
STATISTICS_BLOCK = 2**12


@dataclass(frozen=True)
class Step1:
    """The networks after the first step, and the split they were trained for."""

    context: ContextualModule
    players: Players
    split: Split

    def save(self, path: Path) -> None:
        """Publish the networks."""
        networks = {"context": self.context, "players": self.players}
        tensors = {
            f"{name}.{key}": value.detach().cpu().numpy()
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }
        params = self.context.params.model_dump(mode="json")
        save_tensors(
            path, tensors, schema=CAGNET, meta={**self.split.describe(), "networks": params}
        )

    @classmethod
    def load(cls, path: Path) -> "Step1":
        """Open and verify the networks. Raises ArtifactError."""
        tensors, meta = load_tensors(path, schema=CAGNET)
        params = CagnetNetworks.model_validate_json(json.dumps(meta["networks"]))
        split = Split.described(meta)
        dimension = len(tensors["context.centre"])
        inputs = tensors["players.generator.layers.0.weight"].shape[1]
        context = ContextualModule(dimension, params)
        players = Players(inputs - dimension, dimension, len(split.classes), params)
        for name, network in {"context.": context, "players.": players}.items():
            own = {k: torch.from_numpy(t) for k, t in tensors.items() if k.startswith(name)}
            network.load_state_dict({k.removeprefix(name): t for k, t in own.items()})
        return cls(context, players, split)


def fit(
    maps: DenseMaps,
    labels: LabelMaps,
    class_embeddings: Float[Tensor, "c e"],
    params: CagnetStep1,
    *,
    label_rule: str,
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> Step1:
    """Train all networks on the maps of labelled training images.

    Raises:
        InputError: no pixel of these maps has a label.
    """
    torch.manual_seed(seed)
    split = Split.described(dict(labels.meta))
    context = ContextualModule(maps.dimension, params.networks)
    context.centre, context.scale = channel_statistics(maps)
    embedding_dimension = class_embeddings.shape[1]
    players = Players(embedding_dimension, maps.dimension, len(split.classes), params.networks)
    context.to(runtime.device)
    players.to(runtime.device)
    optimisers = {"context": context_optimiser(context, params), **players.optimisers(params)}
    sampler = WindowSampler(
        maps,
        list(label_grids(maps, labels, split, label_rule)),
        side=params.crop,
        batch_size=params.batch_size,
        rows=params.rows,
    )
    words = word_table(class_embeddings).to(runtime.device)
    centre = context.centre.cpu()

    def batches(start: int) -> Iterator[Windows]:
        for step in range(start, params.steps):
            yield sampler.draw(centre, np.random.default_rng([seed, step]))

    def step(windows: Windows) -> Losses:
        windows = windows.to(runtime.device)
        pixels, divergence = contextual_pixels(context, windows, words)
        return joint_step(players, pixels, divergence, params, optimisers)

    train(
        TrainState({"context": context, "players": players}, optimisers),
        step,
        batches,
        steps=params.steps,
        seed=seed,
        name=f"cagnet step 1 {split.name}",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    return Step1(context.cpu(), players.cpu(), split)


def channel_statistics(maps: DenseMaps) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Return mean and deviation of each channel, over evenly spaced cells of the maps' file.

    Cells are summed as float64, block by block: all at once would take a multiple of their file.
    """
    stride = max(len(maps.features) // STATISTICS_CELLS, 1)
    cells = maps.features[::stride]

    def mean(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        total = np.zeros(maps.dimension)
        for start in range(0, len(cells), STATISTICS_BLOCK):
            total += of(cells[start : start + STATISTICS_BLOCK].astype(np.float64)).sum(axis=0)
        return total / len(cells)

    centre = mean(lambda block: block)
    scale = np.sqrt(mean(lambda block: np.square(block - centre)))
    scale = np.where(scale > 0, scale, 1)  # a channel that is always 0 stays so
    return torch.from_numpy(centre).float(), torch.from_numpy(scale).float()


def context_optimiser(context: ContextualModule, params: CagnetStep1) -> Optimizer:
    """Return the contextual module's optimiser; as released, it forgets the selector (cagnet §10-A4)."""
    left_out = set() if params.train_selector else set(context.selector.parameters())
    trained = [parameter for parameter in context.parameters() if parameter not in left_out]
    return build_optimiser(params.context, trained)


def contextual_pixels(
    context: ContextualModule, windows: Windows, words: Float[Tensor, "256 e"]
) -> tuple[Pixels, Float[Tensor, ""]]:
    """Return the labelled pixels of a batch with latent codes from their context, and the KL term."""
    standardised = context.standardise(windows.features.permute(0, 2, 3, 1))
    moments = context(standardised.permute(0, 3, 1, 2))
    mean, log_variance = (
        moment.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, windows.cells)
        for moment in moments
    )
    features = standardised.flatten(0, 2).index_select(0, windows.cells)
    latent = sample_latent(mean, log_variance)
    squashed = gate(features, latent).sigmoid()
    pixels = Pixels(squashed, latent, words.index_select(0, windows.labels), windows.labels)
    return pixels, kl_divergence(mean, log_variance)


def joint_step(
    players: Players,
    pixels: Pixels,
    divergence: Float[Tensor, ""],
    params: CagnetStep1,
    optimisers: dict[str, Optimizer],
) -> Losses:
    """Take one step of all networks (cagnet §4)."""
    objectives = params.objectives
    found = losses_on_real(players, pixels, objectives, params)
    context = objectives.kl_weight * divergence
    context = context + objectives.context_classification_weight * found.classification
    if objectives.reconstruction_reaches_context:
        context = context + objectives.reconstruction_weight * found.reconstruction
    losses = {"context": context, **found.of_players()}
    take_steps(losses, optimisers, step_idle=objectives.step_idle)
    return {**found.curves(), "kl": divergence.detach()}


def fit_players(
    bank: PixelBank,
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: CagnetStep1,
    *,
    allowed: Bool[np.ndarray, " n"],
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
) -> Players:
    """Train fresh players on rows of the split's seen classes, with the contextual module fixed."""
    torch.manual_seed(seed)
    dimension, classes = bank.dimension // 3, len(split.classes)
    players = Players(class_embeddings.shape[1], dimension, classes, params.networks)
    players.to(runtime.device)
    optimisers = players.optimisers(params)
    words = word_table(class_embeddings).to(runtime.device)
    usable = allowed & bank.rows_of_classes(split.seen)
    sampler = RowSampler(bank, usable, batch_size=params.batch_size, rows=params.rows)

    def batches(start: int) -> Iterator[np.ndarray]:
        for step in range(start, params.steps):
            yield sampler.draw(np.random.default_rng([seed, step]))

    def step(rows: np.ndarray) -> Losses:
        pixels = cached_pixels(bank, rows, words)
        found = losses_on_real(players, pixels, params.objectives, params)
        take_steps(found.of_players(), optimisers, step_idle=params.objectives.step_idle)
        return found.curves()

    train(
        TrainState({"players": players}, optimisers),
        step,
        batches,
        steps=params.steps,
        seed=seed,
        name=f"cagnet players {split.name}",
        runtime=runtime,
        checkpoint=checkpoint,
    )
    return players.cpu()


def cached_pixels(bank: PixelBank, rows: np.ndarray, words: Float[Tensor, "256 e"]) -> Pixels:
    """Return rows of the bank as labelled pixels, with latent codes drawn anew, where `words` are."""
    features, mean, log_variance = bank.gather(rows).to(words.device).chunk(3, dim=1)
    labels = torch.from_numpy(bank.labels[rows].astype(np.int64)).to(words.device)
    latent = sample_latent(mean, log_variance)
    squashed = gate(features, latent).sigmoid()
    return Pixels(squashed, latent, words.index_select(0, labels), labels)
