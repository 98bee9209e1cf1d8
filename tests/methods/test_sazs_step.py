"""SAZS's training against a plain one, written from sazs §2.5, §3, §5 and §8.1 alone.

In float64, pixel by pixel, and none of torch's optimisers. What embeds pixels is the same module, and
views are the package's own.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import AUGMENTATION, World, backbone
from zslib.methods.sazs import fit
from zslib.methods.sazs.fit import Recipe, align
from zslib.methods.sazs.items import Items, class_vectors
from zslib.methods.sazs.networks import ShapeAware, Trained
from zslib.params.sazs import SazsModel, SazsObjectives, SazsTraining
from zslib.params.training import OptimiserParams

CLEAN = SazsObjectives(form="lseg", others="learned", edge_weight=0.5, attention_weight=3.0)
RELEASED = SazsObjectives(
    void="others", edges="released", joint_weight=0.0, edge_weight=0.5, attention_weight=3.0
)
TRAINING = SazsTraining(
    epochs=2,
    batch_size=7,
    draw="pairs",
    augmentation=AUGMENTATION,
    optimiser=OptimiserParams(name="sgd", lr=0.004, weight_decay=0.01),
    head_lr_factor=3.0,
)
MODEL = SazsModel(architecture="seen_only")
Shown = tuple[Tensor, Tensor, Tensor]
"""Pictures, seen labels, and the class of each item."""


def begun(objectives: SazsObjectives) -> Trained:
    """A network whose edge head is sure of some pixels from the start."""
    vectors = class_vectors(tiny.SPLIT, tiny.EMBEDDINGS, objectives.others)
    torch.manual_seed(0)
    trained = Trained.begin(MODEL, backbone(), tiny.SPLIT, vectors, objectives.form)
    trained.network.edge.weight.data *= 3
    trained.network.edge.bias.data += 1.0
    return trained


# --- losses --------------------------------------------------------------------------------------


def scores(embeddings: Tensor, texts: Tensor, form: str) -> Tensor:
    if form == "lseg":
        embeddings, texts = F.normalize(embeddings, dim=1), F.normalize(texts, dim=1) / 0.07
    return torch.einsum("bdhw,cd->bchw", embeddings, texts)


def under_cells(size: int, cells: int) -> list[int]:
    return [round(cell * (size - 1) / (cells - 1)) for cell in range(cells)]


def outline(label_map: np.ndarray, values: Sequence[int], *, frame: bool) -> np.ndarray:
    """Where some value's mask is within two pixels of its other side (sazs §3.2)."""
    edges = np.zeros(label_map.shape, bool)
    for value in values:
        mask = np.pad(label_map == value, 1, mode="constant" if frame else "edge")
        if mask.any() and not mask.all():
            distance = distance_transform_edt(mask) + distance_transform_edt(~mask)
            edges |= (distance <= 2)[1:-1, 1:-1]
    return edges


def edges_of(label_map: np.ndarray, item: int, grid: int, *, released: bool) -> Tensor:
    places = under_cells(len(label_map), grid)
    if released:
        found = outline(label_map, range(len(tiny.CLASSES) - 1), frame=True)
        return torch.from_numpy(found[np.ix_(places, places)])
    cells = torch.zeros(grid, grid, dtype=torch.bool)
    for place in np.argwhere(outline(label_map, [item], frame=False)).tolist():
        row, column = (round(p * (grid - 1) / (len(label_map) - 1)) for p in place)
        cells[row, column] = True
    return cells


def total_loss(network: ShapeAware, shown: Shown, objectives: SazsObjectives) -> Tensor:
    pictures, labels, items = shown
    embeddings = network.embed(pictures.double())
    logits = network.edge(embeddings)[:, 0]
    texts = torch.cat([network.others[None], tiny.EMBEDDINGS.double()])
    found, grid = scores(embeddings, texts, objectives.form), logits.shape[-1]
    places, released = under_cells(labels.shape[-1], grid), objectives.void == "others"
    edges = torch.stack([
        edges_of(label_map, item, grid, released=released)
        for label_map, item in zip(labels.numpy(), items.tolist(), strict=True)
    ])  # fmt: skip
    alignment, joint = [], []
    attended: list[list[tuple[int, Tensor]]] = [[] for _ in items]
    named = [0, *(1 + c for c in tiny.SPLIT.seen)]
    for image, item in enumerate(items.tolist()):
        both = found[image, [0, 1 + item]].log_softmax(0)
        everything = found[image, named].log_softmax(0)
        for row, y in enumerate(places):
            for column, x in enumerate(places):
                label = int(labels[image, y, x])
                if label == 255 and not released:
                    continue
                side = int(label == item)
                alignment.append(-both[side, row, column])
                if logits[image, row, column] > 0.8:
                    attended[image].append((side, alignment[-1]))
                text = named.index(1 + label) if label != 255 else 0
                joint.append(-everything[text, row, column])
    share = edges.double().mean()
    weights = torch.where(edges, 1 - share, share)
    likelihood = torch.where(edges, logits, -logits).sigmoid().log()
    sides = [side for pixels in attended for side, _ in pixels]
    attention = []
    for pixels in filter(None, attended):
        weighed = [(2 - sides.count(side) / len(sides), loss) for side, loss in pixels]
        attention.append(sum(w * loss for w, loss in weighed) / sum(w for w, _ in weighed))
    return (
        torch.stack(alignment).mean()
        + objectives.joint_weight * torch.stack(joint).mean()
        + 0.5 * -(weights * likelihood).mean()
        + 3 * sum(attention, torch.zeros(()))
    )


# --- training ------------------------------------------------------------------------------------


def plainly_trained(
    network: ShapeAware, batches: Sequence[Shown], recipe: Recipe
) -> Mapping[str, Tensor]:
    """Return all weights after SGD with momentum 0.9, whose rates fall as a power of 0.9."""
    network = network.double().train()
    learning = {
        name: p for name, p in network.named_parameters()
        if name != "others" or recipe.objectives.others == "learned"
    }  # fmt: skip
    momenta: dict[str, Tensor] = {}
    per_epoch = len(batches) // recipe.training.epochs
    for step, shown in enumerate(batches):
        loss = total_loss(network, shown, recipe.objectives)
        gradients = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
        since = step // per_epoch * per_epoch if recipe.training.lr_per_epoch else step
        rate = 0.004 * (1 - since / len(batches)) ** 0.9
        with torch.no_grad():
            for (name, weight), gradient in zip(learning.items(), gradients, strict=True):
                if gradient is None:
                    continue
                momenta[name] = 0.9 * momenta.get(name, 0) + gradient + 0.01 * weight
                own = rate if name.startswith("embed.network.encoder.") else 3 * rate
                weight.sub_(own * momenta[name])
    return network.state_dict()


@pytest.mark.parametrize(
    ("objectives", "changes"),
    [(CLEAN, {"epochs": 1}), (RELEASED, {"lr_per_epoch": True})],
    ids=["clean", "released"],
)
def test_sazs_3_and_5_some_steps_are_those_of_a_plain_training(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objectives: SazsObjectives,
    changes: dict[str, int],
) -> None:
    pictures, targets, losses = [], [], fit.losses

    def watched(margins: Tensor, edges: Tensor, *given: Tensor, **options: object) -> object:
        targets.append(given[:2])
        return losses(margins, edges, *given, **options)

    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    training = TRAINING.model_copy(update=changes)
    recipe, trained = Recipe(MODEL, objectives, training, "short_side"), begun(objectives)
    reference = deepcopy(trained.network)
    trained.network.embed.register_forward_pre_hook(lambda _, given: pictures.append(given[0]))
    monkeypatch.setattr(fit, "losses", watched)
    align(trained, Items.of(images), recipe, run=tiny.run(tmp_path))
    batches = [(shown, *given) for shown, given in zip(pictures, targets, strict=True)]
    before = deepcopy(reference.state_dict())
    expected = plainly_trained(reference, batches, recipe)
    for name, tensor in trained.network.named_parameters():
        way, expected_way = (
            now.detach().double() - before[name] for now in (tensor, expected[name])
        )
        length = expected_way.norm()
        assert (way - expected_way).norm() <= 0.02 * length + 2e-5, name
        assert length > 0 or name == "others", name
