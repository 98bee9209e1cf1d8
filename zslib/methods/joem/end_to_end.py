"""JoEm as published: visual network and semantic encoder learn together (joem §2-§5).

An auxiliary classifier keeps pixel features apart; boundary-aware regression draws them to the
prototypes of their classes, mixed across boundaries; semantic consistency keeps prototypes as far
apart as the class embeddings are. The network starts as the split's seen-only backbone, and its own
classifier is the auxiliary one. Features end in a ReLU, whatever the network (joem §2.1, §2.2).
Features and logits are resized with corners aligned, in training and at test (joem §9.6).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from zslib.backbones.network import Normalise, SegmentationNetwork, resize
from zslib.backbones.trained import Backbone
from zslib.fine_tuning import (
    LabelledImages,
    Learned,
    Run,
    Tuning,
    augmented,
    learn,
    learn_and_choose,
)
from zslib.losses import weighted_cross_entropy
from zslib.methods.joem.networks import SemanticEncoder
from zslib.methods.joem.objectives import (
    boundary_aware_regression,
    consistency_classes,
    descend,
    mixing_weights,
    semantic_consistency,
)
from zslib.params.backbone import DeepLabV2Params, ModelParams
from zslib.params.evaluation import SelectionParams
from zslib.params.joem import JoemEndToEnd, JoemObjectives
from zslib.prototypes import PrototypeClassifier
from zslib.training import Losses, TrainState, build_optimiser


def fit(
    backbone: Backbone,
    images: LabelledImages,
    class_embeddings: Float[Tensor, "c e"],
    params: JoemEndToEnd,
    objectives: JoemObjectives,
    sigmas: Sequence[float],
    *,
    selection: SelectionParams,
    tuning: Tuning,
    run: Run,
) -> tuple[Backbone, PrototypeClassifier]:
    """Train both encoders, after a first training has chosen sigma on held-out seen classes.

    Return the network, and the classifier of its features; `backbone` stays as it is.

    Raises:
        InputError: fewer images than a batch, or too few seen classes to hide any.
    """

    def fitted(some: LabelledImages, this: Run) -> Learned[PrototypeClassifier]:
        learning = copy.deepcopy(backbone)
        encoder = fine_tune(learning, some, class_embeddings, params, objectives, run=this)
        with torch.no_grad():
            prototypes = encoder.cpu()(class_embeddings)
        maps_of, dimension = learning.features_of(this.runtime), learning.params.feature_channels
        classifier = PrototypeClassifier(some.split, prototypes, hidden=_relu(backbone.params))
        return Learned(learning, maps_of, dimension, classifier)

    learned, choice = learn_and_choose(fitted, images, sigmas, selection, tuning, run)
    details = {"sigma": choice.describe(images.split.classes)}
    return learned.backbone, replace(learned.classifier, sigma=choice.chosen, meta=details)


def _relu(params: ModelParams) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]] | None:
    """Return the ReLU that maps of the network lack, as a layer of the classifier (joem §2.2).

    DeepLabV2's features are unbounded; DeepLabV3+ ends in a ReLU of its own.
    """
    if not isinstance(params, DeepLabV2Params):
        return None
    return torch.eye(params.feature_channels), torch.zeros(params.feature_channels)


def fine_tune(
    backbone: Backbone,
    images: LabelledImages,
    class_embeddings: Float[Tensor, "c e"],
    params: JoemEndToEnd,
    objectives: JoemObjectives,
    *,
    run: Run,
) -> SemanticEncoder:
    """Train a network on seen labels together with the semantic encoder, and return the latter."""
    section = "joem.end_to_end"
    views, order = augmented(
        images, params.augmentation, params.batch_size, section=section, run=run
    )
    torch.manual_seed(run.seed)
    network, device, picture = backbone.network, run.runtime.device, backbone.params.encoder
    encoder = SemanticEncoder(class_embeddings.shape[1], backbone.params.feature_channels)
    network.to(device).to(memory_format=torch.channels_last)
    encoder.to(device)
    normalise = Normalise(picture.mean, picture.std).to(device)
    words = class_embeddings.to(device)
    consistent = torch.tensor(consistency_classes(images.split), device=device)
    groups = [
        {"params": list(network.encoder.parameters())},
        {"params": network.head_parameters(), "lr_factor": params.head_lr_factor},
    ]
    optimisers = {
        "visual": build_optimiser(params.optimiser, groups),
        "semantic": build_optimiser(params.encoder_optimiser, encoder.parameters()),
    }

    def step(batch: Sequence[Tensor]) -> Losses:
        pictures, labels = (tensor.to(device) for tensor in batch)
        set_mode(network)
        with run.runtime.autocast():
            features = network.features(normalise(pictures)).relu()
            logits = resize(network.classifier(features), labels.shape[-2:])
        found = losses(
            features.float(),
            logits.float(),
            labels,
            encoder,
            words=words,
            consistent=consistent,
            objectives=objectives,
        )
        return descend(found, optimisers)

    learn(
        views,
        order,
        TrainState({"network": network, "encoder": encoder}, optimisers),
        step,
        steps=params.epochs * order.steps_per_epoch,
        refresh=order.steps_per_epoch if params.lr_per_epoch else 1,
        run=run,
    )
    return encoder


def losses(
    features: Float[Tensor, "b d h w"],
    logits: Float[Tensor, "b c H W"],
    labels: UInt8[Tensor, "b H W"],
    encoder: SemanticEncoder,
    *,
    words: Float[Tensor, "c e"],
    consistent: Int64[Tensor, " n"],
    objectives: JoemObjectives,
) -> Mapping[str, Float[Tensor, ""]]:
    """Return the three weighted losses (joem §3); without a labelled pixel the first two are 0."""
    table, grid = encoder.table(words), features.shape[-2:]
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
    total, pixels = weighted_cross_entropy(rows, labels.flatten().long())
    weights, valid = mixing_weights(labels, (grid[0], grid[1]), len(words), objectives)
    cells = features.permute(0, 2, 3, 1)
    errors, count = boundary_aware_regression(cells, weights, table, valid)
    consistency = semantic_consistency(
        words.index_select(0, consistent), table.index_select(0, consistent), objectives
    )
    return {
        "cross_entropy": total / pixels.clamp(min=1),
        "regression": errors / count.clamp(min=1),
        "consistency": objectives.consistency_weight * consistency,
    }


def set_mode(network: SegmentationNetwork) -> None:
    """Train mode, but for the encoder's batch norm, which keeps its statistics (joem §5)."""
    network.train()
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
