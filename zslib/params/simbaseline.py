"""SimBaseline: mask proposals by MaskFormer, classified by their queries and by a vision-language model."""

import re
from typing import Literal

from pydantic import Field, model_validator

from zslib.params.backbone import EncoderParams
from zslib.params.section import Section
from zslib.params.training import OptimiserParams
from zslib.params.vision_language import TemplateSet


class ProposalEncoder(EncoderParams):
    """A timm encoder of images by its plain name: no weights that saw labelled pixels (simbaseline §10.6)."""

    output_stride: Literal[8, 16, 32] = 32
    multi_grid: tuple[int, int, int] | None = (1, 2, 4)
    """Dilation multipliers of the last residual stage."""

    @model_validator(mode="after")
    def _only_an_image_encoder(self) -> "ProposalEncoder":
        if not re.fullmatch(r"[\w.]+", self.name):
            raise ValueError(
                f"name: '{self.name}' is no timm name; published MaskFormers, say, saw unseen classes"
            )
        return self


class MaskFormerParams(Section):
    """MaskFormer with a class head that is aligned with text (simbaseline §2.1)."""

    queries: int = Field(100, ge=1)
    channels: int = Field(256, ge=32, multiple_of=32)
    """Of the pixel decoder, the mask features and the transformer."""
    layers: int = Field(6, ge=1)
    """Of the transformer's decoder; each is supervised."""
    heads: int = Field(8, ge=1)
    feedforward: int = Field(2048, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    class_hidden: int = Field(1024, ge=1)
    """Of the class head's two layers."""


class ViewParams(Section):
    """Resizing by the short side, where the long side lets it (simbaseline §2.3)."""

    short_sides: list[int] = Field(min_length=1)
    """One of these, drawn anew for each training view."""
    long_side: int = Field(ge=8)

    def at(self, short_side: int) -> "ViewParams":
        """Return the same with this one short side."""
        return ViewParams(short_sides=[short_side], long_side=self.long_side)


class ProposalAugmentation(ViewParams):
    """Training views: resized, cropped, with colour jitter, flipped, padded (simbaseline §2.3)."""

    crop_size: int = Field(ge=32, multiple_of=32)
    colour_jitter: bool = True


class PixelTraining(Section):
    """How a network on an image encoder learns from label maps (simbaseline §2.3)."""

    augmentation: ProposalAugmentation
    optimiser: OptimiserParams
    encoder_lr_factor: float = Field(0.1, gt=0)
    gradient_clip: float = Field(0.01, gt=0)
    """Largest L2 norm of the whole gradient."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class ProposalTraining(PixelTraining):
    """How a MaskFormer learns (simbaseline §2.2, §2.3)."""

    void_in_masks: Literal["ignored", "negative"] = "ignored"
    """Void pixels are left out of the mask losses, or lie outside of every mask as published."""
    loss_resolution: Literal["image", "grid"] = "image"
    """Mask losses on logits resized to the image, or on their own grid (cheaper)."""


class ProposalParams(Section):
    """The proposal network and its training on seen labels."""

    encoder: ProposalEncoder | None = None
    """None: that of the split's seen-only backbone, weights and all."""
    network: MaskFormerParams
    training: ProposalTraining


class FusionParams(Section):
    """How both classifiers decide together (simbaseline §5)."""

    weight: float = Field(0.8, gt=0, le=1)
    """Of the queries' probabilities for seen classes, and of the regions' for unseen ones.

    At 0 the formula would trust regions with seen classes and queries with unseen ones; what the
    released code means by it, regions alone, is a row of its own ("direct CLIP")."""
    invalid_queries: Literal["drop", "keep"] = "drop"
    """Queries whose mask is empty have no region: they do not vote, or vote as released."""


class ProposalPseudoLabels(Section):
    """Which void pixels of training images get an unseen class (simbaseline §7)."""

    rule: Literal["quantile", "released"] = "quantile"
    quantile: float = Field(0.5, ge=0, lt=1)
    """Of the pixels given to a class, the share that scores lowest stays void."""
    threshold: float = Field(0.0, ge=0, le=1)
    """Of the released rule: on the softmax of scores."""


class ProposalSelfTraining(Section):
    """The second training, on all classes, continues the first (simbaseline §7)."""

    splits: list[str]
    labels: ProposalPseudoLabels
    training: ProposalTraining


class WindowScale(Section):
    """A size of the image, and of the square windows that slide over it."""

    short_side: int = Field(ge=8)
    tile: int = Field(ge=8)


class WindowParams(Section):
    """How CLIP looks at an image through windows (simbaseline §6)."""

    scales: list[WindowScale] = Field(min_length=1)
    """Their probabilities are averaged."""
    tokens: Literal["class", "dense"] = "class"
    """One distribution per window, as released, or one per patch."""
    batch_size: int = Field(ge=1)
    """Windows at a time."""


class PerPixelParams(Section):
    """The per-pixel (FCN) variants: SimBaseline's two classifiers without masks (simbaseline §6)."""

    splits: list[str]
    prompts: TemplateSet = "single"
    """In which the class names stand, for both branches."""
    training: PixelTraining
    """Of the trained branch: encoder and pixel decoder are those of `proposals`."""
    windows: WindowParams
    weight: float = 0.7
    """As in `clean`; below 0 CLIP decides alone, above 1 the trained branch."""


class SimbaselineParams(Section):
    """SimBaseline."""

    query_prompts: TemplateSet
    """In which the class names stand that the queries learn, and are told by."""
    region_prompts: TemplateSet | Literal["learned"]
    """In which they stand for the regions."""
    proposals: ProposalParams
    test: ViewParams
    """Views that proposals are made of; of `short_sides` there is one."""
    batch_size: int = Field(8, ge=1)
    clean: FusionParams
    official: FusionParams
    """As released."""
    proposal_splits: list[str]
    """Splits for which masks are proposed, and scored as their queries, or the truth, would name them."""
    splits: list[str]
    """Those of them for which a vision-language model names the masks' regions: SimBaseline itself."""
    self_training: ProposalSelfTraining
    fcn: PerPixelParams

    @model_validator(mode="after")
    def _one_stands_on_another(self) -> "SimbaselineParams":
        if strange := sorted(set(self.splits) - set(self.proposal_splits)):
            raise ValueError(f"splits: '{strange[0]}' is not among proposal_splits; add it there")
        if strange := sorted(set(self.self_training.splits) - set(self.splits)):
            raise ValueError(
                f"self_training.splits: '{strange[0]}' is not among splits; add it there"
            )
        return self
