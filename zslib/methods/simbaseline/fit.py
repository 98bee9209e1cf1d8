"""Training of the proposal network on label maps (simbaseline §2)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from zslib.artifacts.proposals import STRIDE
from zslib.methods.simbaseline.criterion import Criterion, Labels, Masks, targets
from zslib.methods.simbaseline.learning import learn
from zslib.methods.simbaseline.network import Predictions, Proposer
from zslib.params import ComputeParams, ProposalTraining
from zslib.training import Checkpoint, Curves, Losses, Runtime


def fit(
    proposer: Proposer,
    images: Sequence[Path],
    label_maps: Sequence[np.ndarray],
    classes: Sequence[int],
    params: ProposalTraining,
    *,
    seed: int,
    compute: ComputeParams,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> None:
    """Train the proposer itself, further, on label maps of `classes` and void.

    `classes` are in the order of the text that its head compares with.

    Raises:
        InputError: fewer images than a batch, or predictions that are not finite.
    """
    criterion = Criterion(len(classes), runtime).to(runtime.device)

    def losses_of(layers: list[Predictions], labels: Tensor) -> Losses:
        masks, positions = _targets(labels, classes, params)
        return criterion.total([_as_float32(layer) for layer in layers], masks, positions)

    learn(
        proposer.network,
        proposer.encoder,
        losses_of,
        images,
        label_maps,
        params,
        name=f"proposals {proposer.split.name}",
        section="simbaseline.proposals.training",
        seed=seed,
        compute=compute,
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )


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
