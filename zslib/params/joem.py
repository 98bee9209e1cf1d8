"""JoEm."""

from typing import Literal

from pydantic import Field

from zslib.params.benchmark import VectorRecipe
from zslib.params.section import Section
from zslib.params.training import FineTuning, OptimiserParams

JoemMixing = Literal["clean", "released"]


class JoemObjectives(Section):
    """JoEm's losses (joem §3); see `zslib.methods.joem.objectives`."""

    ratio: float = Field(0.25, gt=0, le=1)
    """Side of the grid that labels are mixed from, in sides of the feature grid; 1: the center loss."""
    mixing: JoemMixing = "clean"
    temperature: float = Field(5.0, gt=0)
    """Of distances between class embeddings: prototypes are to lie this many times as far apart."""
    prototype_temperature: float = Field(1.0, gt=0)
    consistency: Literal["clean", "released_context"] = "clean"
    consistency_weight: float = Field(0.1, ge=0)


class JoemClosedForm(Section):
    """Prototypes by least squares on cached features: no training (joem §10, F0)."""

    ridges: list[float] = Field(min_length=1)
    """Candidates for the weight decay of the semantic encoder."""
    consistency_steps: int = Field(ge=0)
    """Iterations of L-BFGS that bring semantic consistency in."""


class JoemHead(Section):
    """A small visual head on cached features, trained as JoEm's encoders are (joem §10, F1)."""

    dimension: int = Field(256, ge=1)
    """Of the joint space."""
    cells_per_image: int = Field(ge=1)
    """Labelled cells of each feature map that training draws from."""
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    """Cells per step."""
    optimiser: OptimiserParams
    """Of the head and its auxiliary classifier."""
    encoder_optimiser: OptimiserParams
    """Of the semantic encoder."""


class JoemEndToEnd(FineTuning):
    """JoEm with both encoders learning, as published (joem §5)."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    """The head's batch norm needs more than one image."""
    encoder_optimiser: OptimiserParams
    """Of the semantic encoder."""
    lr_per_epoch: bool = False
    """Released: learning rates change once per epoch, not at every step."""


class JoemParams(Section):
    """JoEm on frozen features (joem §10); `end_to_end` is the published form."""

    end_to_end_splits: list[str]
    """Splits whose network learns along as well; it is the costly form."""
    vectors: VectorRecipe
    objectives: JoemObjectives
    sigmas: list[float] = Field(min_length=1)
    """Candidates for Apollonius calibration; chosen on held-out seen classes."""
    closed_form: JoemClosedForm
    head: JoemHead
    end_to_end: JoemEndToEnd
