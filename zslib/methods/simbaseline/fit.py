"""Training of the proposal network on label maps (simbaseline §2)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zslib.artifacts.proposals import STRIDE
from zslib.backbones.trained import Backbone
from zslib.benchmark import Split
from zslib.datasets.decode import ImageFile
from zslib.fine_tuning import Run
from zslib.methods.simbaseline.criterion import Criterion, Labels, Masks, targets
from zslib.methods.simbaseline.learning import learn_from_labels
from zslib.methods.simbaseline.network import MaskFormer, Predictions, Proposer
from zslib.methods.simbaseline.pixel_level import starting_encoder
from zslib.params.simbaseline import ProposalParams, ProposalTraining
from zslib.training import Losses


def untrained(
    backbone: Backbone,
    split: Split,
    text: Float[Tensor, "k d"],
    params: ProposalParams,
    *,
    seed: int,
) -> Proposer:
    """Return a proposer that has seen no mask; `text` are the vectors of the split's seen classes.

    Raises:
        InputError: its encoder cannot be had, or may have seen an unseen label.
    """
    encoder, weights = starting_encoder(params.encoder, backbone, split)
    torch.manual_seed(seed)
    network = MaskFormer(params.network, encoder, text)
    network.load_encoder(weights)
    return Proposer(network, params.network, encoder, split)


def fit(
    proposer: Proposer,
    images: Sequence[ImageFile],
    label_maps: Sequence[np.ndarray],
    classes: Sequence[int],
    params: ProposalTraining,
    *,
    section: str,
    run: Run,
) -> None:
    """Train the proposer itself, further, on label maps of `classes` and void.

    `classes` are in the order of the text that its head compares with; `section` is where the
    parameters stand.

    Raises:
        InputError: fewer images than a batch, or predictions that are not finite.
    """
    criterion = Criterion(len(classes), run.runtime).to(run.runtime.device)

    def losses_of(layers: list[Predictions], labels: Tensor) -> Losses:
        masks, positions = _targets(labels, classes, params)
        return criterion.total([_as_float32(layer) for layer in layers], masks, positions)

    learn_from_labels(proposer, images, label_maps, losses_of, params, section=section, run=run)


def _targets(
    labels: UInt8[Tensor, "b h w"], classes: Sequence[int], params: ProposalTraining
) -> tuple[list[Masks], list[Labels]]:
    """Return the masks of each image, and where in `classes` theirs stand."""
    if params.loss_resolution == "grid":
        labels = labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    ignore = params.void_in_masks == "ignored"
    wanted = [targets(label_map, classes, ignore_void=ignore) for label_map in labels]
    masks, positions = zip(*wanted, strict=True)
    return list(masks), list(positions)


def _as_float32(predictions: Predictions) -> Predictions:
    return Predictions(predictions.masks.float(), predictions.classes.float())
