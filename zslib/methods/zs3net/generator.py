"""ZS3Net's generator: a GMMN from class embeddings to pixel features (zs3net §4.1, §4.2).

Trained by the maximum mean discrepancy between generated and real features, one seen class per step.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zslib.artifacts.features import PixelBank
from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.benchmark import Split
from zslib.held_out import draw_held_out
from zslib.losses import guarded_root, squared_mmd
from zslib.minimising import minimise
from zslib.params.evaluation import SelectionParams
from zslib.params.training import OptimiserParams
from zslib.params.zs3net import GeneratorParams, GmmnParams
from zslib.sampling import ClassRows
from zslib.training import Curves

GENERATOR = Schema("generator/1", "generator")


class Gmmn(nn.Module):
    """The layers of a generator, and its noise. There is no activation at the output."""

    def __init__(self, embedding_dimension: int, dimension: int, params: GmmnParams) -> None:
        super().__init__()
        self.params = params
        self.layers = nn.Sequential(
            nn.Linear(embedding_dimension + params.noise_dimension, params.hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(params.dropout),
            nn.Linear(params.hidden, dimension),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.constant_(layer.bias, 0.01)

    def noise(self, count: int, device: torch.device) -> Float[Tensor, "n z"]:
        """Draw noise for some features."""
        draw = torch.randn if self.params.noise == "gaussian" else torch.rand
        return draw((count, self.params.noise_dimension), device=device)


class Generator(Gmmn):
    """Class embedding and noise -> pixel feature."""

    def forward(
        self, class_embeddings: Float[Tensor, "n e"], noise: Float[Tensor, "n z"]
    ) -> Float[Tensor, "n d"]:
        return self.layers(torch.cat([class_embeddings, noise], dim=1))

    def sample(self, class_embeddings: Float[Tensor, "n e"]) -> Float[Tensor, "n d"]:
        """Generate one feature per row, each with noise of its own."""
        return self(class_embeddings, self.noise(len(class_embeddings), class_embeddings.device))


def mmd_loss(
    generated: Float[Tensor, "m d"], real: Float[Tensor, "n d"], params: GmmnParams
) -> Float[Tensor, ""]:
    """Return the generator's loss (zs3net §4.2)."""
    squared = squared_mmd(generated, real, params.bandwidths, kernel=params.kernel)
    return guarded_root(squared) if params.root else squared


def fit_generator(
    bank: PixelBank,
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: GeneratorParams,
    *,
    allowed: np.ndarray | None,
    seed: int,
    curves: Curves | None = None,
) -> Generator:
    """Train a generator on the rows of the split's seen classes; one class per step, all alike."""
    torch.manual_seed(seed)
    generator = Generator(class_embeddings.shape[1], bank.dimension, params)
    usable = bank.rows_of_classes(split.seen)
    rows = ClassRows(bank, usable if allowed is None else usable & allowed, split.seen)

    def draw(rng: np.random.Generator) -> tuple[int, Tensor]:
        label = int(rng.choice(rows.classes))
        return label, bank.gather(rows.draw(label, params.rows, rng))

    def pair(drawn: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
        label, real = drawn
        return generator.sample(class_embeddings[label].expand(params.rows, -1)), real

    name = f"generator {split.name}"
    match_features(generator, params, draw, pair, seed=seed, name=name, curves=curves)
    return generator


Drawn = TypeVar("Drawn")


def match_features(
    generator: Gmmn,
    params: GeneratorParams,
    draw: Callable[[np.random.Generator], Drawn],
    pair: Callable[[Drawn], tuple[Float[Tensor, "m d"], Float[Tensor, "n d"]]],
    *,
    seed: int,
    name: str,
    curves: Curves | None,
) -> None:
    """Train a generator until generated and real features of a class match.

    Each step draws one class's real features, and `pair` returns generated ones with them.
    """
    minimise(
        lambda drawn: mmd_loss(*pair(drawn), params),
        draw,
        generator,
        OptimiserParams(name="adam", lr=params.lr, power=0.0),
        steps=params.steps,
        seed=seed,
        name=name,
        curve="mmd",
        curves=curves,
    )


Kind = TypeVar("Kind", bound=Gmmn)


@dataclass(frozen=True)
class Generators(Generic[Kind]):
    """The generator of a split, and one per draw of held-out seen classes."""

    final: Kind
    held_out: tuple[Kind, ...]
    draws: tuple[Split, ...]


def fit_generators(
    bank: PixelBank,
    class_embeddings: Float[Tensor, "c e"],
    params: GeneratorParams,
    selection: SelectionParams,
    *,
    tuning_ids: Sequence[str],
    seed: int,
    curves: Curves | None = None,
) -> Generators[Generator]:
    """Train the final generator, and those that choices are made with."""
    draws = draw_held_out(bank.split, selection, seed=seed)
    outside = bank.rows_outside(tuning_ids)
    held_out = tuple(
        fit_generator(bank, class_embeddings, draw, params, allowed=outside, seed=seed)
        for draw in draws
    )
    final = fit_generator(
        bank, class_embeddings, bank.split, params, allowed=None, seed=seed, curves=curves
    )
    return Generators(final, held_out, tuple(draws))


def save_generators(path: Path, generators: Generators[Kind]) -> None:
    """Publish the generators of a split."""
    final = generators.final
    networks = {"final": final} | {f"draw{i}": g for i, g in enumerate(generators.held_out)}
    tensors = {
        f"{name}.{key}": value.detach().numpy()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    meta = {
        "params": final.params.model_dump(mode="json"),
        "draws": [draw.describe() for draw in generators.draws],
    }
    save_tensors(path, tensors, schema=GENERATOR, meta=meta)


def load_generators(path: Path, kind: type[Kind]) -> Generators[Kind]:
    """Open and verify the generators of a split. Raises ArtifactError."""
    tensors, meta = load_tensors(path, schema=GENERATOR)
    params = GeneratorParams.model_validate_json(json.dumps(meta["params"]))

    def network(name: str) -> Kind:
        state = {
            key.removeprefix(f"{name}."): torch.from_numpy(value)
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        inputs = state["layers.0.weight"].shape[1]
        generator = kind(inputs - params.noise_dimension, len(state["layers.3.bias"]), params)
        generator.load_state_dict(state)
        return generator

    draws = tuple(Split.described(draw) for draw in meta["draws"])
    held_out = tuple(network(f"draw{index}") for index in range(len(draws)))
    return Generators(network("final"), held_out, draws)
