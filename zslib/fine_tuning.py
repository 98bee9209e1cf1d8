"""What end-to-end forms share: a network that starts as the split's seen-only one, and learns on.

The strength of a calibration is chosen as every free choice is (DESIGN §10), for the price of a
second training: the first draw's classes are hidden from it as if they were unseen, their pixels
void, and images kept out of it are the judges. The network that it starts from has seen them all,
so the scores on the way are optimistic.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.backbones.network import SegmentationNetwork
from zslib.backbones.trained import Backbone
from zslib.benchmark import Split
from zslib.calibration import Calibrated
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import BatchOrder, TrainingViews, loader
from zslib.features import Photographs, extract, plan_dense, sample_ids
from zslib.held_out import draw_held_out
from zslib.params.evaluation import SelectionParams
from zslib.params.training import AugmentationParams, ComputeParams
from zslib.selection import Choice, score_strengths
from zslib.training import (
    BatchNorm,
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    poly_lr,
    step_decay,
    train,
)

Head = TypeVar("Head", bound=Calibrated)


@dataclass(frozen=True)
class LabelledImages(Sequence[np.ndarray]):
    """Training images, and by position label maps in which only a split's seen classes show."""

    split: Split
    ids: tuple[str, ...]
    files: Mapping[str, ImageFile]
    labels: LabelMaps

    @classmethod
    def of(cls, file: Callable[[str], ImageFile], labels: LabelMaps) -> "LabelledImages":
        """Return all images of a split's seen labels, given the file of an id."""
        files = {image_id: file(image_id) for image_id in labels.ids}
        return cls(Split.described(labels.meta), labels.ids, files, labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> np.ndarray:  # type: ignore[override]
        """Return a label map (H, W) uint8."""
        return self.split.seen_labels(self.labels.of(self.ids[position]))

    @property
    def paths(self) -> list[ImageFile]:
        return [self.files[image_id] for image_id in self.ids]

    def hide(self, split: Split, images: Collection[str]) -> "LabelledImages":
        """Return what is left without some images, and where only `split`'s seen classes show."""
        kept = np.array(self.ids)[~np.isin(self.ids, list(images))]
        return replace(self, split=split, ids=tuple(kept.tolist()))


@dataclass(frozen=True)
class Run:
    """How and where a network is trained."""

    name: str
    """What its progress and its errors call it."""
    seed: int
    compute: ComputeParams
    runtime: Runtime
    folder: Path
    """What is kept until the run has ended: checkpoints, and maps of the tuning images."""
    curves: Curves | None = None

    def for_choice(self) -> "Run":
        """Return the same for the training that a choice is made with."""
        name, folder = f"{self.name}-held-out", self.folder / "held-out"
        return replace(self, name=name, folder=folder, curves=None)


def augmented(
    images: LabelledImages,
    augmentation: AugmentationParams,
    batch_size: int,
    *,
    section: str,
    run: Run,
) -> tuple[TrainingViews, BatchOrder]:
    """Return views of images, and the order that their batches come in; see `BatchOrder`."""
    views = TrainingViews(
        images.paths, images, augmentation, seed=run.seed, cache_images=run.compute.cache_images
    )
    of = f"training images of split '{images.split.name}'"
    return views, BatchOrder(len(images), batch_size, section=section, of=of, seed=run.seed)


def learn(
    views: TrainingViews,
    order: BatchOrder,
    state: TrainState,
    step: Callable[[Sequence[Tensor]], Losses],
    *,
    steps: int,
    refresh: int = 1,
    run: Run,
) -> None:
    """Take `steps` steps over batches of views; `refresh` of them share one learning rate.

    The released forms refresh theirs every tenth step (spnet §5) or once per epoch (joem §5, sazs §5).
    """
    compute = run.compute

    def refreshed(numbered: tuple[int, Sequence[Tensor]]) -> Losses:
        index, batch = numbered
        since = index - index % refresh
        for optimiser in state.optimisers.values():
            for group in optimiser.param_groups:
                rate = poly_lr(group["initial_lr"], since, steps, power=group["power"])
                group["lr"] = rate * step_decay(since, group["decay"])
        return step(batch)

    train(
        state,
        refreshed,
        lambda start: enumerate(loader(views, order, start, steps, workers=compute.workers), start),
        steps=steps,
        seed=run.seed,
        name=run.name,
        runtime=run.runtime,
        checkpoint=Checkpoint(run.folder, compute.checkpoint_seconds),
        curves=run.curves,
    )


def groups_without_norm(
    network: SegmentationNetwork,
    *,
    head_lr_factor: float,
    bias_lr_factor: float,
    projection: nn.Module | None = None,
) -> list[dict[str, object]]:
    """Return what learns while batch norm rests, each parameter in one group (spnet §5, cagnet §2).

    First the encoder; then the head's weights, and its biases, which are not decayed; `projection`
    belongs to the head. The network's own classifier is not used.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    resting = {id(parameter) for norm in norms for parameter in norm.parameters()}
    resting |= {id(parameter) for parameter in network.classifier.parameters()}

    def learning(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        return [parameter for parameter in parameters if id(parameter) not in resting]

    head = learning(network.head_parameters())
    head += [] if projection is None else list(projection.parameters())
    weights = [parameter for parameter in head if parameter.ndim > 1]
    biases = [parameter for parameter in head if parameter.ndim == 1]
    groups: list[dict[str, object]] = [
        {"params": learning(network.encoder.parameters())},
        {"params": weights, "lr_factor": head_lr_factor},
        {"params": biases, "lr_factor": bias_lr_factor, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Tuning:
    """The training images that judge a choice, as params.yaml:features has them."""

    images: int
    """So many are kept out of the training before it."""
    short_side: int
    """Of the view that maps are made of, in pixels."""
    batch_size: int


@dataclass(frozen=True)
class Learned(Generic[Head]):
    """A network after training, and the classifier that reads maps made with it."""

    backbone: Backbone
    maps_of: Callable[[Tensor], Tensor]
    """uint8 images (b, 3, H, W) to maps (b, d, h, w)."""
    dimension: int
    classifier: Head


def learn_and_choose(
    fit: Callable[[LabelledImages, Run], Learned[Head]],
    images: LabelledImages,
    candidates: Sequence[float],
    selection: SelectionParams,
    tuning: Tuning,
    run: Run,
) -> tuple[Learned[Head], Choice]:
    """Train with all seen classes, after a first training has chosen the calibration's strength.

    Raises:
        InputError: there are too few seen classes to hide any.
    """
    hidden = draw_held_out(images.split, selection, seed=run.seed)[0]
    kept_out = sample_ids(images.ids, tuning.images, seed=run.seed)
    first = run.for_choice()
    trial = fit(images.hide(hidden, kept_out), first)
    maps = _maps_of_some(trial, images, kept_out, tuning, first)
    choice = choose_strength(trial.classifier, maps, images.labels, candidates)
    return fit(images, run), choice


def choose_strength(
    classifier: Calibrated, maps: DenseMaps, labels: LabelMaps, candidates: Sequence[float]
) -> Choice:
    """Score every strength on maps of images that were kept out, by the classes hidden as unseen."""
    scores = score_strengths(classifier, maps, labels, candidates)
    return Choice(tuple(candidates), (scores,), (classifier.split.unseen,))


def _maps_of_some(
    learned: Learned[Any],
    images: LabelledImages,
    ids: Sequence[str],
    tuning: Tuning,
    run: Run,
) -> DenseMaps:
    """Extract maps of some images into the run's folder."""
    shapes = [images.labels.of(image_id).shape for image_id in ids]
    photographs = Photographs.of(
        [images.files[image_id] for image_id in ids],
        [(width, height) for height, width in shapes],
        short_side=tuning.short_side,
        stride=learned.backbone.params.feature_stride,
    )
    out = run.folder / "tuning.h5"
    extract(
        learned.maps_of,
        photographs,
        {out: plan_dense(photographs, ids)},
        dimension=learned.dimension,
        batch_size=tuning.batch_size,
        runtime=run.runtime,
        scratch=run.folder / "tuning",
    )
    return DenseMaps.open(out)
