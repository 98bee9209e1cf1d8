"""What MaskFormer learns from label maps: targets, matching, losses (simbaseline §2.2).

Matching and losses are transformers', which are numerically the released ones. Added here: void pixels
can be left out of masks, the number of masks is averaged over processes, and what is not finite is
an error rather than the costliest match (simbaseline E10).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerHungarianMatcher,
    MaskFormerLoss,
    dice_loss,
    sigmoid_focal_loss,
)

from zslib.benchmark import IGNORE_INDEX
from zslib.errors import InputError
from zslib.methods.simbaseline.network import Predictions
from zslib.training import Losses, Runtime

WEIGHTS = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
"""Of the losses; the matching cost has the same (simbaseline §2.2)."""
NO_OBJECT_WEIGHT = 0.1

VOID = -1.0
"""In a target mask: this pixel counts for nothing."""
OUTSIDE = -1e4
"""A logit that adds nothing to focal and dice loss where the target is 0."""

Masks = Float[Tensor, "_n _h _w"]
Labels = Int64[Tensor, " _n"]


def targets(
    label_map: UInt8[Tensor, "h w"], classes: Sequence[int], *, ignore_void: bool
) -> tuple[Masks, Labels]:
    """Return one mask per class that shows, and where in `classes` that class stands.

    Void pixels are VOID or 0 in all of them. Where nothing is labelled there is no mask; the image
    still teaches its queries to find no object (simbaseline O9).
    """
    shown = [c for c in label_map.unique().tolist() if c != IGNORE_INDEX]
    ids = torch.tensor(shown, dtype=torch.uint8, device=label_map.device)
    masks = (label_map[None] == ids[:, None, None]).float()
    if ignore_void:
        masks = masks.masked_fill(label_map == IGNORE_INDEX, VOID)
    positions = [classes.index(c) for c in shown]
    return masks, torch.tensor(positions, dtype=torch.int64, device=label_map.device)


class Matcher(MaskFormerHungarianMatcher):
    """Assigns one query to each mask, by cost at the resolution of the predictions."""

    def __init__(self) -> None:
        super().__init__(
            cost_class=WEIGHTS["loss_cross_entropy"],
            cost_mask=WEIGHTS["loss_mask"],
            cost_dice=WEIGHTS["loss_dice"],
        )

    @torch.no_grad()
    def forward(
        self,
        masks_queries_logits: Float[Tensor, "b q h w"],
        class_queries_logits: Float[Tensor, "b q c"],
        mask_labels: list[Masks],
        class_labels: list[Labels],
    ) -> list[tuple[Int64[Tensor, " _m"], Int64[Tensor, " _m"]]]:
        """Return, per image, matched queries and the targets they are matched with.

        Raises:
            InputError: a prediction is not finite; transformers would go on without a word.
        """
        if not (masks_queries_logits.isfinite().all() and class_queries_logits.isfinite().all()):
            raise InputError(
                "simbaseline.proposals: predictions are no longer finite; lower the learning rate "
                "(the last checkpoint is kept)"
            )
        size = masks_queries_logits.shape[-2:]
        predicted = [
            _without_void(logits, F.interpolate(masks[:1, None], size)[:, 0])
            for logits, masks in zip(masks_queries_logits, mask_labels, strict=True)
        ]
        known = [masks.clamp(min=0) for masks in mask_labels]
        return super().forward(torch.stack(predicted), class_queries_logits, known, class_labels)


class Criterion(MaskFormerLoss):
    """Cross-entropy, focal and dice loss of matched queries, at the resolution of the targets."""

    def __init__(self, num_classes: int, runtime: Runtime) -> None:
        super().__init__(num_classes, Matcher(), WEIGHTS, NO_OBJECT_WEIGHT)
        self._runtime = runtime

    def total(
        self, layers: Sequence[Predictions], mask_labels: list[Masks], class_labels: list[Labels]
    ) -> Losses:
        """Return the loss over all decoder layers, each with its own matching, and the last one's parts."""
        per_layer = [self(p.masks, p.classes, mask_labels, class_labels) for p in layers]
        weighted = [WEIGHTS[name] * losses[name] for losses in per_layer for name in WEIGHTS]
        parts = {name.removeprefix("loss_"): per_layer[-1][name].detach() for name in WEIGHTS}
        return {"loss": torch.stack(weighted).sum(), **parts}

    def loss_masks(
        self,
        masks_queries_logits: Float[Tensor, "b q h w"],
        mask_labels: list[Masks],
        indices: list[tuple[Tensor, Tensor]],
        num_masks: Tensor,
    ) -> dict[str, Tensor]:
        """Return focal and dice loss of the matched pairs, void pixels left out."""
        predicted = masks_queries_logits[self._get_predictions_permutation_indices(indices)]
        pairs = zip(mask_labels, indices, strict=True)
        wanted = torch.cat([masks[matched.to(masks.device)] for masks, (_, matched) in pairs])
        large = F.interpolate(
            predicted[:, None], wanted.shape[-2:], mode="bilinear", align_corners=False
        )
        logits = _without_void(large[:, 0], wanted).flatten(1)
        truth = wanted.clamp(min=0).flatten(1)
        return {
            "loss_mask": sigmoid_focal_loss(logits, truth, num_masks),
            "loss_dice": dice_loss(logits, truth, num_masks),
        }

    def get_num_masks(self, class_labels: list[Labels], device: torch.device) -> Tensor:
        """Return the number of targets, averaged over processes, at least 1."""
        count = torch.tensor(float(sum(map(len, class_labels))), device=device)
        return (self._runtime.total(count) / self._runtime.world_size).clamp(min=1)


def _without_void(
    logits: Float[Tensor, "n h w"], targets: Float[Tensor, "m h w"]
) -> Float[Tensor, "n h w"]:
    """Return logits that say no, and learn nothing, where targets (n or one, or none) are void."""
    return logits.masked_fill(targets == VOID, OUTSIDE) if len(targets) else logits
