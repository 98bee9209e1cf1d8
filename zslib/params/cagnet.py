"""CaGNet."""

from typing import Literal

from pydantic import Field, model_validator

from zslib.params.benchmark import VectorRecipe
from zslib.params.section import Section
from zslib.params.training import AugmentationParams, SteppedOptimiserParams


class CagnetNetworks(Section):
    """Sizes of CaGNet's networks (cagnet §3, §4)."""

    context_channels: int = Field(256, ge=1)
    signed_log_variance: bool = True
    """Whether the latent code's variance may fall below 1; released: a ReLU keeps it above."""
    generator_hidden: list[int] = Field([1024, 960, 864, 784, 720], min_length=1)
    generator_dropout: list[float] = Field([0.1, 0.1, 0.3, 0.5, 0.5])
    """After each hidden layer of the generator."""
    shared_hidden: int = Field(1024, ge=1)
    """Width of the layer that discriminator and classifier share."""
    shared_dropout: float = Field(0.5, ge=0, lt=1)
    dummy_class: bool = False
    """Released: one more output, which no pixel ever has as its label."""

    @model_validator(mode="after")
    def _one_dropout_per_layer(self) -> "CagnetNetworks":
        if len(self.generator_dropout) != len(self.generator_hidden):
            raise ValueError("generator_dropout: give one value per layer of generator_hidden")
        return self


class CagnetObjectives(Section):
    """CaGNet's losses and their weights (cagnet §4)."""

    adversarial: Literal["lsgan", "l1_sigmoid"] = "lsgan"
    """Squared errors as in the paper, or absolute ones of a sigmoid, as released."""
    adversarial_weight: float = Field(1.0, ge=0)
    reconstruction: Literal["l2", "mmd_class", "mmd_run"] = "l2"
    """Squared error as in the paper; root of the MMD per class; or per run of a label, as released."""
    reconstruction_weight: float = Field(50.0, ge=0)
    reconstruction_reaches_context: bool = True
    """Whether the contextual module learns to help reconstruction, as in the paper."""
    kl_weight: float = Field(100.0, ge=0)
    context_classification_weight: float = Field(0.5, ge=0)
    """Weight of the cross-entropy for the contextual module."""
    step_idle: bool = False
    """Released: a network without a loss takes its optimiser's step, with gradients of zero."""


class CagnetPlayers(Section):
    """How generator, and discriminator with classifier, are trained for some steps (cagnet §5)."""

    steps: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    """Images per step."""
    rows: int | None = Field(ge=2)
    """At most so many labelled pixels of a batch are used; null, as released: all of them."""
    generator: SteppedOptimiserParams
    discriminator: SteppedOptimiserParams
    """Of discriminator and classifier together."""
    real_weight: float = Field(ge=0)
    """Of the classifier's cross-entropy on real features."""
    fake_weight: float = Field(ge=0)
    """Of its cross-entropy on features generated for real pixels."""


class CagnetStep1(CagnetPlayers):
    """Joint training of all networks on seen classes (cagnet §5)."""

    networks: CagnetNetworks
    objectives: CagnetObjectives
    crop: int = Field(47, ge=1)
    """Cells: windows of this side are cut from the feature maps."""
    context: SteppedOptimiserParams
    train_selector: bool = True
    """Released: the scale selector keeps its random weights."""


class CagnetStep2(CagnetPlayers):
    """Mixed training: blocks of real steps and blocks of synthetic steps in turn (cagnet §5)."""

    block: int = Field(100, ge=1)
    synthetic_rows: int = Field(ge=1)
    synthetic_weight: float = Field(gt=0)
    """Of the classifier's cross-entropy on features generated for drawn labels."""
    generator_weight: float = Field(ge=0)
    """Of the same for the generator."""
    unseen_boosts: list[float] = Field(min_length=1)
    """An unseen class is drawn 1 + this as often as a seen one: candidates, chosen among on
    held-out seen classes."""


class CagnetEndToEnd(Section):
    """Step 1 with the backbone learning along (cagnet §2, §5); the players learn as in `step1`."""

    steps: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    augmentation: AugmentationParams
    scales: list[float] = Field([1.0, 0.5, 0.75], min_length=1)
    """The classifier sees all of them; everything else, the first."""
    optimiser: SteppedOptimiserParams
    """Of the encoder; the others' rates are multiples of its."""
    context_lr_factor: float = Field(5.0, gt=0)
    head_lr_factor: float = Field(10.0, gt=0)
    bias_lr_factor: float = Field(20.0, gt=0)
    """Of the head's biases."""


class CagnetPatches(Section):
    """CaGNet v2: the classifier sees a pixel among its eight neighbours (cagnet §11).

    Networks and losses are those of `cagnet.step1`, and so is the contextual module.
    """

    crop: int = Field(48, ge=3)
    """Cells: windows of this side are cut from the feature maps."""
    mixed_share: float = Field(ge=0, le=1)
    """Of synthetic patches, how many show seen classes beside an unseen one; all others, one class."""
    step1: CagnetPlayers
    """On seen classes."""
    step2: CagnetStep2
    """`synthetic_rows` are patches."""


class CagnetRecipe(Section):
    """All that decides how CaGNet is trained on cached features."""

    step1: CagnetStep1
    bank_rows: int = Field(128, ge=1)
    """Labelled pixels per image that step 2 draws from."""
    step2: CagnetStep2


class CagnetParams(CagnetRecipe):
    """CaGNet with the paper's losses; `official` has those of the released code."""

    official_splits: list[str]
    """Splits that are trained with the released code's losses as well."""
    end_to_end_splits: list[str]
    """Splits whose backbone learns along as well; it is the costly form."""
    v2_splits: list[str]
    """Splits that the second version is trained for as well."""
    vectors: VectorRecipe
    official: CagnetRecipe
    end_to_end: CagnetEndToEnd
    patches: CagnetPatches
