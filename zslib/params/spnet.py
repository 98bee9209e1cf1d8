"""SPNet."""

from typing import Literal

from pydantic import Field

from zslib.params.benchmark import VectorRecipe
from zslib.params.section import Section
from zslib.params.training import FineTuning, LinearTraining


class SpnetEndToEnd(FineTuning):
    """SPNet with its whole network learning, as published (spnet §2, §3, §5)."""

    steps: int = Field(ge=1)
    scales: list[float] = Field([1.0, 0.5, 0.75], min_length=1)
    """Of the images; the maximum over their scores is taken on the grid of the first."""
    bias_lr_factor: float = Field(20.0, gt=0)
    """Of what follows the encoder, without weight decay."""
    lr_refresh: int = Field(1, ge=1)
    """Steps that share a learning rate; released: 10."""
    label_rule: Literal["corners", "floor"] = "corners"
    """How labels come to the grids of scores: where upsampling puts each cell, or as released."""


class SpnetParams(Section):
    """SPNet / SPNet-c on frozen features (spnet §10); `end_to_end` is the published form."""

    end_to_end_splits: list[str]
    """Splits whose network learns along as well; it is the costly form."""
    vectors: VectorRecipe
    training: LinearTraining
    gammas: list[float] = Field(min_length=1)
    end_to_end: SpnetEndToEnd
