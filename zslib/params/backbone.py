"""The backbone, and the features that it leaves in the cache."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zslib.params.section import Section
from zslib.params.training import AugmentationParams, OptimiserParams


class EncoderParams(Section):
    """A timm encoder by name; weights from timm's hub, from local safetensors files, or none."""

    name: str
    weights: Literal["none", "hub"] | list[str] = "none"
    """Later files overlay earlier ones."""
    args: dict[str, Any] = Field({})
    """Extra arguments of timm.create_model, such as pad_type."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class DeepLabParams(Section):
    """DeepLabV3+ (zs3net §2)."""

    architecture: Literal["deeplab_v3_plus"] = "deeplab_v3_plus"
    encoder: EncoderParams
    output_stride: Literal[8, 16] = 16
    multi_grid: tuple[int, int, int] | None = (1, 2, 4)
    """Dilation multipliers of the last residual stage; null where the encoder has no such stage."""
    aspp_rates: tuple[int, int, int] = (6, 12, 18)
    aspp_channels: int = Field(256, ge=1)
    low_level_channels: int = Field(48, ge=1)
    feature_channels: int = Field(256, ge=1)
    dropout: tuple[float, float, float] = (0.5, 0.5, 0.1)
    """After the ASPP, after the first and after the second decoder convolution."""

    @property
    def feature_stride(self) -> int:
        """Image pixels per cell of the feature map."""
        return 4


class DeepLabV2Params(Section):
    """DeepLabV2 (cagnet §2)."""

    architecture: Literal["deeplab_v2"] = "deeplab_v2"
    encoder: EncoderParams
    rates: tuple[int, int, int, int] = (6, 12, 18, 24)
    """Dilations of the head's convolutions."""
    feature_channels: int = Field(600, ge=1)

    @property
    def feature_stride(self) -> int:
        """Image pixels per cell of the feature map."""
        return 8


ModelParams = Annotated[DeepLabParams | DeepLabV2Params, Field(discriminator="architecture")]


class BackboneParams(Section):
    """Training of the seen-only backbone, and of the supervised ceiling but for its length."""

    model: ModelParams
    augmentation: AugmentationParams
    optimiser: OptimiserParams
    head_lr_factor: float = Field(10.0, gt=0)
    """What follows the encoder learns this many times faster than it."""
    frozen_batch_norm: bool = False
    """Batch norm keeps the statistics and the affine map that it starts with."""
    loss_resolution: Literal["image", "grid"] = "image"
    """Cross-entropy on logits resized to the image, or on the feature grid (cheaper)."""
    divide_loss_by_batch: bool = False
    """The released ZS3Net divides the mean loss by the batch size once more."""
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)


class SupervisedParams(Section):
    """What the supervised ceiling does not share with the seen-only backbone."""

    epochs: int = Field(ge=1)
    """Fewer are as many steps: no image is left out."""


class FeatureParams(Section):
    """Views and sizes of the feature cache (DESIGN §3)."""

    short_side: int = Field(312, ge=8)
    label_rule: Literal["floor", "corners"] = "floor"
    """How labels come to the feature grid: as published, or where upsampling puts each cell."""
    rows_per_class: int = Field(128, ge=1)
    """Pixel bank: at most this many feature rows per image and class."""
    train_maps: int | None = Field(None, ge=1)
    """Training images whose whole maps are kept, for methods that look at neighbours; null: all."""
    tuning_images: int = Field(200, ge=1)
    """So many of them are kept out of training while a free choice is made, and judge it."""
    batch_size: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _maps_are_left_to_learn_from(self) -> "FeatureParams":
        """Tuning images are among those with whole maps, and teach nothing while a choice is made."""
        if self.train_maps is not None and self.train_maps <= self.tuning_images:
            raise ValueError(
                f"train_maps must be more than tuning_images ({self.tuning_images}): choices are made "
                "with what is learned from the other maps"
            )
        return self
