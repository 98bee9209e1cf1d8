"""JoEm's prototypes by least squares: no training (joem §10, F0).

With fixed features, boundary-aware regression is a quadratic function of the semantic encoder: two
matrices, summed over the maps once, tell all of it. The solution has no random start, whose trace
the published prototypes of unseen classes carry (joem §9.11).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from zslib.methods.joem.cells import Cells
from zslib.methods.joem.networks import with_void
from zslib.methods.joem.objectives import pairwise_distances, semantic_consistency
from zslib.params.joem import JoemObjectives


@dataclass(frozen=True)
class Moments:
    """All that the regression depends on: means over cells of w w' and w f'."""

    weights: Float64[Tensor, "c1 c1"]
    features: Float64[Tensor, "c1 d"]

    @classmethod
    def of(cls, maps: Iterable[Cells]) -> "Moments":
        """Sum over the cells of maps, one map at a time."""
        count, weights, features = 0, torch.zeros(()), torch.zeros(())
        for cells in maps:
            count += len(cells)
            weights = weights + (cells.weights.T @ cells.weights).double()
            features = features + (cells.weights.T @ cells.features.float()).double()
        return cls(weights / count, features / count)


def solve(
    moments: Moments,
    class_embeddings: Float[Tensor, "c e"],
    consistent: Sequence[int],
    objectives: JoemObjectives,
    *,
    ridge: float,
    steps: int,
) -> Float[Tensor, "c d"]:
    """Return the prototypes that minimise L_bar + consistency_weight L_sc + ridge ||W||² / d.

    Without L_sc, which is between the `consistent` classes, the minimum is found at once; the search
    for the other starts there, and takes some steps.
    """
    embeddings, ids = class_embeddings.double(), torch.tensor(consistent)
    inputs = F.pad(with_void(embeddings), (0, 1), value=1.0)  # the last is for the bias
    penalty = torch.full((inputs.shape[1],), ridge, dtype=torch.float64)
    penalty[-1] = 0
    normal = inputs.T @ moments.weights @ inputs + penalty.diag()
    right = inputs.T @ moments.features
    encoder = torch.linalg.solve(normal, right)
    words, word_inputs = embeddings.index_select(0, ids), inputs.index_select(0, ids)
    scale = _natural_scale(words, word_inputs @ encoder, objectives)

    def loss(scaled: Tensor) -> Tensor:
        regression = (scaled * (normal @ scaled - 2 * scale * right)).sum() / right.shape[1]
        consistency = semantic_consistency(words, word_inputs @ scaled, objectives)
        return regression + objectives.consistency_weight * consistency

    scaled = _minimum_near(scale * encoder, loss, steps=steps)
    return (inputs[:-1] @ scaled / scale).float()


def _natural_scale(words: Tensor, prototypes: Tensor, objectives: JoemObjectives) -> Tensor:
    """Return what to multiply features by, so that prototypes lie as far apart as L_sc wants.

    The scale of frozen features is the backbone's. Classification does not depend on it, calibration
    included: that compares ratios of distances.
    """
    wanted = objectives.temperature / objectives.prototype_temperature
    return wanted * pairwise_distances(words).mean() / pairwise_distances(prototypes).mean()


def _minimum_near(start: Tensor, loss: Callable[[Tensor], Tensor], *, steps: int) -> Tensor:
    """Follow a loss down by L-BFGS: no learning rate to choose, nothing random."""
    point = start.clone(memory_format=torch.contiguous_format).requires_grad_()
    optimiser = torch.optim.LBFGS([point], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimiser.step(closure)
    return point.detach()
