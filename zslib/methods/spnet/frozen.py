"""SPNet and SPNet-c on frozen pixel features (spnet §10).

The last layer predicts a vector in word space, h = A f + a; class scores are its products with fixed,
unit-norm class embeddings, h . e_c. Training is a plain cross-entropy over the seen classes; unseen
classes join at test by their embeddings alone. SPNet-c takes a constant gamma from the probability
of every seen class; gamma comes from held-out seen classes, never from the unseen.

What the frozen form loses against the paper: features do not adapt to the word vectors, and there is
no maximum over three scales. The problem is convex, and A starts at zero, so that no trace of a
random start is left in the scores of unseen classes (spnet §9.11).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.heads import Classifiers
from zslib.held_out import draw_held_out
from zslib.losses import weighted_cross_entropy
from zslib.minimising import minimise
from zslib.params.evaluation import SelectionParams
from zslib.params.training import LinearTraining
from zslib.sampling import NaturalRows
from zslib.selection import Choice, score_strengths
from zslib.training import Curves


class Projection(nn.Module):
    """Pixel features to seen-class scores through word space; embeddings are not trained."""

    def __init__(self, dimension: int, class_embeddings: Float[Tensor, "s e"]) -> None:
        super().__init__()
        self.project = nn.Linear(dimension, class_embeddings.shape[1])
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.register_buffer("class_embeddings", class_embeddings, persistent=False)

    def forward(self, pixel_features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s"]:
        return self.project(pixel_features) @ self.class_embeddings.T

    def over_all(self, class_embeddings: Float[Tensor, "c e"]) -> tuple[Tensor, Tensor]:
        """Return the weight (c, d) and bias (c,) of the same scores over any classes."""
        with torch.no_grad():
            return class_embeddings @ self.project.weight, class_embeddings @ self.project.bias


@dataclass(frozen=True)
class Inputs:
    """What SPNet learns from: a pixel bank, tuning images with seen labels, class embeddings."""

    bank: PixelBank
    tuning: DenseMaps
    labels: LabelMaps
    class_embeddings: Float[Tensor, "c e"]


def fit(
    inputs: Inputs,
    training: LinearTraining,
    gammas: Sequence[float],
    selection: SelectionParams,
    *,
    seed: int,
    curves: Curves | None = None,
) -> Classifiers[PixelClassifier]:
    """Return the classifier over all classes, with gamma chosen on held-out seen classes."""
    split = inputs.bank.split
    choice, held_out = choose_gamma(inputs, training, gammas, selection, seed=seed)
    classifier = fit_projection(inputs, split, training, allowed=None, seed=seed, curves=curves)
    details = {"gamma": choice.describe(split.classes)}
    return Classifiers(replace(classifier, gamma=choice.chosen, meta=details), held_out)


def choose_gamma(
    inputs: Inputs,
    training: LinearTraining,
    gammas: Sequence[float],
    selection: SelectionParams,
    *,
    seed: int,
) -> tuple[Choice, tuple[PixelClassifier, ...]]:
    """Score every gamma on seen classes held out from the projection.

    Returns the choice, and each draw's classifier with the chosen gamma.
    """
    draws = draw_held_out(inputs.bank.split, selection, seed=seed)
    outside = inputs.bank.rows_outside(inputs.tuning.ids)
    fitted = [fit_projection(inputs, draw, training, allowed=outside, seed=seed) for draw in draws]
    rows = [score_strengths(one, inputs.tuning, inputs.labels, gammas) for one in fitted]
    choice = Choice(tuple(gammas), tuple(rows), tuple(draw.unseen for draw in draws))
    return choice, tuple(replace(one, gamma=choice.chosen) for one in fitted)


def fit_projection(
    inputs: Inputs,
    split: Split,
    training: LinearTraining,
    *,
    allowed: np.ndarray | None,
    seed: int,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Train the projection on the rows of the split's seen classes (of `allowed` rows only)."""
    bank = inputs.bank
    usable = bank.rows_of_classes(split.seen)
    rows = NaturalRows(bank, usable if allowed is None else usable & allowed)
    model = Projection(bank.dimension, inputs.class_embeddings[list(split.seen)])
    position = positions(split.seen)

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = rows.draw(training.batch_size, rng)
        return bank.gather(chosen), torch.from_numpy(position[bank.labels[chosen]])

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        features, labels = batch
        total, count = weighted_cross_entropy(model(features), labels)
        return total / count

    minimise(
        loss_of,
        draw,
        model,
        training.optimiser,
        steps=training.steps,
        seed=seed,
        name=f"spnet {split.name}",
        curves=curves,
    )
    weight, bias = model.over_all(inputs.class_embeddings)
    return PixelClassifier(split, weight, bias)


def positions(ids: Sequence[int]) -> np.ndarray:
    """Class id -> position among `ids`."""
    table = np.full(256, 255, np.int64)
    table[list(ids)] = np.arange(len(ids))
    return table
