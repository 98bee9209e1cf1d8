"""CaGNet's second step against a plain one, written from cagnet §3 to §5, E6 and O3 alone.

In float64, a loss at a time, and none of torch's optimisers. Where noise and draws come from is the
package's own: numpy's generator of (seed, step), and torch's, seeded at each step.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from zslib.artifacts.features import PixelBank
from zslib.methods.cagnet.players import Players
from zslib.methods.cagnet.step2 import fit_mixed
from zslib.params.cagnet import CagnetNetworks, CagnetObjectives, CagnetStep2
from zslib.params.training import StepDecay, SteppedOptimiserParams
from zslib.training import SingleProcess

Weights = Mapping[str, Tensor]
IMAGES, ROWS, DIMENSION, SEED, BOOST = 4, 30, 5, 7, 6.0
PAPER = CagnetObjectives()
RELEASED = CagnetObjectives(
    adversarial="l1_sigmoid", reconstruction="mmd_run", adversarial_weight=0.5, step_idle=True
)


def step2(*, rows: int | None, generator_weight: float) -> CagnetStep2:
    return CagnetStep2(
        steps=10,
        block=2,
        batch_size=3,
        rows=rows,
        synthetic_rows=33,
        generator=SteppedOptimiserParams(
            name="adam", lr=3e-3, power=0.0, decay=StepDecay(start=3, every=2, factor=0.5)
        ),
        discriminator=SteppedOptimiserParams(name="adam", lr=2e-3, weight_decay=0.05),
        real_weight=0.75,
        fake_weight=0.25,
        synthetic_weight=0.6,
        generator_weight=generator_weight,
        unseen_boosts=[BOOST],
    )


def some_players(*, dummy_class: bool) -> Players:
    torch.manual_seed(3)
    networks = CagnetNetworks(
        generator_hidden=[16, 14],
        generator_dropout=[0.0, 0.0],
        shared_hidden=11,
        shared_dropout=0.0,
        dummy_class=dummy_class,
    )
    return Players(6, DIMENSION, len(tiny.CLASSES), networks)


def some_bank() -> PixelBank:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.choice(tiny.SPLIT.seen, (IMAGES, ROWS)), axis=1).astype(np.uint8)
    features = rng.normal(size=(IMAGES * ROWS, 3 * DIMENSION)).astype(np.float16)
    pixels, offsets = np.ones(IMAGES * ROWS, np.float32), np.arange(IMAGES + 1) * ROWS
    ids = tiny.image_ids(IMAGES)
    return PixelBank(features, labels.reshape(-1), pixels, offsets, ids, tiny.SPLIT)


# --- networks and losses -------------------------------------------------------------------------


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def generated(words: Tensor, latent: Tensor, w: Weights) -> Tensor:
    y = torch.cat([words, latent], 1)
    for layer in (0, 3):
        y = linear(y, w, f"generator.layers.{layer}")
        y = torch.where(y > 0, y, 0.2 * y)
    return torch.sigmoid(linear(y, w, "generator.layers.6"))


def judged(x: Tensor, w: Weights, head: str) -> Tensor:
    hidden = linear(x, w, "discriminator.shared").clamp(min=0)
    return linear(hidden, w, f"discriminator.{head}")


def cross_entropy(x: Tensor, labels: Sequence[int], w: Weights) -> Tensor:
    logs = judged(x, w, "classes").log_softmax(1)
    return -torch.stack([row[label] for row, label in zip(logs, labels, strict=True)]).mean()


def adversarial(x: Tensor, w: Weights, target: float, *, released: bool) -> Tensor:
    realness = judged(x, w, "realness")
    return ((realness.sigmoid() - target).abs() if released else (realness - target) ** 2).mean()


def reconstruction(x: Tensor, y: Tensor, labels: Sequence[int], *, released: bool) -> Tensor:
    if not released:
        return ((x - y) ** 2).mean()
    starts = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]]
    runs = [slice(*bounds) for bounds in zip(starts, [*starts[1:], len(labels)], strict=True)]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = ((a[:, None] - b) ** 2).sum(2)
        return torch.stack([(-squared / 2 / s).exp().mean() for s in (2, 5, 10, 20, 40, 60)]).sum()

    terms = [kernel(x[r], x[r]) - 2 * kernel(x[r], y[r]) + kernel(y[r], y[r]) for r in runs]
    return torch.stack([(term / 2).sqrt() for term in terms]).mean()


# --- training ------------------------------------------------------------------------------------


class Adam:
    """Of one player, with classical weight decay (cagnet O3)."""

    def __init__(self, weights: Weights, player: str, weight_decay: float) -> None:
        self.own = {name: p for name, p in weights.items() if name.startswith(player)}
        self._decay, self._steps = weight_decay, dict.fromkeys(self.own, 0)
        self._first, self._second = (
            {name: torch.zeros_like(p) for name, p in self.own.items()} for _ in range(2)
        )

    def step(self, loss: Tensor, lr: float, *, step_idle: bool) -> dict[str, Tensor]:
        """Return the weights after a step."""
        gradients = torch.autograd.grad(
            loss, list(self.own.values()), retain_graph=True, allow_unused=True
        )
        moved = {}
        for (name, weight), found in zip(self.own.items(), gradients, strict=True):
            if found is None and not step_idle:
                continue
            gradient = (0 * weight if found is None else found) + self._decay * weight
            self._steps[name] += 1
            t = self._steps[name]
            self._first[name] = 0.9 * self._first[name] + 0.1 * gradient
            self._second[name] = 0.999 * self._second[name] + 0.001 * gradient**2
            rise = self._first[name] / (1 - 0.9**t)
            moved[name] = weight - lr * rise / ((self._second[name] / (1 - 0.999**t)).sqrt() + 1e-8)
        return {name: p.detach() for name, p in moved.items()}


def plainly_mixed(
    weights: Weights, bank: PixelBank, params: CagnetStep2, objectives: CagnetObjectives
) -> Weights:
    weights = {name: p.detach().double().requires_grad_() for name, p in weights.items()}
    generator, judge = Adam(weights, "generator", 0.0), Adam(weights, "discriminator", 0.05)
    words, cells = tiny.EMBEDDINGS.double(), torch.from_numpy(bank.features.astype(np.float64))
    weighed = [1 + BOOST if c in tiny.UNSEEN else 1.0 for c in range(len(tiny.CLASSES))]
    prior = np.array(weighed) / sum(weighed)
    released = objectives is RELEASED
    for step in range(params.steps):
        rng = np.random.default_rng([SEED, step])
        mixed = np.random.SeedSequence((SEED, step, 0)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(mixed >> np.uint64(1)))
        if step % (2 * params.block) < params.block:
            images = rng.choice(IMAGES, params.batch_size, replace=False)
            rows = np.concatenate([range(ROWS * image, ROWS * (image + 1)) for image in images])
            if params.rows is not None:
                rows = rows[np.sort(rng.choice(len(rows), params.rows, replace=False))]
            labels = bank.labels[rows].tolist()
            features, mean, log_variance = cells[rows].chunk(3, dim=1)
            noise = torch.randn(len(rows), DIMENSION).double()
            latent = mean + torch.exp(log_variance / 2) * noise
            real = torch.sigmoid(features + features * torch.sigmoid(latent))
            fake = generated(words[labels], latent, weights)
            judging = (
                adversarial(real, weights, 1, released=released)
                + adversarial(fake.detach(), weights, 0, released=released)
                + 0.75 * cross_entropy(real, labels, weights)
                + 0.25 * cross_entropy(fake.detach(), labels, weights)
            )
            deceiving = objectives.adversarial_weight * adversarial(
                fake, weights, 1, released=released
            ) + 50 * reconstruction(fake, real, labels, released=released)
        else:
            labels = rng.choice(len(prior), 33, p=prior).tolist()
            noise = torch.randn(len(labels), DIMENSION).double()
            found = cross_entropy(generated(words[labels], noise, weights), labels, weights)
            judging, deceiving = 0.6 * found, params.generator_weight * found
        rates = (
            3e-3 * (1 if step < 3 else 0.5 ** ((step - 3) // 2 + 1)),
            2e-3 * (1 - step / 10) ** 0.9,
        )
        moved = judge.step(judging, rates[1], step_idle=released)
        if step % (2 * params.block) < params.block or params.generator_weight or released:
            moved |= generator.step(deceiving, rates[0], step_idle=released)
        with torch.no_grad():
            for name, weight in moved.items():
                weights[name].copy_(weight)
    return weights


@pytest.mark.parametrize(
    ("objectives", "params"),
    [
        (PAPER, step2(rows=40, generator_weight=0.0)),
        (RELEASED, step2(rows=None, generator_weight=0.0)),
        (RELEASED, step2(rows=None, generator_weight=0.3)),
    ],
    ids=["paper", "released", "released, as on COCO-Stuff"],
)
def test_cagnet_section_5_ten_steps_are_those_of_a_plain_training(
    objectives: CagnetObjectives, params: CagnetStep2
) -> None:
    bank, players = some_bank(), some_players(dummy_class=objectives is RELEASED)
    before = deepcopy(dict(players.named_parameters()))
    found = fit_mixed(
        bank,
        players,
        tiny.EMBEDDINGS,
        tiny.SPLIT,
        params,
        objectives=objectives,
        unseen_boost=BOOST,
        allowed=np.ones(len(bank.labels), bool),
        seed=SEED,
        runtime=SingleProcess(),
    )
    expected = plainly_mixed(before, bank, params, objectives)
    assert found.hidden is not None
    given = {
        "shared.weight": found.hidden[0],
        "shared.bias": found.hidden[1],
        "classes.weight": found.weight,
        "classes.bias": found.bias,
    }
    for name, tensor in given.items():
        reference = expected[f"discriminator.{name}"].detach()[: len(tensor)].float()
        torch.testing.assert_close(tensor, reference, atol=2e-6, rtol=0, msg=name)
        assert (tensor - before[f"discriminator.{name}"][: len(tensor)]).abs().max() > 1e-3, name
