"""Training a small module on cached features: one loss, one optimiser, batches drawn at random."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from zslib.params.training import OptimiserParams
from zslib.training import Curves, Losses, SingleProcess, TrainState, build_optimiser, train

Batch = TypeVar("Batch")


def minimise(
    loss_of: Callable[[Batch], Float[Tensor, ""]],
    draw: Callable[[np.random.Generator], Batch],
    module: nn.Module,
    optimiser: OptimiserParams,
    *,
    steps: int,
    seed: int,
    name: str,
    curve: str = "loss",
    curves: Curves | None = None,
) -> None:
    """Take `steps` steps of a module's parameters, each on a batch drawn by (seed, step).

    `curve` is what the loss is called among the curves.

    Raises:
        InputError: the loss is not finite.
    """
    stepping = build_optimiser(optimiser, module.parameters())

    def batches(start: int) -> Iterator[Batch]:
        for step in range(start, steps):
            yield draw(np.random.default_rng([seed, step]))

    def step(batch: Batch) -> Losses:
        loss = loss_of(batch)
        stepping.zero_grad(set_to_none=True)
        loss.backward()
        stepping.step()
        return {curve: loss.detach()}

    train(
        TrainState({"module": module}, {"module": stepping}),
        step,
        batches,
        steps=steps,
        seed=seed,
        name=name,
        runtime=SingleProcess(),
        curves=curves,
    )
