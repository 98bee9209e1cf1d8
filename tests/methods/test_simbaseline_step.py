"""Two training steps of both networks against plain ones, written from simbaseline §2 and §6.

In float64, an image, a query and a target at a time: none of transformers' decoder, matching and
losses, nor torch's optimiser. Only the encoder is the same module.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import tiny
from tests.methods.maskformer import ENCODER, SEEN, SMALL, TRAINING, embedder, proposer
from zslib.benchmark import IGNORE_INDEX
from zslib.methods.simbaseline.fcn import fit as fit_fcn
from zslib.methods.simbaseline.fit import fit
from zslib.methods.simbaseline.pixel_level import PixelLevelNetwork
from zslib.methods.simbaseline.views import ProposalViews
from zslib.params.simbaseline import PixelTraining, ProposalAugmentation, ProposalTraining
from zslib.params.training import OptimiserParams

Weights = Mapping[str, Tensor]
Layer = tuple[Tensor, Tensor]
"""Of one image: mask logits (q, h, w), class logits (q, k + 1)."""

# --- the network -----------------------------------------------------------------------------------


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def convolved(x: Tensor, w: Weights, name: str) -> Tensor:
    """Convolve, and normalise the channels one by one: there are as many groups as channels."""
    weight = w[f"{name}.0.weight"]
    y = F.conv2d(x[None], weight, padding=weight.shape[-1] // 2)[0]
    assert len(y) == 32
    centred = y - y.mean((1, 2), keepdim=True)
    y = centred / (centred.pow(2).mean((1, 2), keepdim=True) + 1e-5).sqrt()
    return y * w[f"{name}.1.weight"][:, None, None] + w[f"{name}.1.bias"][:, None, None]


def pixel_decoder(maps: Sequence[Tensor], w: Weights, decoder: str) -> Tensor:
    y = convolved(maps[3], w, f"{decoder}.fpn.stem").relu()
    for k, lateral in enumerate((maps[2], maps[1], maps[0])):
        left = convolved(lateral, w, f"{decoder}.fpn.layers.{k}.proj")
        factor = left.shape[1] // y.shape[1]
        y = left + y.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        y = convolved(y, w, f"{decoder}.fpn.layers.{k}.block").relu()
    name = f"{decoder}.mask_projection"
    return F.conv2d(y[None], w[f"{name}.weight"], w[f"{name}.bias"], padding=1)[0]


def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """Return (h * w, c): half of the channels tell the row, half the column."""
    half = channels // 2
    rows = torch.zeros(height * width, channels, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for k in range(half):
                wave = 10_000 ** (2 * (k // 2) / half)
                for start, at, side in ((0, y, height), (half, x, width)):
                    angle = (at + 1) / (side + 1e-6) * 2 * math.pi / wave
                    rows[y * width + x, start + k] = (math.sin, math.cos)[k % 2](angle)
    return rows


def attended(queries: Tensor, keys: Tensor, values: Tensor, w: Weights, name: str) -> Tensor:
    q, k, v = (
        linear(x, w, f"{name}.{part}_proj")
        for part, x in (("q", queries), ("k", keys), ("v", values))
    )
    heads = []
    for columns in torch.arange(q.shape[1]).chunk(SMALL.heads):
        shares = (q[:, columns] @ k[:, columns].T / len(columns) ** 0.5).softmax(-1)
        heads.append(shares @ v[:, columns])
    return linear(torch.cat(heads, 1), w, f"{name}.o_proj")


def decoder_states(coarse: Tensor, w: Weights) -> list[Tensor]:
    """Return the states of all layers, each after the decoder's last norm."""
    module = "body.model.transformer_module"
    weight, bias = (w[f"{module}.input_projection.{part}"] for part in ("weight", "bias"))
    memory = coarse.flatten(1).T @ weight[:, :, 0, 0].T + bias
    places = sine_positions(coarse.shape[1], coarse.shape[2], memory.shape[1])
    queries = w[f"{module}.queries_embedder.weight"]
    x, states = torch.zeros_like(queries), []
    for k in range(SMALL.layers):
        name = f"{module}.decoder.layers.{k}"
        found = attended(x + queries, x + queries, x, w, f"{name}.self_attn")
        x = layer_norm(x + found, w, f"{name}.self_attn_layer_norm")
        found = attended(x + queries, memory + places, memory, w, f"{name}.encoder_attn")
        x = layer_norm(x + found, w, f"{name}.encoder_attn_layer_norm")
        found = linear(linear(x, w, f"{name}.mlp.fc1").relu(), w, f"{name}.mlp.fc2")
        x = layer_norm(x + found, w, f"{name}.final_layer_norm")
        states.append(layer_norm(x, w, f"{module}.decoder.layernorm"))
    return states


def predicted(maps: Sequence[Tensor], text: Tensor, w: Weights) -> list[Layer]:
    pixels, layers = pixel_decoder(maps, w, "body.model.pixel_level_module.decoder"), []
    for state in decoder_states(maps[3], w):
        wanted = linear(state, w, "body.mask_embedder.0.0").relu()
        wanted = linear(wanted, w, "body.mask_embedder.1.0").relu()
        wanted = linear(wanted, w, "body.mask_embedder.2.0")
        masks = torch.stack([(row[:, None, None] * pixels).sum(0) for row in wanted])
        head = "body.class_predictor"
        vectors = linear(linear(state, w, f"{head}.layers.0").relu(), w, f"{head}.layers.2")
        known = torch.cat([text, w[f"{head}.no_object"][None]])
        cosines = vectors @ known.T / vectors.norm(dim=1)[:, None] / known.norm(dim=1)
        layers.append((masks, 100 * cosines))
    return layers


# --- targets, matching, losses ---------------------------------------------------------------------


def focal(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    p = logits.sigmoid()
    right = torch.where(truth, p, 1 - p)
    alpha = truth.double() * 0.25 + (~truth).double() * 0.75
    return (-alpha * (1 - right) ** 2 * right.log() * counts).mean()


def dice(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    p, t = logits.sigmoid() * counts, truth.double()
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def matched(layer: Layer, known: Tensor, classes: Sequence[int], counts: Tensor) -> list[int]:
    """Return a query for each class, of all assignments the cheapest."""
    masks, logits = (part.detach() for part in layer)
    cost = torch.zeros(SMALL.queries, len(classes), dtype=torch.float64)
    for q in range(SMALL.queries):
        for j, c in enumerate(classes):
            cost[q, j] = -logits[q].softmax(0)[SEEN.index(c)] + dice(masks[q], known == c, counts)
            cost[q, j] += 20 * focal(masks[q], known == c, counts)
    every = permutations(range(SMALL.queries), len(classes))
    return list(min(every, key=lambda queries: float(cost[queries, range(len(classes))].sum())))


def layer_loss(layers: Sequence[Layer], maps: Sequence[Tensor], params: ProposalTraining) -> Tensor:
    """Return the loss of one decoder layer on a batch."""
    if params.loss_resolution == "grid":
        maps = [known[2::4, 2::4] for known in maps]
    shown = [[c for c in SEEN if (known == c).any()] for known in maps]
    number = max(sum(map(len, shown)), 1)
    mask_loss, names, weights = torch.zeros((), dtype=torch.float64), [], []
    for (masks, logits), known, classes in zip(layers, maps, shown, strict=True):
        ignored = (known == IGNORE_INDEX) & (params.void_in_masks == "ignored")
        counts = (~ignored).double()
        small = slice(None, None, len(known) // masks.shape[1])
        queries = matched((masks, logits), known[small, small], classes, counts[small, small])
        large = F.interpolate(masks[None], known.shape, mode="bilinear", align_corners=False)[0]
        for q, c in zip(queries, classes, strict=True):
            mask_loss = mask_loss + 20 * focal(large[q], known == c, counts) / number
            mask_loss = mask_loss + dice(large[q], known == c, counts) / number
        for q in range(SMALL.queries):
            found = SEEN.index(classes[queries.index(q)]) if q in queries else len(SEEN)
            weights.append(1.0 if q in queries else 0.1)
            names.append(-weights[-1] * logits[q].log_softmax(0)[found])
    return torch.stack(names).sum() / sum(weights) + mask_loss


# --- the step --------------------------------------------------------------------------------------


class PlainAdamW:
    """AdamW with poly decay and a bound on the norm of the whole gradient (simbaseline §2.3)."""

    def __init__(self, weights: Weights, params: PixelTraining) -> None:
        self._weights, self._params, self._step = weights, params, 0
        self._moments = {n: (torch.zeros_like(x), torch.zeros_like(x)) for n, x in weights.items()}

    def step(self, gradients: Weights) -> None:
        params = self._params
        norm = sum(float(g.pow(2).sum()) for g in gradients.values()) ** 0.5
        share = (1 - self._step / params.steps) ** params.optimiser.power
        self._step += 1
        for name, weight in self._weights.items():
            g = gradients[name] * min(1.0, params.gradient_clip / norm)
            rate = rate_of(name, params) * share
            # Norms stand second in their blocks, or say so.
            norms = "norm" in name or re.search(r"(stem|proj|block)\.1\.", name)
            decay = 0.0 if norms or "queries_embedder" in name else params.optimiser.weight_decay
            first, second = self._moments[name]
            first.mul_(0.9).add_(0.1 * g)
            second.mul_(0.999).add_(0.001 * g * g)
            up, down = first / (1 - 0.9**self._step), second / (1 - 0.999**self._step)
            with torch.no_grad():
                weight.mul_(1 - rate * decay).sub_(rate * up / (down.sqrt() + 1e-8))


def rate_of(name: str, params: PixelTraining) -> float:
    return params.optimiser.lr * (params.encoder_lr_factor if "._backbone." in name else 1.0)


@dataclass(frozen=True)
class Material:
    """Eight images, one without a label in the first batch, and views of them."""

    paths: list[Path]
    maps: list[np.ndarray]

    @classmethod
    def draw(cls, folder: Path) -> "Material":
        maps = tiny.block_maps(8, SEEN)
        maps[ORDER[2]][:] = IGNORE_INDEX
        return cls(tiny.write_images(folder, maps), maps)

    def batches(self, params: PixelTraining) -> list[list[tuple[Tensor, Tensor]]]:
        """Return (normalised picture, label map) of each image of each batch."""
        views = ProposalViews(
            self.paths, self.maps, params.augmentation, seed=0, cache_images=False
        )
        mean, std = (torch.tensor(x).view(3, 1, 1).double() for x in (ENCODER.mean, ENCODER.std))
        pairs = [views[0, int(position)] for position in ORDER]
        shown = [((picture.double() / 255 - mean) / std, known) for picture, known in pairs]
        return [shown[:4], shown[4:]]


ORDER = np.random.default_rng([0, 0]).permutation(8)
"""Of the images, in the first epoch of seed 0."""

LossOf = Callable[[list[list[Tensor]], list[Tensor], Weights], Tensor]
"""From the encoder's maps of each image, their label maps, and the weights."""


def plain_steps(
    network: PixelLevelNetwork, material: Material, loss_of: LossOf, params: PixelTraining
) -> Weights:
    """Return the weights after a step per batch."""
    network = deepcopy(network).double()
    weights = dict(network.named_parameters())
    optimiser = PlainAdamW(weights, params)
    for batch in material.batches(params):
        maps = [[m[0] for m in network.encoder(picture[None])] for picture, _ in batch]
        loss = loss_of(maps, [known for _, known in batch], weights)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        optimiser.step(dict(zip(weights, gradients, strict=True)))
    return weights


def assert_same_steps(found: nn.Module, expected: Weights, params: PixelTraining) -> None:
    """Compare weights, in lengths of AdamW's steps, which hardly depend on the gradient's length.

    On average, for where a gradient vanishes rounding decides.
    """
    weights = dict(found.named_parameters())
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        apart = (weight.detach().double() - expected[name].detach()).abs().mean()
        assert apart.item() < 1e-3 * rate_of(name, params), name


STEPPED = {
    "augmentation": ProposalAugmentation(
        short_sides=[64], long_side=64, crop_size=64, colour_jitter=False
    ),
    "optimiser": OptimiserParams(name="adamw", lr=0.003, weight_decay=1.0),
    "encoder_lr_factor": 0.1,
    "gradient_clip": 0.5,
    "steps": 2,
}


@pytest.mark.parametrize(("resolution", "void"), [("image", "negative"), ("grid", "ignored")])
def test_two_steps_of_maskformer(tmp_path: Path, resolution: str, void: str) -> None:
    changed = {**STEPPED, "loss_resolution": resolution, "void_in_masks": void}
    params, found = TRAINING.model_copy(update=changed), proposer()

    def loss_of(maps: list[list[Tensor]], known: list[Tensor], w: Weights) -> Tensor:
        images = [predicted(of_image, tiny.EMBEDDINGS[list(SEEN)].double(), w) for of_image in maps]
        layers = [layer_loss(of_layer, known, params) for of_layer in zip(*images, strict=True)]
        return torch.stack(layers).sum()

    material = Material.draw(tmp_path)
    expected = plain_steps(proposer().network, material, loss_of, params)
    fit(found, material.paths, material.maps, SEEN, params, section="", run=tiny.run(tmp_path))
    assert_same_steps(found.network, expected, params)


def test_two_steps_of_the_fcn(tmp_path: Path) -> None:
    params = PixelTraining.model_validate({**STEPPED, "batch_size": 4})
    text, found = tiny.EMBEDDINGS[list(SEEN)], embedder()

    def loss_of(maps: list[list[Tensor]], known: list[Tensor], w: Weights) -> Tensor:
        losses = []
        for of_image, labels in zip(maps, known, strict=True):
            pixels = pixel_decoder(of_image, w, "body.decoder")
            vectors = pixels.permute(1, 2, 0) @ w["projection.weight"][:, :, 0, 0].T
            vectors = vectors + w["projection.bias"]
            cosines = vectors @ text.double().T / vectors.norm(dim=-1, keepdim=True)
            logits = 100 * cosines.permute(2, 0, 1)
            large = F.interpolate(logits[None], labels.shape, mode="bilinear", align_corners=False)
            for row, c in enumerate(SEEN):
                losses.append(-large[0].log_softmax(0)[row][labels == c])
        return torch.cat(losses).mean()

    material = Material.draw(tmp_path / "images")
    expected = plain_steps(embedder().network, material, loss_of, params)
    labelled = tiny.labelled_images(tmp_path, material.paths, material.maps)
    fit_fcn(found, labelled, text, params, tiny.run(tmp_path))
    assert_same_steps(found.network, expected, params)
