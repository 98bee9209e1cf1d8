"""Training a small module on batches drawn at random."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from zslib.errors import InputError
from zslib.minimising import minimise
from zslib.params.training import OptimiserParams

SGD = OptimiserParams(name="sgd", lr=0.1, momentum=0.0, power=0.0)


def point() -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.tensor([4.0, -2.0]))])


def squared_distance(module: nn.ParameterList, target: Tensor) -> Tensor:
    return ((module[0] - target) ** 2).sum()


def test_each_step_follows_the_gradient_of_its_own_batch() -> None:
    module, curves, drawn = point(), tiny.RecordedCurves(), []

    def draw(rng: np.random.Generator) -> Tensor:
        drawn.append(torch.from_numpy(rng.normal(size=2)).float())
        return drawn[-1]

    minimise(
        lambda target: squared_distance(module, target),
        draw,
        module,
        SGD,
        steps=3,
        seed=7,
        name="point",
        curve="distance",
        curves=curves,
    )
    for step, target in enumerate(drawn):
        expected = np.random.default_rng([7, step]).normal(size=2)
        np.testing.assert_allclose(target, expected, rtol=1e-6)
    position, distances = torch.tensor([4.0, -2.0]), []
    for target in drawn:
        distances.append(((position - target) ** 2).sum().item())
        position = position - 0.1 * 2 * (position - target)
    torch.testing.assert_close(module[0].detach(), position)
    assert curves.series("distance") == pytest.approx(distances)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    module = point()
    with pytest.raises(InputError, match="point: loss 'loss' is nan at step 0"):
        minimise(
            lambda target: squared_distance(module, target) * float("nan"),
            lambda _: torch.zeros(2),
            module,
            SGD,
            steps=2,
            seed=0,
            name="point",
        )
