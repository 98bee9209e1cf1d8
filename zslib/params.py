"""Every parameter of the project: one typed, frozen section per stage, read from params.yaml.

A stage asks `select` for the sections that its dvc.yaml entry declares and sees nothing else.
The whole file is checked each time all the same, so that a slip in the last stage's section is
refused before the first stage has worked for an hour. Nothing here imports torch.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zslib.errors import InputError


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- what is learned and scored ------------------------------------------------------------------


class BenchmarkParams(Section):
    """The protocol of one published benchmark; see `zslib.benchmark`."""

    name: str
    classes: list[str] = Field(min_length=2)
    """Index = class id = value in the masks."""
    void: list[str] = []
    """Classes that count as void everywhere (the background of the SPNet protocol)."""
    unseen: dict[str, list[str]]
    """Split name -> its unseen classes."""
    unseen_images: Literal["drop", "ignore"] = "drop"
    """Training images with unseen pixels leave, or stay with those pixels void."""

    @model_validator(mode="after")
    def _names_exist(self) -> "BenchmarkParams":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name occurs twice")
        for split, names in {"void": self.void, **self.unseen}.items():
            if unknown := sorted(set(names) - set(self.classes)):
                raise ValueError(f"{split}: not among the classes: {', '.join(unknown)}")
        return self


class DatasetParams(Section):
    """Where the images are, and in which official layout."""

    layout: Literal["voc12", "context"] = "voc12"
    root: str
    lists: Literal["train", "trainaug", "sbd"] = "train"


class WorldParams(Section):
    """The built-in world (DESIGN §5)."""

    seed: int = 0
    train_images: int = Field(2000, ge=1)
    val_images: int = Field(400, ge=1)
    sentences: int = Field(20000, ge=100)


# --- class vectors -------------------------------------------------------------------------------


class CorpusTraining(Section):
    """word2vec or fastText trained by gensim on a text corpus (skip-gram, negative sampling)."""

    algorithm: Literal["word2vec", "fasttext"]
    dimension: int = Field(64, ge=2)
    window: int = Field(5, ge=1)
    epochs: int = Field(5, ge=1)
    negative: int = Field(10, ge=1)
    min_count: int = Field(1, ge=1)
    subsample: float = Field(1e-3, ge=0)
    """Words more frequent than this share of the corpus are thinned; 0 keeps all."""
    subword_buckets: int = Field(20_000, ge=1)
    """fastText: rows that the character n-grams share."""
    seed: int = 0


class VectorSourceParams(Section):
    """One source of class vectors: trained on the corpus `input`, or read from the file `input`."""

    input: str
    train: CorpusTraining | None = None
    format: Literal["text", "binary", "gensim", "fasttext"] | None = None
    aliases: dict[str, str] = {}
    """Class name -> what to look up where the vectors lack the name itself."""
    multiword: Literal["token", "mean"] = "mean"

    @model_validator(mode="after")
    def _one_origin(self) -> "VectorSourceParams":
        if (self.train is None) == (self.format is None):
            raise ValueError("give exactly one of 'train' (input is a corpus) and 'format'")
        return self


class VectorRecipe(Section):
    """How a method combines the sources into its class embeddings."""

    sources: list[str] = Field(min_length=1)
    normalise: Literal["none", "unit", "max"] = "unit"


# --- backbone and features -----------------------------------------------------------------------


class EncoderParams(Section):
    """A timm encoder by name; weights from timm's hub, from local safetensors files, or none."""

    name: str
    weights: Literal["none", "hub"] | list[str] = "none"
    """Later files overlay earlier ones."""
    args: dict[str, Any] = {}
    """Extra arguments of timm.create_model, such as pad_type."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class DeepLabParams(Section):
    """DeepLabV3+ (zs3net §2)."""

    architecture: Literal["deeplab_v3_plus"] = "deeplab_v3_plus"
    encoder: EncoderParams
    output_stride: Literal[8, 16] = 16
    multi_grid: tuple[int, int, int] | None = (1, 2, 4)
    """Dilation multipliers of the last residual stage; null where the encoder has no such stage."""
    aspp_rates: tuple[int, int, int] = (6, 12, 18)
    aspp_channels: int = Field(256, ge=1)
    low_level_channels: int = Field(48, ge=1)
    feature_channels: int = Field(256, ge=1)
    dropout: tuple[float, float, float] = (0.5, 0.5, 0.1)
    """After the ASPP, after the first and after the second decoder convolution."""

    @property
    def feature_stride(self) -> int:
        """Image pixels per cell of the feature map."""
        return 4


class DeepLabV2Params(Section):
    """DeepLabV2 (cagnet §2)."""

    architecture: Literal["deeplab_v2"] = "deeplab_v2"
    encoder: EncoderParams
    rates: tuple[int, int, int, int] = (6, 12, 18, 24)
    """Dilations of the head's convolutions."""
    feature_channels: int = Field(600, ge=1)

    @property
    def feature_stride(self) -> int:
        """Image pixels per cell of the feature map."""
        return 8


ModelParams = Annotated[DeepLabParams | DeepLabV2Params, Field(discriminator="architecture")]


class AugmentationParams(Section):
    """Training views (zs3net §1.7)."""

    base_size: int = Field(312, ge=8)
    crop_size: int = Field(312, ge=8)
    scale: tuple[float, float] = (0.5, 2.0)
    blur: float = Field(0.5, ge=0, le=1)
    """Probability of a Gaussian blur with radius U(0, 1)."""


class OptimiserParams(Section):
    """An optimiser with the poly schedule lr (1 - t/T)^power; power 0 keeps lr constant."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    power: float = Field(0.9, ge=0)


class StepDecay(Section):
    """lr is multiplied by `factor` at step `start`, and every `every` steps after (cagnet §5)."""

    start: int = Field(ge=0)
    every: int = Field(ge=1)
    factor: float = Field(gt=0)


class SteppedOptimiserParams(OptimiserParams):
    """An optimiser whose learning rate also falls in steps."""

    decay: StepDecay | None = None


class BackboneParams(Section):
    """Training of the seen-only backbone, and of the supervised ceiling."""

    model: ModelParams
    augmentation: AugmentationParams
    optimiser: OptimiserParams
    head_lr_factor: float = Field(10.0, gt=0)
    """What follows the encoder learns this many times faster than it."""
    frozen_batch_norm: bool = False
    """Batch norm keeps the statistics and the affine map that it starts with."""
    loss_resolution: Literal["image", "grid"] = "image"
    """Cross-entropy on logits resized to the image, or on the feature grid (cheaper)."""
    divide_loss_by_batch: bool = False
    """The released ZS3Net divides the mean loss by the batch size once more."""
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)


class FeatureParams(Section):
    """Views and sizes of the feature cache (DESIGN §3)."""

    short_side: int = Field(312, ge=8)
    label_rule: Literal["floor", "corners"] = "floor"
    """How labels come to the feature grid: as published, or where upsampling puts each cell."""
    rows_per_class: int = Field(128, ge=1)
    """Pixel bank: at most this many feature rows per image and class."""
    train_maps: int | None = Field(None, ge=1)
    """Training images whose whole maps are kept, for methods that look at neighbours; null: all."""
    tuning_images: int = Field(200, ge=1)
    """So many of them are kept out of training while a free choice is made, and judge it."""
    batch_size: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _tuning_images_have_maps(self) -> "FeatureParams":
        if self.train_maps is not None and self.train_maps < self.tuning_images:
            raise ValueError(f"train_maps must be at least tuning_images ({self.tuning_images})")
        return self


class SelectionParams(Section):
    """The one procedure for every free choice: seen classes held out as if unseen (DESIGN §10)."""

    held_out: int = Field(ge=1)
    """How many seen classes are hidden in each draw."""
    draws: int = Field(1, ge=1)
    candidates_from: Literal["all"] | list[str] = "all"
    """Seen classes that may be drawn (the world draws things only, as its unseen classes are)."""


# --- methods -------------------------------------------------------------------------------------


class LinearTraining(Section):
    """Mini-batch training of a linear classifier on rows of the pixel bank."""

    optimiser: OptimiserParams
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class SpnetParams(Section):
    """SPNet / SPNet-c on frozen features (spnet §10)."""

    vectors: VectorRecipe
    training: LinearTraining
    gammas: list[float] = Field(min_length=1)


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


class SelfTrainingParams(Section):
    """Self-training of one method: pseudo-labels, and training on them from the cache."""

    labels: PseudoLabelParams
    training: LinearTraining


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
    bandwidths: list[float] = [2, 5, 10, 20, 40, 80]
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
    zs5net_splits: list[str]
    """Splits on which self-training trains the whole network as well, at the backbone's cost."""
    vectors: VectorRecipe
    generator: GeneratorParams
    classifier: ClassifierParams
    official: OfficialParams
    graph: GraphParams


class CagnetNetworks(Section):
    """Sizes of CaGNet's networks (cagnet §3, §4)."""

    context_channels: int = Field(256, ge=1)
    signed_log_variance: bool = True
    """Whether the latent code's variance may fall below 1; released: a ReLU keeps it above."""
    generator_hidden: list[int] = Field([1024, 960, 864, 784, 720], min_length=1)
    generator_dropout: list[float] = [0.1, 0.1, 0.3, 0.5, 0.5]
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
    rows: int = Field(ge=2)
    """At most so many labelled pixels of a batch are used."""
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
    vectors: VectorRecipe
    official: CagnetRecipe
    end_to_end: CagnetEndToEnd


# --- scoring and machine -------------------------------------------------------------------------


class EvaluateParams(Section):
    """How predictions are compared with the labels (zs3net §7)."""

    resolution: Literal["original", "view"] = "original"
    bootstrap: int = Field(1000, ge=10)


class ReportParams(Section):
    """What the report shows."""

    pictures: int = Field(8, ge=1)


class ComputeParams(Section):
    """Where the work runs. Not a dependency of any stage: results do not depend on it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    precision: Literal["auto", "32", "bf16", "fp16"] = "auto"
    workers: int = Field(0, ge=0)
    """Data-loading processes per device; 0 decodes in the training process."""
    cache_images: bool = True
    """Keep decoded training images in memory."""
    checkpoint_seconds: float = Field(60.0, ge=0)

    def on_one_device(self) -> "ComputeParams":
        """Return the same, for work that is not shared among processes."""
        return self.model_copy(update={"devices": 1, "nodes": 1})


class Params(Section):
    """params.yaml."""

    seed: int = 0
    splits: list[str] = Field(min_length=1)
    benchmark: BenchmarkParams
    dataset: DatasetParams
    world: WorldParams
    vectors: dict[str, VectorSourceParams]
    backbone: BackboneParams
    features: FeatureParams
    selection: SelectionParams
    spnet: SpnetParams
    zs3net: Zs3netParams
    cagnet: CagnetParams
    self_training: dict[str, SelfTrainingParams]
    """By method."""
    evaluate: EvaluateParams
    report: ReportParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _references_exist(self) -> "Params":
        for method in ("spnet", "zs3net", "cagnet"):
            for name in getattr(self, method).vectors.sources:
                if name not in self.vectors:
                    raise ValueError(f"{method}.vectors: '{name}' has no entry under vectors")
        for split in self.splits:
            if split not in self.benchmark.unseen:
                raise ValueError(f"splits: '{split}' has no entry under benchmark.unseen")
        return self


def load_params(path: Path) -> Params:
    """Read and check a whole parameter file.

    Raises:
        InputError: one line naming the file and every wrong key.
    """
    try:
        content = yaml.load(Path(path).read_text(), _Yaml)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a mapping of sections")
    try:
        # YAML has no tuples: JSON mode accepts a list for one, and stays strict otherwise.
        return Params.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise InputError(f"{path}: {_explained(error)}") from None


def select(params: Params, name: str) -> Any:
    """Return the value at a dotted name. Raises InputError where a table has no such entry."""
    value: Any = params
    for key in name.split("."):
        if isinstance(value, dict) and key not in value:
            raise InputError(f"params.yaml: {name}: missing; there are {', '.join(value)}")
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as text; people and DVC mean the number."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _explained(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(key) for key in item['loc']) or 'params'}: {_reason(item)}"
        for item in error.errors()
    )


def _reason(item: Any) -> str:
    reasons = {
        "extra_forbidden": "unknown key; remove it or correct its spelling",
        "missing": "missing; add it",
    }
    message = item["msg"].removeprefix("Value error, ")
    return reasons.get(item["type"], f"{message} (got {item['input']!r:.60})")
