"""Steps of trainings of a whole network, against the same written out plainly in double precision.

Nothing is fused, batched or in channels-last order there, and labels, mixtures, losses and rates come
from the specification alone. Only the network is the same module.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import World, backbone
from zslib.backbones.network import SegmentationNetwork
from zslib.backbones.trained import build_network
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.views import BatchOrder, TrainingViews
from zslib.methods import supervised
from zslib.methods.joem import end_to_end as joem
from zslib.methods.joem.networks import SemanticEncoder
from zslib.methods.spnet import end_to_end as spnet
from zslib.params.backbone import DeepLabParams, DeepLabV2Params
from zslib.params.joem import JoemEndToEnd, JoemObjectives
from zslib.params.spnet import SpnetEndToEnd
from zslib.params.training import AugmentationParams, OptimiserParams
from zslib.training import SingleProcess

AUGMENTATION = AugmentationParams(base_size=32, crop_size=30, scale=(0.9, 1.2), blur=0.0)
SEEN, WORDS = list(tiny.SPLIT.seen), tiny.EMBEDDINGS.double()
RATE, DECAY = 0.01, 0.05
Batch = tuple[Tensor, np.ndarray]
"""Normalised images (b, 3, h, w), labels (b, h, w)."""


# --- written out ---------------------------------------------------------------------------------


def plain(module: nn.Module) -> nn.Module:
    """Return a copy in double precision, its weights in the order of their axes."""
    found = copy.deepcopy(module).double()
    for parameter in found.parameters():
        parameter.data = parameter.data.contiguous()
    return found


def batches(world: World, *, steps: int) -> Iterator[Batch]:
    """Yield what each step of a training with seed 0 sees: 8 images, by fours."""
    labels = [tiny.SPLIT.seen_labels(label_map) for label_map in world.image_labels]
    views = TrainingViews(world.images, labels, AUGMENTATION, seed=0, cache_images=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for keys in BatchOrder(8, 4, section="backbone", seed=0).batches(0, steps):
        images, label_maps = zip(*(views[key] for key in keys), strict=True)
        pixels = torch.stack(images).double() / 255
        yield (pixels - mean[:, None, None]) / std[:, None, None], torch.stack(label_maps).numpy()


def sized(maps: Tensor, size: Sequence[int], *, corners: bool = True) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=corners)


def at(labels: np.ndarray, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    return labels[:, np.array(rows)[:, None], np.array(columns)[None]]


def under_corners(labels: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Sample labels where a resize with corners aligned puts the cells (spnet O22)."""
    sides = zip(labels.shape[1:], grid, strict=True)
    return at(labels, *([round(i * (n - 1) / (g - 1)) for i in range(g)] for n, g in sides))


def at_centres(labels: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """joem §9.5."""
    sides = zip(labels.shape[1:], grid, strict=True)
    return at(labels, *([int((i + 0.5) * n / g) for i in range(g)] for n, g in sides))


def cross_entropy(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Return the mean over labelled pixels."""
    pixels = torch.from_numpy(labels.reshape(-1).astype(int))
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)[pixels != IGNORE_INDEX]
    own = rows[range(len(rows)), pixels[pixels != IGNORE_INDEX]]
    return (rows.logsumexp(1) - own).mean()


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def groups_of(network: SegmentationNetwork, factor: float) -> list[dict]:
    """Return the encoder, and the rest at a rate of its own (zs3net §2)."""
    encoder = list(network.encoder.parameters())
    inside = set(map(id, encoder))
    rest = [p for p in network.parameters() if id(p) not in inside]
    return [{"params": encoder}, {"params": rest, "lr": RATE * factor}]


def sgd(groups: list[dict]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, RATE, momentum=0.9, weight_decay=DECAY, foreach=False)


def descend(
    loss_of: Callable[[Batch], Tensor],
    seen: Iterator[Batch],
    shares: Mapping[torch.optim.Optimizer, Sequence[float]],
) -> None:
    """Take a step per batch, each optimiser at its share of its rates."""
    rates = {o: [group["lr"] for group in o.param_groups] for o in shares}
    for step, batch in enumerate(seen):
        loss = loss_of(batch)
        for optimiser in shares:
            optimiser.zero_grad()
        loss.backward()
        for optimiser, share in shares.items():
            for group, rate in zip(optimiser.param_groups, rates[optimiser], strict=True):
                group["lr"] = rate * share[step]
            optimiser.step()


def poly(steps: int, *, refresh: int = 1) -> list[float]:
    return [(1 - step // refresh * refresh / steps) ** 0.9 for step in range(steps)]


def assert_reached(found: nn.Module, expected: nn.Module, start: nn.Module) -> None:
    """Of how far each tensor had to come, no more than a hundredth may be amiss."""
    reached, begun = found.state_dict(), start.state_dict()
    for name, goal in expected.state_dict().items():
        amiss, way = (goal.double() - one[name].double() for one in (reached, begun))
        assert amiss.norm() <= 0.01 * way.norm(), name


# --- the backbone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "resolution"), [(tiny.deeplab(), "image"), (tiny.deeplab_v2(), "grid")]
)
def test_zs3net_section_2_steps_of_the_backbone(
    world: World, model: DeepLabParams | DeepLabV2Params, resolution: str
) -> None:
    changes = {
        "model": model,
        "augmentation": AUGMENTATION,
        "loss_resolution": resolution,
        "optimiser": OptimiserParams(name="sgd", lr=RATE, weight_decay=DECAY),
        "head_lr_factor": 3.0,
    }
    found = supervised.fit(
        world.images,
        [tiny.SPLIT.seen_labels(label_map) for label_map in world.image_labels],
        tiny.SPLIT,
        tiny.backbone(epochs=1).model_copy(update=changes),
        seed=0,
        compute=tiny.CPU,
        runtime=SingleProcess(),
    )
    torch.manual_seed(0)
    start = build_network(model, 9)
    network = plain(start).train()

    def loss_of(batch: Batch) -> Tensor:
        images, labels = batch
        logits = network.classifier(network.features(images))
        if resolution == "image":
            return cross_entropy(sized(logits, labels.shape[1:]), labels)
        return cross_entropy(logits, under_corners(labels, logits.shape[2:]))

    descend(loss_of, batches(world, steps=2), {sgd(groups_of(network, 3.0)): poly(2)})
    assert_reached(found.network, network, start)


# --- JoEm ----------------------------------------------------------------------------------------

OBJECTIVES = JoemObjectives(ratio=0.5, temperature=3.0, consistency_weight=0.7)


def mixed_words(labels: np.ndarray, grid: Sequence[int]) -> Tensor:
    """Interpolate a map of embeddings, without what void would bring in (joem §3.2, §9.7)."""
    coarse = torch.from_numpy(at_centres(labels, [int(n * OBJECTIVES.ratio) for n in grid]))
    known = (coarse != IGNORE_INDEX).double()[:, None]
    words = WORDS[coarse.long() % len(WORDS)].permute(0, 3, 1, 2) * known
    share = sized(known, grid, corners=False)
    return (sized(words, grid, corners=False) / share).permute(0, 2, 3, 1)


def inconsistency(prototypes: Tensor) -> Tensor:
    """joem §3.3, class by class."""
    total = torch.zeros((), dtype=torch.float64)
    for i in SEEN:
        others = [j for j in SEEN if j != i]
        wanted, found = (
            torch.cat([torch.zeros(1).double(), (rows[others] - rows[i]).norm(dim=1)])
            for rows in (WORDS, prototypes)
        )
        p, q = (-OBJECTIVES.temperature * wanted).softmax(0), (-found).softmax(0)
        total = total + (p * (p / q).log()).sum()
    return total / len(SEEN)


def test_joem_section_3_steps_of_both_encoders(world: World, tmp_path: Path) -> None:
    """With released rates: both steps of an epoch share one, the semantic encoder's stays."""
    learning, start = backbone(), backbone().network
    params = JoemEndToEnd(
        epochs=2,
        batch_size=4,
        augmentation=AUGMENTATION,
        optimiser=OptimiserParams(name="sgd", lr=RATE, weight_decay=DECAY),
        head_lr_factor=3.0,
        encoder_optimiser=OptimiserParams(name="adam", lr=0.02, power=0.0),
        lr_per_epoch=True,
    )
    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    found = joem.fine_tune(
        learning, images, tiny.EMBEDDINGS, params, OBJECTIVES, run=tiny.run(tmp_path)
    )
    torch.manual_seed(0)
    words_start = SemanticEncoder(6, 8)
    network, encoder = plain(start).train(), plain(words_start)
    for norm in norms(network.encoder):
        norm.eval()

    def loss_of(batch: Batch) -> Tensor:
        images, labels = batch
        features = network.features(images)
        words = mixed_words(labels, features.shape[2:])
        known = torch.from_numpy(at_centres(labels, features.shape[2:]) != IGNORE_INDEX)
        known &= words.isfinite().all(-1)
        errors = features.permute(0, 2, 3, 1)[known] - encoder.affine(words[known])
        return (
            cross_entropy(sized(network.classifier(features), labels.shape[1:]), labels)
            + errors.square().mean()
            + OBJECTIVES.consistency_weight * inconsistency(encoder.affine(WORDS))
        )

    semantic = torch.optim.Adam(encoder.parameters(), 0.02, foreach=False)
    rates = {sgd(groups_of(network, 3.0)): poly(4, refresh=2), semantic: [1.0] * 4}
    descend(loss_of, batches(world, steps=4), rates)
    assert_reached(learning.network, network, start)
    assert_reached(found, encoder, words_start)


# --- SPNet ---------------------------------------------------------------------------------------


def by_floor(labels: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """spnet §3."""
    sides = zip(labels.shape[1:], grid, strict=True)
    return at(labels, *([i * n // g for i in range(g)] for n, g in sides))


def test_spnet_section_5_steps_at_three_scales(world: World, tmp_path: Path) -> None:
    """With released rates, refreshed here every second step, and labels as released."""
    learning, start = backbone(tiny.deeplab_v2()), backbone(tiny.deeplab_v2()).network
    params = SpnetEndToEnd(
        steps=3,
        batch_size=4,
        augmentation=AUGMENTATION,
        optimiser=OptimiserParams(name="sgd", lr=RATE, weight_decay=DECAY),
        head_lr_factor=3.0,
        bias_lr_factor=6.0,
        lr_refresh=2,
        label_rule="floor",
    )
    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    spnet.fine_tune(learning, images, tiny.EMBEDDINGS, params, run=tiny.run(tmp_path))

    network = plain(start).eval()
    weight = torch.zeros(6, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    place = np.array([SEEN.index(c) if c in SEEN else IGNORE_INDEX for c in range(256)])

    def loss_of(batch: Batch) -> Tensor:
        images, labels = batch
        scores = []
        for side in (30, 15, 22):  # 1, 1/2 and 3/4 of a view
            words = F.conv2d(network.features(sized(images, [side] * 2)), weight[..., None, None])
            words = words + bias[:, None, None]
            scores.append(torch.einsum("ce,behw->bchw", WORDS[SEEN], words))
        grid = scores[0].shape[2:]
        # At the start all scales are equal, and share the gradient of their maximum.
        scores.append(torch.stack([sized(one, grid) for one in scores]).amax(0))
        return sum(cross_entropy(one, by_floor(place[labels], one.shape[2:])) for one in scores)

    for norm in norms(network):
        norm.requires_grad_(False)
    network.classifier.requires_grad_(False)
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    branches = list(network.head.branches)
    groups = [
        {"params": encoder},
        {"params": [weight, *(b.weight for b in branches)], "lr": RATE * 3},
        {"params": [bias, *(b.bias for b in branches)], "lr": RATE * 6, "weight_decay": 0},
    ]
    descend(loss_of, batches(world, steps=3), {sgd(groups): poly(3, refresh=2)})
    network.classifier.weight.copy_((WORDS @ weight.detach())[:, :, None, None])
    network.classifier.bias.copy_(WORDS @ bias.detach())
    assert_reached(learning.network, network, start)
