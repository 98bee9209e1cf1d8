"""Training SAZS: pixels learn which of two texts is theirs, from seen labels alone (sazs §3, §5).

An item is an image with one of its seen classes; all else in it is "others", unless it is void. The
strength of calibrated stacking, which only the generalised evaluation needs, is chosen by a first
training that some seen classes are hidden from (DESIGN §10).
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zslib.artifacts import publish
from zslib.artifacts.features import DenseMaps
from zslib.backbones.network import Normalise
from zslib.backbones.trained import Backbone
from zslib.classifier import PixelClassifier
from zslib.datasets.folds import Pair
from zslib.datasets.views import BatchOrder
from zslib.features import sample_ids
from zslib.fine_tuning import LabelledImages, Run, Tuning, choose_strength, learn
from zslib.held_out import draw_held_out
from zslib.methods.sazs.items import (
    ClassOrder,
    Items,
    ItemViews,
    class_vectors,
    named_classes,
)
from zslib.methods.sazs.margins import cache_margins, of_margins
from zslib.methods.sazs.networks import ShapeAware, Trained
from zslib.methods.sazs.objectives import losses
from zslib.methods.sazs.shape import DistanceRegressor
from zslib.params.benchmark import BACKGROUND
from zslib.params.evaluation import SelectionParams
from zslib.params.sazs import SazsModel, SazsObjectives, SazsTraining
from zslib.training import Losses, TrainState, build_optimiser


@dataclass(frozen=True)
class Recipe:
    """What a network is, how it learns, and what it sees at test."""

    model: SazsModel
    objectives: SazsObjectives
    training: SazsTraining
    input_size: int | str


@dataclass(frozen=True)
class Learned:
    """A network, the classifier of the maps that are cached with it, and maps to choose by."""

    network: Trained
    classifier: PixelClassifier
    held_out_maps: Path
    """Of tuning images, by a network that held-out classes were hidden from."""

    def save(self, folder: Path) -> None:
        """Publish network.safetensors, classifier.safetensors and held_out_maps.h5 in one folder."""
        with publish(folder) as temporary:
            self.network.save(temporary / "network.safetensors")
            self.classifier.save(temporary / "classifier.safetensors")
            shutil.copyfile(self.held_out_maps, temporary / "held_out_maps.h5")


def fit(
    start: Backbone,
    images: LabelledImages,
    listed: Sequence[Pair] | None,
    embeddings: Float[Tensor, "c d"],
    recipe: Recipe,
    gammas: Sequence[float],
    *,
    selection: SelectionParams,
    tuning: Tuning,
    run: Run,
) -> Learned:
    """Train a network, after a first training has chosen gamma on held-out seen classes.

    `listed` are the pairs to train on; without them, all that the labels show.

    Raises:
        InputError: fewer images or pairs than a batch, or too few seen classes to hide any.
    """

    def trained(some: LabelledImages, this: Run) -> Trained:
        vectors = class_vectors(some.split, embeddings, recipe.objectives.others)
        form = recipe.objectives.form
        torch.manual_seed(run.seed)
        network = Trained.begin(recipe.model, start, some.split, vectors, form)
        align(network, Items.of(some, listed), recipe, run=this)
        return network

    hidden = draw_held_out(images.split, selection, seed=run.seed)[0]
    kept_out = sample_ids(images.ids, tuning.images, seed=run.seed)
    first = run.for_choice()
    trial = trained(images.hide(hidden, kept_out), first)
    maps = _cached(trial, images, kept_out, recipe, tuning, first)
    rehearsal = of_margins(hidden, corners=trial.corners)
    choice = choose_strength(rehearsal, DenseMaps.open(maps), images.labels, gammas)
    details = {"gamma": choice.describe(images.split.classes)}
    network = trained(images, run)
    classifier = of_margins(images.split, corners=network.corners)
    return Learned(network, replace(classifier, gamma=choice.chosen, meta=details), maps)


def align(trained: Trained, items: Items, recipe: Recipe, *, run: Run) -> None:
    """Train a network on items by the four losses."""
    params, objectives, device = recipe.training, recipe.objectives, run.runtime.device
    views, order = _shown(items, params, run)
    network = trained.network.to(device).to(memory_format=torch.channels_last)
    network.others.requires_grad_(objectives.others == "learned")
    normalise = Normalise(trained.picture.mean, trained.picture.std).to(device)
    optimiser = build_optimiser(params.optimiser, groups_of(network, params.head_lr_factor))
    regressor = None
    if objectives.regressor is not None:
        regressor = DistanceRegressor.load(Path(objectives.regressor)).to(device)
    named = named_classes(trained.split, trained.split.seen)

    def step(batch: Sequence[Tensor]) -> Losses:
        pictures, labels, classes = (tensor.to(device) for tensor in batch)
        network.train()
        with run.runtime.autocast():
            margins, edges = network(normalise(pictures))
        found = losses(
            margins.float(),
            edges.float(),
            labels,
            classes,
            objectives,
            named=named,
            corners=trained.corners,
            regressor=regressor,
        )
        loss = torch.stack(list(found.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach(), **{name: value.detach() for name, value in found.items()}}

    learn(
        views,
        order,
        TrainState({"network": network}, {"all": optimiser}),
        step,
        steps=params.epochs * order.steps_per_epoch,
        refresh=order.steps_per_epoch if params.lr_per_epoch else 1,
        run=run,
    )
    _give_background_the_others(trained)


def groups_of(network: ShapeAware, head_lr_factor: float) -> list[dict[str, object]]:
    """Return what learns: the encoder, and with a learning rate of its own what follows it."""
    encoder = list(network.embed.encoder.parameters())
    inside = set(map(id, encoder))
    rest = [p for p in network.parameters() if id(p) not in inside and p.requires_grad]
    return [{"params": encoder}, {"params": rest, "lr_factor": head_lr_factor}]


def _shown(items: Items, params: SazsTraining, run: Run) -> tuple[ItemViews, BatchOrder]:
    """Return views of items, and the order that their batches come in."""
    views = ItemViews(
        items,
        params.augmentation,
        released=params.views == "released",
        seed=run.seed,
        cache_images=run.compute.cache_images,
    )
    if params.draw == "classes":
        return views, ClassOrder(items, params.batch_size, section="sazs.training", seed=run.seed)
    of = f"pairs of image and class of split '{items.images.split.name}'"
    order = BatchOrder(len(items), params.batch_size, section="sazs.training", of=of, seed=run.seed)
    return views, order


@torch.no_grad()
def _give_background_the_others(trained: Trained) -> None:
    """Follow what was learned: the background's margin is 0 everywhere."""
    for c, name in enumerate(trained.split.classes):
        if name == BACKGROUND:
            trained.network.classes[c] = trained.network.others


def _cached(
    trained: Trained,
    images: LabelledImages,
    ids: Sequence[str],
    recipe: Recipe,
    tuning: Tuning,
    run: Run,
) -> Path:
    """Cache maps of some images in the run's folder, and return the file."""
    out, shapes = run.folder / "tuning.h5", [images.labels.of(image_id).shape for image_id in ids]
    cache_margins(
        trained,
        ids,
        [images.files[image_id] for image_id in ids],
        [(width, height) for height, width in shapes],
        input_size=recipe.input_size,
        short_side=tuning.short_side,
        batch_size=tuning.batch_size,
        out=out,
        runtime=run.runtime,
        scratch=run.folder / "tuning",
    )
    return out
