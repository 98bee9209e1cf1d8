"""ZS3Net, with and without graph context."""

from typing import Literal

from pydantic import Field

from zslib.params.benchmark import VectorRecipe
from zslib.params.section import Section
from zslib.params.training import AugmentationParams, LinearTraining, OptimiserParams

Convolution = Literal["lazy", "mean", "sum"]


NodeFeatures = Literal["mean", "seed"]


class GmmnParams(Section):
    """ZS3Net's GMMN: network, loss, and optimiser (zs3net §4.1, §4.2)."""

    hidden: int = Field(256, ge=1)
    noise: Literal["gaussian", "uniform"] = "gaussian"
    noise_dimension: int = Field(300, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    kernel: Literal["variance", "deviation"] = "variance"
    """exp(-d²/2b) as released, or exp(-d²/2b²) as the paper writes it."""
    bandwidths: list[float] = Field([2, 5, 10, 20, 40, 80])
    root: bool = True
    rows: int = Field(128, ge=2)
    lr: float = Field(2e-4, gt=0)


class GeneratorParams(GmmnParams):
    """The GMMN trained by itself, on cached features."""

    steps: int = Field(ge=1)


class ClassifierParams(Section):
    """The last layer, on real rows of seen and synthetic rows of unseen classes (zs3net §9.5)."""

    training: LinearTraining
    synthetic_share: float = Field(0.25, gt=0, lt=1)
    """Share of a batch that is synthetic, spread evenly over the unseen classes."""
    synthetic_dropout: bool = True
    """Whether the generator's dropout stays on while it synthesises."""
    unseen_weights: list[float] = Field(min_length=1)
    """Candidates for the loss weight of unseen classes; chosen on held-out seen classes."""


class GraphBranchParams(Section):
    """The graph branch of the classifier: cross-entropy on nodes (zs3net §5)."""

    graphs: int = Field(32, ge=1)
    """Graphs per step."""
    swapped_share: float = Field(0.5, gt=0, le=1)
    """Share of them in which one seen node takes an unseen class."""
    weight: float = Field(0.1, ge=0)


class GraphParams(Section):
    """Graph context, ZS3Net + GC (zs3net §5)."""

    splits: list[str]
    """Splits that it is run on."""
    node_features: NodeFeatures = "mean"
    """Of the whole component, or of its first cell, as released."""
    convolution: Convolution = "lazy"
    """How nodes hear of their neighbours; "sum" as released. See `zslib.graphs.propagation`."""
    generator: GeneratorParams
    branch: GraphBranchParams
    official_splits: list[str]
    """Splits that the released training loop is run on as well, with its graph branch."""
    official_epochs: int = Field(ge=1)
    """The released graph context trains longer; all else is as in zs3net.official."""


class OfficialParams(Section):
    """ZS3Net's released training loop, leaks and all (zs3net §4)."""

    generator: GmmnParams
    optimiser: OptimiserParams
    unseen_weight: float = Field(100.0, gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    augmentation: AugmentationParams


class Zs3netParams(Section):
    """ZS3Net."""

    official_splits: list[str]
    """Splits that the released training loop is run on as well; it is the costly one."""
    official_short_side: int | None = Field(None, ge=8)
    """Of the views that its networks are evaluated on; null: features.short_side."""
    zs5net_splits: list[str]
    """Splits on which self-training trains the whole network as well, at the backbone's cost."""
    vectors: VectorRecipe
    generator: GeneratorParams
    classifier: ClassifierParams
    official: OfficialParams
    graph: GraphParams
