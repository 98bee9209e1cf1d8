"""One round of self-training (zs3net §6, cagnet §6).

The classifier labels the unlabelled images at their own resolution; then its layers are trained, from
where they stand, on all truly labelled and all pseudo-labelled cells of the feature cache. The
backbone stays frozen. The rule's parameter is chosen on held-out seen classes, as every free choice.
CaGNet trains its generator along, and finetunes a second time after it (cagnet §6): not here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import open_pseudo_labels, write_pseudo_labels
from zslib.artifacts.publish import publish
from zslib.benchmark import IGNORE_INDEX
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.heads import Classifiers
from zslib.minimising import minimise
from zslib.params.self_training import PseudoLabelParams, SelfTrainingParams
from zslib.params.training import LinearTraining
from zslib.selection import Choice, hiou_of, matrix_over, tuning_pairs
from zslib.self_training.pseudo_labels import confidence_map, pseudo_labels
from zslib.self_training.tasks import Images, LabelMap, Material
from zslib.training import Curves, progress

GridLabels = UInt8[np.ndarray, "_gh _gw"]
LabelRule = Callable[[LabelMap, tuple[int, int]], GridLabels]
"""How labels come to the feature grid: one of `zslib.grids.LABEL_RULES`."""


def fit(
    classifiers: Classifiers[PixelClassifier],
    material: Material,
    params: SelfTrainingParams,
    *,
    label_rule: LabelRule,
    folder: Path,
    seed: int,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Publish `pseudo_labels.h5` and the retrained `classifier.safetensors` in `folder`.

    Calibration is left out: where unseen classes score too low, pseudo-labels are to teach that. The
    classifier's `meta` tells how the rule's parameter was chosen.

    Raises:
        InputError: no training image shows the hidden classes of a draw, or there are no draws to
            choose among several values with.
    """
    choice = choose(classifiers.held_out, material, params, label_rule=label_rule, seed=seed)
    value = choice.chosen if choice else _only_candidate(params.labels)
    first = classifiers.final.uncalibrated()
    task = material.task(first.split)
    maps, known = task.unlabelled.maps, task.unlabelled.known
    with publish(folder) as temporary:
        path = temporary / "pseudo_labels.h5"
        sizes = [known(image_id).shape for image_id in maps.ids]
        labelled = label(first, task.unlabelled, params.labels, value)
        meta = {params.labels.rule: value}
        write_pseudo_labels(path, maps.ids, sizes, labelled, meta=first.split.describe() | meta)
        pseudo = Images(maps, open_pseudo_labels(path)[0].of)
        cells = [Cells.of(images, label_rule) for images in (task.labelled, pseudo)]
        classifier = retrain(first, cells, params.training, seed=seed, curves=curves)
        if choice:
            chosen = choice.describe(first.split.classes)
            classifier = replace(classifier, meta={str(params.labels.rule): chosen})
        classifier.save(temporary / "classifier.safetensors")
    return classifier


def choose(
    held_out: Sequence[PixelClassifier],
    material: Material,
    params: SelfTrainingParams,
    *,
    label_rule: LabelRule,
    seed: int,
) -> Choice | None:
    """Self-train the classifier of every draw with every candidate; score it on the tuning images.

    Returns None without draws, as for a classifier whose generator was imported.
    """
    if not held_out:
        return None
    table = []
    for classifier in map(PixelClassifier.uncalibrated, held_out):
        draw, task = classifier.split, material.held_out_task(classifier.split)
        known = Cells.of(task.labelled, label_rule)
        candidates = label_for_each(classifier, task.unlabelled, params.labels, label_rule)
        row = []
        for pseudo in candidates:
            retrained = retrain(classifier, [known, pseudo], params.training, seed=seed)
            pairs = tuning_pairs(material.train.tuning, material.labels, draw)
            row.append(hiou_of(matrix_over(retrained, pairs), draw))
        table.append(tuple(row))
    hidden = tuple(classifier.split.unseen for classifier in held_out)
    return Choice(tuple(params.labels.candidates), tuple(table), hidden)


def _only_candidate(params: PseudoLabelParams) -> float:
    value, *others = params.candidates
    if others:
        raise InputError(
            f"self_training: the classifier has no held-out draws to choose `{params.rule}` with; "
            "give labels.candidates one value"
        )
    return value


# --- labelling -----------------------------------------------------------------------------------


def label(
    classifier: PixelClassifier, images: Images, params: PseudoLabelParams, value: float
) -> Iterator[tuple[LabelMap, UInt8[np.ndarray, "_h _w"]]]:
    """Yield each image's labels, known and pseudo, and the probabilities of them in 255ths."""
    for features, known in progress(images, name=f"pseudo-labels {classifier.split.name}"):
        logits = classifier.logits(features, known.shape)
        (labels,) = pseudo_labels(logits, known, classifier.split.unseen, params, [value])
        yield labels, confidence_map(logits, labels)


def label_for_each(
    classifier: PixelClassifier, images: Images, params: PseudoLabelParams, label_rule: LabelRule
) -> list["Cells"]:
    """Return the cells that each candidate value labels; every image is classified once."""
    unseen, values = classifier.split.unseen, params.candidates
    on_grid: list[list[GridLabels]] = []
    shown = progress(images, name=f"pseudo-labels {classifier.split.name}")
    for grid, (features, known) in zip(images.maps.grids.tolist(), shown, strict=True):
        logits = classifier.logits(features, known.shape)
        found = pseudo_labels(logits, known, unseen, params, values)
        on_grid.append([label_rule(labels, tuple(grid)) for labels in found])
    return [Cells.of_grids(images.maps, labels) for labels in zip(*on_grid, strict=True)]


@dataclass(frozen=True)
class Cells:
    """Labelled cells of feature maps."""

    features: Float16[np.ndarray, "p d"]
    rows: Int64[np.ndarray, " n"]
    """Where in `features` they are."""
    labels: UInt8[np.ndarray, " n"]

    @classmethod
    def of(cls, images: Images, label_rule: LabelRule) -> "Cells":
        """Return the cells of images that are known."""
        known = map(images.known, images.maps.ids)
        grids = map(tuple, images.maps.grids.tolist())
        return cls.of_grids(images.maps, map(label_rule, known, grids))

    @classmethod
    def of_grids(cls, maps: DenseMaps, on_grid: Iterable[GridLabels]) -> "Cells":
        """Return the cells of maps that are not void in label maps of the same grids."""
        rows, found = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
        for start, labels in zip(maps.starts.tolist(), on_grid, strict=True):
            inside = np.flatnonzero(labels != IGNORE_INDEX)
            rows.append(start + inside)
            found.append(labels.reshape(-1)[inside])
        return cls(maps.features, np.concatenate(rows), np.concatenate(found))

    def __len__(self) -> int:
        return len(self.rows)

    def gather(
        self, numbers: Int64[np.ndarray, " k"]
    ) -> tuple[Float[Tensor, "k d"], Int64[Tensor, " k"]]:
        """Return features, as float32 and read through the memory map, and labels of some cells."""
        features = np.asarray(self.features).take(self.rows[numbers], axis=0)
        labels = self.labels[numbers].astype(np.int64)
        return torch.from_numpy(features).float(), torch.from_numpy(labels)


# --- training ------------------------------------------------------------------------------------


def retrain(
    classifier: PixelClassifier,
    cells: Sequence[Cells],
    params: LinearTraining,
    *,
    seed: int,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Train all layers of a classifier further on the union of cells, each as likely as the next."""
    tensors = {"weight": classifier.weight, "bias": classifier.bias}
    if classifier.hidden is not None:
        tensors["hidden_weight"], tensors["hidden_bias"] = classifier.hidden
    layers = nn.ParameterDict({name: tensor.clone() for name, tensor in tensors.items()})
    learning = _with_layers(classifier, dict(layers.items()))
    ends = np.cumsum([len(part) for part in cells])

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        numbers = rng.integers(0, ends[-1], params.batch_size)
        part = np.searchsorted(ends, numbers, side="right")
        drawn = [
            one.gather(numbers[part == index] - (ends[index] - len(one)))
            for index, one in enumerate(cells)
        ]
        features, labels = zip(*drawn, strict=True)
        return torch.cat(features), torch.cat(labels)

    def loss_of(batch: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        features, labels = batch
        return F.cross_entropy(learning.scores(features), labels)

    minimise(
        loss_of,
        draw,
        layers,
        params.optimiser,
        steps=params.steps,
        seed=seed,
        name=f"self-training {classifier.split.name}",
        curves=curves,
    )
    return _with_layers(classifier, {name: layer.detach() for name, layer in layers.items()})


def _with_layers(classifier: PixelClassifier, layers: Mapping[str, Tensor]) -> PixelClassifier:
    hidden = None
    if classifier.hidden is not None:
        hidden = (layers["hidden_weight"], layers["hidden_bias"])
    return replace(classifier, weight=layers["weight"], bias=layers["bias"], hidden=hidden)
