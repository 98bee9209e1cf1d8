"""SAZS."""

from typing import Literal

from pydantic import Field, model_validator

from zslib.params.backbone import EncoderParams
from zslib.params.benchmark import VectorRecipe
from zslib.params.section import Section
from zslib.params.training import FineTuning


class SazsModel(Section):
    """What embeds pixels in the space of the class vectors (sazs §2)."""

    architecture: Literal["seen_only", "vit", "drn"]
    """The split's seen-only backbone with a projection; the first twelve blocks of a ViT; DRN-D-105."""
    encoder: EncoderParams | None = None
    """Of the latter two. timm has no drn_d_105: its weights come from local files, or it has none."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of whole channels of DRN's embedding."""

    @model_validator(mode="after")
    def _published_networks_have_an_encoder(self) -> "SazsModel":
        if self.architecture != "seen_only" and self.encoder is None:
            raise ValueError(f"encoder: '{self.architecture}' needs one")
        return self


class SazsObjectives(Section):
    """SAZS's losses (sazs §3); see `zslib.methods.sazs.objectives`."""

    form: Literal["sazs", "lseg"] = "sazs"
    """Scores are inner products, or LSeg's cosines over 0.07 (sazs §2.4)."""
    others: Literal["background", "mean", "learned"] = "mean"
    """The vector of what is not the class: the background's, the mean of the seen classes', or one
    that is learned from there."""
    joint_weight: float = Field(1.0, ge=0)
    """Of the paper's softmax over all texts, beside that over two; released: 0 (sazs §2.5)."""
    void: Literal["ignore", "others"] = "ignore"
    """Released: void and padding are trained as "others"."""
    edges: Literal["clean", "released"] = "clean"
    """Outlines of the class, or of everything with a channel, the crop's frame included (sazs §3.2)."""
    inverse_form: Literal["clean", "released"] = "clean"
    """What the shape loss sees of edge logits: their sigmoid, or nothing but zeros (sazs §3.5)."""
    regressor: str | None = None
    """Safetensors file of InverseForm's distance regressor; without it the shape loss is dropped."""
    edge_weight: float = Field(0.3, ge=0)
    attention_weight: float = Field(0.1, ge=0)
    inverse_weight: float = Field(0.3, ge=0)


class SazsTraining(FineTuning):
    """Training on pairs of an image and one seen class (sazs §1.3, §5)."""

    epochs: int = Field(ge=1)
    draw: Literal["pairs", "classes"] = "pairs"
    """An epoch is all pairs, or as many draws of a class, then of an image with it, as images."""
    views: Literal["shared", "released"] = "shared"
    """Augmentation as all methods have it, or as SAZS's: only scale and crop_size are read then."""
    lr_per_epoch: bool = False
    """Released: learning rates change once per epoch, not at every step."""


class SazsFolds(Section):
    """Split files in the layout of HSNet (sazs §1.2)."""

    layout: Literal["pascal", "coco"]
    root: str
    """The folder that holds trn/ and val/."""


class SazsEpisodes(Section):
    """The binary evaluation of the few-shot fold protocol, without shots (sazs §1.4)."""

    count: int = Field(1000, ge=1)
    draw: Literal["cycle", "classes"] = "cycle"
    """Down the list of pairs again and again (PASCAL), or a class, then an image (COCO)."""
    released_void: Literal["predicted", "others"] = "predicted"
    """What void does in the released scores: it counts where predicted (PASCAL), or is "others"."""
    taus: list[float] = Field(min_length=1)
    """Fusion without ground truth: least agreements for which an eigenvector takes over; above 1 none
    does. Chosen on held-out seen classes, together with the next."""
    vote_shares: list[float]
    """Or each cell votes, and so large a share of the pixels, the least sure ones, follows."""


class SazsParams(Section):
    """SAZS; its network learns in any case."""

    splits: list[str]
    vectors: VectorRecipe
    model: SazsModel
    input_size: int | Literal["short_side", "native"] = 512
    """At test: a square of this side, as features.short_side says, or the image as it is."""
    objectives: SazsObjectives
    training: SazsTraining
    gammas: list[float] = Field(min_length=1)
    """Candidates for calibrated stacking in the generalised evaluation."""
    folds: SazsFolds | None = None
    """Null: pairs are read off the labels."""
    episodes: SazsEpisodes
