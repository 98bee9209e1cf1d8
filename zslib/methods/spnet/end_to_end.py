"""SPNet and SPNet-c with the whole network learning, as published (spnet §2-§5).

The network sees each image at several scales with shared weights; every scale scores the seen
classes, their element-wise maximum scores them once more, and the loss is the sum of the four mean
cross-entropies. Unlike the published one, the network starts as the split's seen-only backbone, a
projection to word space that starts at zero follows its features (spnet §9.11), and resizing keeps
corners aligned (spnet O22).

When the network has learned, projection and embeddings make one linear map over all classes; it
becomes the network's own classifier. Maps of the maximum are stored as any features are, so that
gamma and evaluation know nothing of scales.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zslib.backbones.network import Normalise, resize
from zslib.backbones.trained import Backbone
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.fine_tuning import (
    LabelledImages,
    Learned,
    Run,
    Tuning,
    augmented,
    groups_without_norm,
    learn,
    learn_and_choose,
)
from zslib.grids import LABEL_RULES
from zslib.losses import weighted_cross_entropy
from zslib.methods.spnet.frozen import Projection, positions
from zslib.params.evaluation import SelectionParams
from zslib.params.spnet import SpnetEndToEnd
from zslib.training import Losses, Runtime, TrainState, build_optimiser


def fit(
    backbone: Backbone,
    images: LabelledImages,
    class_embeddings: Float[Tensor, "c e"],
    params: SpnetEndToEnd,
    gammas: Sequence[float],
    *,
    selection: SelectionParams,
    tuning: Tuning,
    run: Run,
) -> tuple[Backbone, PixelClassifier]:
    """Train the network, after a first training has chosen gamma on held-out seen classes.

    Return it, and the classifier of the maps that `maximum_of` makes with it; `backbone` stays as it
    is.

    Raises:
        InputError: fewer images than a batch, or too few seen classes to hide any.
    """

    def fitted(some: LabelledImages, this: Run) -> Learned[PixelClassifier]:
        learning = copy.deepcopy(backbone)
        fine_tune(learning, some, class_embeddings, params, run=this)
        maps_of = maximum_of(learning, params.scales, this.runtime)
        return Learned(learning, maps_of, len(class_embeddings), of_scores(some.split))

    learned, choice = learn_and_choose(fitted, images, gammas, selection, tuning, run)
    details = {"gamma": choice.describe(images.split.classes)}
    return learned.backbone, replace(learned.classifier, gamma=choice.chosen, meta=details)


def fine_tune(
    backbone: Backbone,
    images: LabelledImages,
    class_embeddings: Float[Tensor, "c e"],
    params: SpnetEndToEnd,
    *,
    run: Run,
) -> None:
    """Train a network on seen labels, and let its classifier score all classes by their embeddings."""
    section = "spnet.end_to_end"
    views, order = augmented(
        images, params.augmentation, params.batch_size, section=section, run=run
    )
    network, seen, device = backbone.network, images.split.seen, run.runtime.device
    projection = Projection(backbone.params.feature_channels, class_embeddings[list(seen)])
    encoder = backbone.params.encoder
    normalise = Normalise(encoder.mean, encoder.std).to(device)
    network.to(device).to(memory_format=torch.channels_last)
    projection.to(device)
    optimiser = build_optimiser(
        params.optimiser,
        groups_without_norm(
            network,
            head_lr_factor=params.head_lr_factor,
            bias_lr_factor=params.bias_lr_factor,
            projection=projection,
        ),
    )
    position = positions(seen)

    def score(pictures: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b s h w"]:
        features = network.features(pictures).permute(0, 2, 3, 1)
        return projection(features).permute(0, 3, 1, 2)

    def step(batch: Sequence[Tensor]) -> Losses:
        network.eval()
        with run.runtime.autocast():
            outputs = at_scales(score, normalise(batch[0].to(device)), params.scales)
        label_maps = position[batch[1].numpy()].astype(np.uint8)
        loss = sum_of_means(outputs, label_maps, label_rule=params.label_rule)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach()}

    state = TrainState({"network": network, "projection": projection}, {"all": optimiser})
    learn(views, order, state, step, steps=params.steps, refresh=params.lr_refresh, run=run)
    weight, bias = projection.over_all(class_embeddings.to(device))
    with torch.no_grad():
        network.classifier.weight.copy_(weight[:, :, None, None])
        network.classifier.bias.copy_(bias)


def at_scales(
    score: Callable[[Tensor], Tensor], pictures: Float[Tensor, "b 3 H W"], scales: Sequence[float]
) -> list[Float[Tensor, "b c _h _w"]]:
    """Return the scores of each scale on a grid of its own, then their maximum on the first's."""
    found = []
    for scale in scales:
        size = [int(side * scale) for side in pictures.shape[-2:]]
        found.append(score(resize(pictures, size)))
    grid = found[0].shape[-2:]
    return [*found, torch.stack([resize(scores, grid) for scores in found]).amax(0)]


def sum_of_means(
    outputs: Sequence[Float[Tensor, "b s _h _w"]],
    label_maps: UInt8[np.ndarray, "b H W"],
    *,
    label_rule: str,
) -> Float[Tensor, ""]:
    """Return the sum over outputs of the mean cross-entropy of labelled cells (spnet §3, O21).

    An output without a labelled cell counts as 0 (spnet §9.5).
    """
    means = []
    for scores in outputs:
        height, width = scores.shape[-2:]
        small = [LABEL_RULES[label_rule](one, (height, width)) for one in label_maps]
        labels = torch.from_numpy(np.stack(small).reshape(-1).astype(np.int64))
        rows = scores.float().permute(0, 2, 3, 1).flatten(0, 2)
        total, count = weighted_cross_entropy(rows, labels.to(rows.device))
        means.append(total / count.clamp(min=1))
    return torch.stack(means).sum()


def maximum_of(
    backbone: Backbone, scales: Sequence[float], runtime: Runtime
) -> Callable[[Tensor], Tensor]:
    """Return the function from uint8 images to maps of the maximum over scales (spnet §4.1)."""
    network = backbone.network.to(runtime.device).to(memory_format=torch.channels_last).eval()
    encoder = backbone.params.encoder
    normalise = Normalise(encoder.mean, encoder.std).to(runtime.device)

    def score(pictures: Tensor) -> Tensor:
        return network.classifier(network.features(pictures))

    @torch.inference_mode()
    def maps_of(images: Tensor) -> Tensor:
        with runtime.autocast():
            return at_scales(score, normalise(images), scales)[-1]

    return maps_of


def of_scores(split: Split) -> PixelClassifier:
    """Return the classifier of maps that hold scores of all classes already."""
    size = len(split.classes)
    return PixelClassifier(split, torch.eye(size), torch.zeros(size))
