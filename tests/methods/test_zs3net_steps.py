"""Steps of ZS3Net's trainings, against the same written out plainly in double precision."""

import copy
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from tests import tiny
from tests.methods import test_zs3net, test_zs3net_official
from tests.methods.tester import World
from zslib import minimising
from zslib.artifacts.features import PixelBank
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.benchmark import IGNORE_INDEX
from zslib.methods.zs3net import classifier as zs3net_classifier
from zslib.methods.zs3net import official
from zslib.methods.zs3net.generator import Gmmn, fit_generator
from zslib.training import train

Weights = dict[str, Tensor]
EMBEDDINGS = tiny.EMBEDDINGS.double()
RATE = 0.01
GMMN = {"dropout": 0.0, "hidden": 16, "rows": 8, "lr": RATE}


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All noise that generators have drawn."""
    return recorded(monkeypatch, Gmmn, "noise", lambda found, _: found.double())


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, nn.Module]]:
    """The modules of each training as they were at its start."""
    found: list[Mapping[str, nn.Module]] = []

    def watched(state, *arguments, **options) -> None:
        found.append(copy.deepcopy(state.modules))
        train(state, *arguments, **options)

    for module in (minimising, official):
        monkeypatch.setattr(module, "train", watched)
    return found


def recorded(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, kept: Callable
) -> list[Tensor]:
    """Return what a function will have returned, or been given: `kept(result, arguments)`."""
    function, found = getattr(owner, name), []

    def watched(*arguments, **options):
        result = function(*arguments, **options)
        found.append(kept(result, arguments))
        return result

    monkeypatch.setattr(owner, name, watched)
    return found


# --- written out ---------------------------------------------------------------------------------


def weights_of(module: nn.Module) -> Weights:
    return {name: tensor.double() for name, tensor in module.state_dict().items()}


def generated(weights: Weights, labels: Tensor, noise: Tensor, mix: Tensor) -> Tensor:
    """zs3net §4.1, and §5 with the matrix of a graph."""
    inputs = torch.cat([EMBEDDINGS[labels], noise], 1)
    hidden = mix @ (inputs @ weights["layers.0.weight"].T) + weights["layers.0.bias"]
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    return mix @ (hidden @ weights["layers.3.weight"].T) + weights["layers.3.bias"]


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """zs3net §4.2."""

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        distances = (one[:, None] - other[None]).square().sum(2)
        return sum(torch.exp(-distances / (2 * b)) for b in (2, 5, 10, 20, 40, 80)).mean()

    return (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)).sqrt()


class Descent:
    """Adam without decay, or SGD with momentum: the optimisers of zs3net §4.6."""

    def __init__(self, weights: Weights, *, adam: bool) -> None:
        self.weights, self.steps, self._adam = dict(weights), 0, adam
        self._mean, self._square = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)

    def live(self) -> Weights:
        self.weights = {n: w.detach().requires_grad_() for n, w in self.weights.items()}
        return self.weights

    def step(self, loss: Tensor, rate: float = RATE) -> None:
        self.steps += 1
        gradients = torch.autograd.grad(loss, list(self.weights.values()))
        for (name, weight), gradient in zip(self.weights.items(), gradients, strict=True):
            if self._adam:
                self._mean[name] = 0.9 * self._mean[name] + 0.1 * gradient
                self._square[name] = 0.999 * self._square[name] + 0.001 * gradient**2
                root = (self._square[name] / (1 - 0.999**self.steps)).sqrt() + 1e-8
                change = self._mean[name] / (1 - 0.9**self.steps) / root
            else:
                self._mean[name] = 0.9 * self._mean[name] + gradient + 5e-4 * weight.detach()
                change = self._mean[name]
            self.weights[name] = weight.detach() - rate * change


def assert_reached(found: nn.Module | Weights, expected: Descent) -> None:
    state = found.state_dict() if isinstance(found, nn.Module) else found
    for name, weight in expected.weights.items():
        torch.testing.assert_close(state[name].double(), weight, atol=1e-5, rtol=0, msg=name)


# --- the clean form ------------------------------------------------------------------------------


def test_zs3net_section_4_steps_of_generator_and_classifier(
    world: World, noise: list[Tensor], starts: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = recorded(monkeypatch, PixelBank, "gather", lambda _, arguments: arguments[1])
    features = torch.from_numpy(np.array(world.bank.features)).double()
    given = (tiny.EMBEDDINGS, tiny.SPLIT)

    params = test_zs3net.GENERATOR.model_copy(update=GMMN | {"steps": 3})
    generator = fit_generator(world.bank, *given, params, allowed=None, seed=0)
    adam = Descent(weights_of(starts[0]["module"]), adam=True)
    for drawn, z in zip(rows, noise, strict=True):
        (label,) = set(world.bank.labels[drawn].tolist())
        own = torch.full((8,), label)
        adam.step(mmd(generated(adam.live(), own, z, torch.eye(8).double()), features[drawn]))
    assert_reached(generator, adam)

    rows.clear()
    noise.clear()
    sgd = test_zs3net_official.PARAMS.optimiser
    training = test_zs3net.SHORT.model_copy(update={"optimiser": sgd, "batch_size": 20})
    found = zs3net_classifier.fit_classifier(
        world.bank,
        generator,
        *given,
        test_zs3net.CLASSIFIER.model_copy(update={"training": training, "synthetic_share": 0.2}),
        unseen_weight=30.0,
        allowed=None,
        seed=0,
    )
    descent = Descent(weights_of(starts[1]["module"]), adam=False)
    unseen = torch.tensor([4, 4, 8, 8])
    for step, (drawn, z) in enumerate(zip(rows, noise, strict=True)):
        fake = generated(weights_of(generator), unseen, z, torch.eye(4).double())
        labels = torch.cat([torch.from_numpy(world.bank.labels[drawn]).long(), unseen])
        logits = F.linear(torch.cat([features[drawn], fake]), **descent.live())
        weights = torch.where(torch.isin(labels, unseen), 30.0, 1.0)
        losses = F.cross_entropy(logits, labels, reduction="none")
        descent.step((weights * losses).sum() / weights.sum(), 0.07 * (1 - step / 3) ** 0.9)
    assert_reached({"weight": found.weight, "bias": found.bias}, descent)


# --- as released ---------------------------------------------------------------------------------


def test_zs3net_section_4_4_and_5_two_iterations_of_the_released_loop(
    world: World, noise: list[Tensor], starts: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = recorded(monkeypatch, torch, "randint", lambda found, _: found)
    views = recorded(monkeypatch, official, "loader", lambda found, _: found)
    ends = recorded(monkeypatch, official, "TrainState", lambda found, _: found.modules)
    params = test_zs3net_official.PARAMS
    params = params.model_copy(update={"generator": params.generator.model_copy(update=GMMN)})
    test_zs3net_official.fit_once(
        world, DeepLabV3Plus(tiny.deeplab(), 9), params=params, graph=True
    )
    batches = list(views[0])
    released = Released(starts[0], iter(noise), iter(rows), steps=len(batches))
    for images, labels in batches:
        released.iterate(images, labels.numpy())
    for name, descent in released.descents.items():
        assert descent.steps >= len(batches)
        assert_reached(ends[0][name], descent)


class Released:
    """zs3net §4.4 and §5, image by image and cell by cell."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        noise: Iterator[Tensor],
        rows: Iterator[Tensor],
        *,
        steps: int,
    ) -> None:
        self._network = modules["network"].double().train()
        self._noise, self._rows, self._total = noise, rows, steps
        self.descents = {
            name: Descent(weights_of(modules[name]), adam=name != "head")
            for name in ("generator", "graph", "head")
        }

    def iterate(self, images: Tensor, labels: np.ndarray) -> None:
        mean, std = (
            torch.tensor(getattr(test_zs3net_official.ENCODER, name)).double().view(3, 1, 1)
            for name in ("mean", "std")
        )
        with torch.no_grad():
            real = self._network.features((images.double() / 255 - mean) / std)
        grids = labels[:, ::4, ::4]
        inputs = [self._pixels(*pair) for pair in zip(real, grids, strict=True)]
        head = self.descents["head"]
        weight, bias = head.live().values()
        logits = F.conv2d(torch.stack(inputs), weight, bias)
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
        loss = cross_entropy(logits, torch.from_numpy(labels)) / len(images)
        for features, grid in zip(real, grids, strict=True):
            nodes, names = self._nodes(features, grid)
            if len(nodes) > 1:
                loss = loss + 0.1 * cross_entropy(F.linear(nodes, weight[:, :, 0, 0], bias), names)
        head.step(loss, 0.07 * (1 - head.steps / self._total) ** 0.9)

    def _pixels(self, real: Tensor, grid: np.ndarray) -> Tensor:
        """Return the features that the classifier learns an image from."""
        fake, generator = torch.zeros_like(real), self.descents["generator"]
        seen_only = not np.isin(grid, tiny.UNSEEN).any()
        for label in sorted(set(grid.flat) - {IGNORE_INDEX}):
            ys, xs = np.nonzero(grid == label)
            own = torch.full((len(ys),), int(label))
            made = generated(generator.live(), own, next(self._noise), torch.eye(len(ys)).double())
            fake[:, ys, xs] = made.detach().T
            if seen_only:
                chosen = next(self._rows).numpy()
                generator.step(mmd(made[chosen], real[:, ys[chosen], xs[chosen]].T))
        return real if seen_only else fake

    def _nodes(self, real: Tensor, grid: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the features and labels of an image's segments, which learn on the way."""
        seeds, matrix = segments(grid)
        ys, xs = np.divmod(seeds, grid.shape[1])
        names, nodes = torch.from_numpy(grid[ys, xs]).long(), real[:, ys, xs].T
        if len(seeds) < 2:
            return nodes, names
        graph = self.descents["graph"]
        borrowed = torch.where(names == IGNORE_INDEX, 0, names)
        made = generated(graph.live(), borrowed, next(self._noise), matrix)
        if np.isin(grid, tiny.UNSEEN).any():
            return made.detach(), names
        graph.step(mmd(made, nodes))
        return nodes, names


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    weights = torch.ones(9).double()
    weights[list(tiny.UNSEEN)] = 100.0
    return F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORE_INDEX)


def segments(grid: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Return the first cells of the components in raster order, and which components touch."""
    around = np.ones((3, 3))
    parts = []
    for label in np.unique(grid):
        numbers, count = ndimage.label(grid == label, around)
        parts += [numbers == number for number in range(1, count + 1)]
    parts.sort(key=lambda part: np.flatnonzero(part)[0])
    touches = [[(ndimage.binary_dilation(a, around) & b).any() for b in parts] for a in parts]
    matrix = torch.tensor(touches).double().fill_diagonal_(0)
    return np.array([np.flatnonzero(part)[0] for part in parts]), matrix
