"""Self-training of any method that has a classifier."""

from typing import Literal

from pydantic import Field, model_validator

from zslib.params.section import Section
from zslib.params.training import LinearTraining, SteppedOptimiserParams

Pool = Literal["image", "image_class"]
"""Whether the most confident pixels are sought among all of an image, or class by class."""


class PseudoLabelParams(Section):
    """Which pixels get a pseudo-label (zs3net §6, cagnet §6)."""

    rule: Literal["share", "rank"]
    """A share of the pixels classified as unseen, or an unseen class among the first ranks."""
    pool: Pool = "image"
    """Of the rule `share`."""
    candidates: list[float] = Field(min_length=1)
    """Shares in (0, 1], or ranks from 1 on; chosen on held-out seen classes."""

    @model_validator(mode="after")
    def _candidates_fit_the_rule(self) -> "PseudoLabelParams":
        for value in self.candidates:
            if self.rule == "share" and not 0 < value <= 1:
                raise ValueError(f"candidates: a share is above 0 and at most 1, not {value:g}")
            if self.rule == "rank" and (value < 1 or value % 1):
                raise ValueError(f"candidates: a rank is 1, 2, 3, ..., not {value:g}")
        return self


class SteppedTraining(LinearTraining):
    """The same with a learning rate that may fall in steps, as CaGNet's does (cagnet §6)."""

    optimiser: SteppedOptimiserParams


class SelfTrainingParams(Section):
    """Self-training of one method: pseudo-labels, and training on them from the cache."""

    labels: PseudoLabelParams
    training: SteppedTraining
