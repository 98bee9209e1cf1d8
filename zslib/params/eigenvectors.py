"""Eigenvectors of images, and the fusion of predictions with them."""

from pydantic import Field

from zslib.params.backbone import EncoderParams
from zslib.params.section import Section


class EigenvectorParams(Section):
    """Which graph of an image, and how many eigenvectors (sazs §4.1)."""

    encoder: EncoderParams | None = None
    """A DINO ViT by its timm name, whose keys are the nodes; null: cells of cached dense maps."""
    colour_weight: float = Field(0.0, ge=0)
    """Lambda, the weight of the colour term: 10 in the paper, 0 in every documented run."""
    vectors: int = Field(5, ge=2)
    """The constant first one counts, and is not kept."""


class EigenFusionParams(Section):
    """Fusion of label maps with eigenvectors (sazs §4.5)."""

    taus: list[float] = Field(min_length=1)
    """Candidates for the share of a cell that its majority needs, the first of equals taken; above 1
    nothing is fused."""
