"""Every parameter of the project: one typed, frozen section per stage, read from params.yaml.

A stage asks `select` for the sections that its dvc.yaml entry declares and sees nothing else.
The whole file is checked each time all the same, so that a slip in the last stage's section is
refused before the first stage has worked for an hour. Nothing here imports torch.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

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


class BackboneParams(Section):
    """Training of the seen-only backbone, and of the supervised ceiling."""

    model: DeepLabParams
    augmentation: AugmentationParams
    optimiser: OptimiserParams
    head_lr_factor: float = Field(10.0, gt=0)
    """ASPP, decoder and classifier learn this many times faster than the encoder."""
    frozen_batch_norm: bool = False
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
    tuning_images: int = Field(200, ge=1)
    """Training images kept out of the bank's training rows while a free choice is made."""
    batch_size: int = Field(16, ge=1)


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


class GeneratorParams(Section):
    """ZS3Net's GMMN (zs3net §4.1, §4.2)."""

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


class OfficialParams(Section):
    """ZS3Net's released training loop, leaks and all (zs3net §4)."""

    generator: GeneratorParams
    """Its `steps` follow from `epochs` and are not used."""
    optimiser: OptimiserParams
    unseen_weight: float = Field(100.0, gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(8, ge=1)
    augmentation: AugmentationParams


class Zs3netParams(Section):
    """ZS3Net."""

    official_splits: list[str]
    """Splits that the released training loop is run on as well; it is the costly one."""
    vectors: VectorRecipe
    generator: GeneratorParams
    classifier: ClassifierParams
    official: OfficialParams


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
    evaluate: EvaluateParams
    report: ReportParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _references_exist(self) -> "Params":
        for method in ("spnet", "zs3net"):
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
    """Return the value at a dotted name."""
    value: Any = params
    for key in name.split("."):
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
