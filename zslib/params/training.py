"""How anything is trained, and on which machine."""

from typing import Literal

from pydantic import Field

from zslib.errors import InputError
from zslib.params.section import Section


class AugmentationParams(Section):
    """Training views (zs3net §1.7)."""

    base_size: int = Field(312, ge=8)
    crop_size: int = Field(312, ge=8)
    scale: tuple[float, float] = (0.5, 2.0)
    blur: float = Field(0.5, ge=0, le=1)
    """Probability of a Gaussian blur with radius U(0, 1)."""


class OptimiserParams(Section):
    """An optimiser with the poly schedule lr (1 - t/T)^power; power 0 keeps lr constant."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    power: float = Field(0.9, ge=0)


class StepDecay(Section):
    """lr is multiplied by `factor` at step `start`, and every `every` steps after (cagnet §5)."""

    start: int = Field(ge=0)
    every: int = Field(ge=1)
    factor: float = Field(gt=0)


class SteppedOptimiserParams(OptimiserParams):
    """An optimiser whose learning rate also falls in steps."""

    decay: StepDecay | None = None


class LinearTraining(Section):
    """Mini-batch training of a linear classifier on rows of the pixel bank."""

    optimiser: OptimiserParams
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class FineTuning(Section):
    """Training of a whole network on images; it starts as the split's seen-only backbone."""

    batch_size: int = Field(ge=1)
    augmentation: AugmentationParams
    optimiser: OptimiserParams
    """Of the encoder."""
    head_lr_factor: float = Field(10.0, gt=0)
    """What follows the encoder learns this many times faster than it."""


class ComputeParams(Section):
    """Where the work runs. Not a dependency of any stage: on another device, or in another precision,
    results differ in their bits, and not in what is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    precision: Literal["auto", "32", "bf16", "fp16"] = "auto"
    workers: int = Field(0, ge=0)
    """Data-loading processes per device; 0 decodes in the training process."""
    cache_images: bool = True
    """Keep decoded training images in memory, as long as half of what was free stays free."""
    checkpoint_seconds: float = Field(60.0, ge=0)

    def on_one_device(self) -> "ComputeParams":
        """Return the same, for work that is not shared among processes."""
        return self.model_copy(update={"devices": 1, "nodes": 1})

    def without_scaling(self) -> "ComputeParams":
        """Return the same, for training that takes gradients of the losses as they are.

        Raises:
            InputError: fp16 is asked for, in which small gradients would vanish unscaled.
        """
        if self.precision == "fp16":
            raise InputError(
                "compute.precision: 'fp16' needs scaled gradients, and this stage does not scale "
                "them; use 'bf16' or '32'"
            )
        return self
