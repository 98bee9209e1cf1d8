"""The vision-language model, what it reads as text, and how it looks at regions (simbaseline §3, §4)."""

from typing import Literal

from pydantic import Field, model_validator

from zslib.params.section import Section
from zslib.params.training import OptimiserParams

TemplateSet = Literal["single", "imagenet", "vild"]


class CaptionTraining(Section):
    """A small CLIP, trained from nothing on captions of the training images."""

    image_size: int = Field(ge=8)
    patch_size: int = Field(ge=2)
    width: int = Field(ge=4)
    """Of both towers' tokens."""
    vision_layers: int = Field(ge=1)
    text_layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    dimension: int = Field(ge=2)
    """Of the space that images and texts share."""
    vocabulary: int = Field(ge=600)
    """Tokens, at most; bytes alone are 512."""
    crop_area: tuple[float, float]
    """Share of the image that a training view shows, from and to."""
    patch_dropout: float = Field(ge=0, lt=1)
    """Share of patches that the vision tower does not see in training."""
    optimiser: OptimiserParams
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)

    @model_validator(mode="after")
    def _sizes_divide(self) -> "CaptionTraining":
        if self.image_size % self.patch_size:
            raise ValueError("image_size: must be a multiple of patch_size")
        if self.width % self.heads:
            raise ValueError("width: must be a multiple of heads")
        return self


class PromptTraining(Section):
    """Prompts learned on true regions of seen classes, CLIP frozen (simbaseline §4)."""

    tokens: int = Field(16, ge=1)
    """Learned vectors before a class name, the same for all classes."""
    samples_per_class: int = Field(ge=1)
    size: tuple[int, int] | None = None
    """Height and width of training crops; null: what the model takes. Released: 244, 224."""
    fill_stage: Literal["raw", "normalised", "none"] = "raw"
    """When the mean colour is filled in; released: after normalising, which makes it another colour.
    None: never, as with `regions.fill`."""
    lose_edge: bool = False
    """Released: a box that touches the right or lower edge loses its last column or row."""
    lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0005, ge=0)
    warmup_lr: float = Field(0.0001, gt=0)
    warmup_steps: int = Field(100, ge=0)
    """So many first steps are taken at `warmup_lr`; the cosine goes on below."""
    gradient_clip: float = Field(0.01, gt=0)
    """Largest L2 norm of the gradient."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class RegionParams(Section):
    """From a soft mask to the picture that CLIP sees (simbaseline §3)."""

    threshold: float = Field(0.5, gt=0, lt=1)
    expansion: float = Field(1.0, ge=1)
    """Of the box, about its centre."""
    fill: Literal["mean", "zero", "none"] = "mean"
    """Outside the mask: CLIP's mean colour, or black; none: what is there (not published)."""
    resize: Literal["bicubic", "bicubic_aa"] = "bicubic"
    """Without antialiasing, as released, or with."""
    batch_size: int = Field(ge=1)
    """Regions at a time."""


class VisionLanguageParams(Section):
    """A CLIP of transformers, by name or local folder, or one trained on captions."""

    models: list[Literal["clip"]] = Field(max_length=1)
    text_tables: list[str] = Field(max_length=1)
    """Without a model, the entry of `vectors.sources` that has its text vectors: they name proposals."""
    captions: str
    """One line of JSON per image; an empty file where the model comes trained."""
    name: str | None
    """On the hub, `name@revision` for one commit of it; or a folder."""
    training: CaptionTraining | None
    templates: TemplateSet
    """The class vectors that other methods can take (`vectors.source`) are made with these."""
    prompts: PromptTraining
    regions: RegionParams

    @model_validator(mode="after")
    def _one_origin(self) -> "VisionLanguageParams":
        if (self.name is None) == (self.training is None):
            raise ValueError("give exactly one of 'name' and 'training'")
        if self.models and self.text_tables:
            raise ValueError(
                "text_tables: the model in 'models' reads class names itself; empty one"
            )
        return self
