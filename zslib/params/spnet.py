"""SPNet."""

from pydantic import Field

from zslib.params.benchmark import VectorRecipe
from zslib.params.section import Section
from zslib.params.training import LinearTraining


class SpnetParams(Section):
    """SPNet / SPNet-c on frozen features (spnet §10)."""

    vectors: VectorRecipe
    training: LinearTraining
    gammas: list[float] = Field(min_length=1)
