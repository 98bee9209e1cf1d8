"""Every parameter of the project: typed, frozen sections, one module per method, read from params.yaml.

A stage asks `select` for the sections that its dvc.yaml entry declares and sees nothing else.
The whole file is checked each time all the same, so that a slip in the last stage's section is
refused before the first stage has worked for an hour. Nothing here imports torch.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from zslib.errors import InputError
from zslib.params.backbone import BackboneParams, FeatureParams, SupervisedParams
from zslib.params.benchmark import (
    BACKGROUND,
    BenchmarkParams,
    DatasetParams,
    VectorRecipe,
    VectorsParams,
    WorldParams,
)
from zslib.params.cagnet import CagnetParams
from zslib.params.eigenvectors import EigenFusionParams, EigenvectorParams
from zslib.params.evaluation import EvaluateParams, ReportParams, SelectionParams
from zslib.params.joem import JoemParams
from zslib.params.sazs import SazsParams
from zslib.params.section import Section
from zslib.params.self_training import SelfTrainingParams
from zslib.params.simbaseline import SimbaselineParams
from zslib.params.spnet import SpnetParams
from zslib.params.training import ComputeParams
from zslib.params.vision_language import VisionLanguageParams
from zslib.params.zs3net import Zs3netParams


class Params(Section):
    """params.yaml."""

    seed: int = Field(0, ge=0, lt=2**32)
    splits: list[str]
    trained: list[str]
    """The benchmark's name, for stages that run once and not for each split; empty, like `splits`, where
    nothing is trained."""
    benchmark: BenchmarkParams
    dataset: DatasetParams
    world: WorldParams
    vectors: VectorsParams
    backbone: BackboneParams
    supervised: SupervisedParams
    features: FeatureParams
    selection: SelectionParams
    spnet: SpnetParams
    zs3net: Zs3netParams
    cagnet: CagnetParams
    joem: JoemParams
    vision_language: VisionLanguageParams
    simbaseline: SimbaselineParams
    sazs: SazsParams
    eigenvectors: EigenvectorParams
    fusion: EigenFusionParams
    self_training: dict[str, SelfTrainingParams]
    """By method."""
    evaluate: EvaluateParams
    report: ReportParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _references_exist(self) -> "Params":
        for name in ("splits", "trained"):
            if bool(getattr(self, name)) == bool(self.benchmark.trained_on):
                raise ValueError(f"{name}: empty with benchmark.trained_on, and only then")
        for method, section in self:
            recipe = getattr(section, "vectors", None)
            for name in recipe.sources if isinstance(recipe, VectorRecipe) else []:
                if name not in self.vectors.sources and self.trained:
                    raise ValueError(f"{method}.vectors: vectors.sources has no entry '{name}'")
        return self

    @model_validator(mode="after")
    def _splits_exist(self) -> "Params":
        for split in self.splits:
            if split not in self.benchmark.unseen:
                raise ValueError(f"splits: '{split}' has no entry under benchmark.unseen")
        if len(set(self.splits)) != len(self.splits):
            raise ValueError("splits: a name occurs twice")
        for key, chosen in _splits_of_methods(self):
            if strange := sorted(set(chosen) - set(self.splits)):
                known = ", ".join(self.splits) or "none"
                raise ValueError(f"{key}: '{strange[0]}' is not among `splits` ({known})")
        return self

    @model_validator(mode="after")
    def _somebody_names_the_masks(self) -> "Params":
        has_model, tables = bool(self.vision_language.models), self.vision_language.text_tables
        for table in tables:
            if table not in self.vectors.sources:
                raise ValueError(
                    f"vision_language.text_tables: vectors.sources has no entry '{table}'"
                )
        for key in ("splits", "fcn.splits"):
            if select(self, f"simbaseline.{key}") and not has_model:
                raise ValueError(
                    f"simbaseline.{key}: needs a vision-language model; set vision_language.models to "
                    "[clip], or empty this list"
                )
        if self.simbaseline.proposal_splits and not (has_model or tables):
            raise ValueError(
                "simbaseline.proposal_splits: needs text vectors; name a table of them in "
                "vision_language.text_tables, set vision_language.models to [clip], or empty this list"
            )
        return self

    @model_validator(mode="after")
    def _others_leaves_the_background_a_chance(self) -> "Params":
        """With the mean, SAZS's margins add up to 0 over the seen classes: one is never below the
        background's, which is 0."""
        key, classes = "sazs.objectives.others", self.benchmark.classes
        background = BACKGROUND in set(classes) - set(self.benchmark.void)
        if self.sazs.splits and self.sazs.objectives.others == "mean" and background:
            raise ValueError(
                f"{key}: with the mean of the seen classes no pixel would ever be 'background'; "
                "use 'background' or 'learned'"
            )
        if self.sazs.splits and self.sazs.objectives.others == "background" and not background:
            raise ValueError(f"{key}: no class is called 'background'; use 'mean' or 'learned'")
        return self

    @model_validator(mode="after")
    def _zs5net_learns_from_all_images(self) -> "Params":
        if self.zs3net.zs5net_splits and self.features.train_maps is not None:
            raise ValueError(
                "zs3net.zs5net_splits: it learns from all labelled images, and only as many unlabelled "
                "ones as there are maps of are pseudo-labelled; set features.train_maps to null, or "
                "empty this list"
            )
        return self

    @model_validator(mode="after")
    def _classes_can_be_held_out(self) -> "Params":
        """`zslib.held_out` would find that there are too few when the backbone has been trained."""
        benchmark, selection, key = self.benchmark, self.selection, "selection.candidates_from"
        named = set(benchmark.classes)
        if selection.candidates_from != "all":
            named = set(selection.candidates_from)
            if unknown := sorted(named - set(benchmark.classes)):
                raise ValueError(
                    f"{key}: not among benchmark.classes: {', '.join(unknown)}; name this benchmark's "
                    "own, or write all"
                )
        wanted = selection.held_out * selection.draws
        for split in self.splits:
            seen = set(benchmark.classes) - {*benchmark.void, *benchmark.unseen_in(split)}
            usable = len(seen & named - {BACKGROUND})
            if usable < wanted or len(seen) <= selection.held_out:
                raise ValueError(
                    f"{key}: {selection.draws} draws of {selection.held_out} classes need {wanted} seen "
                    f"ones and leave others, split '{split}' has {usable} to draw from beside the "
                    "background; name more, or lower selection.held_out or selection.draws"
                )
        return self


def _splits_of_methods(section: Section, within: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each list of splits that some form of a method is trained for, and its dotted name."""
    for name, value in section:
        if isinstance(value, Section) and name != "benchmark":
            yield from _splits_of_methods(value, f"{within}{name}.")
        elif within and name.endswith("splits"):
            yield f"{within}{name}", value


def load_params(path: Path) -> Params:
    """Read and check a whole parameter file.

    Raises:
        InputError: one line naming the file and every wrong key.
    """
    try:
        content = yaml.load(Path(path).read_text(), _Yaml)
    except FileNotFoundError:
        raise InputError(
            f"{path}: No such file; run this in the project's folder, or name the file with --params"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a mapping of sections")
    try:
        # YAML has no tuples: JSON mode accepts a list for one, and stays strict otherwise.
        return Params.model_validate_json(json.dumps(content, default=str))
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
    given = "" if isinstance(item["input"], dict) else f" (got {item['input']!r:.60})"
    return reasons.get(item["type"], f"{message}{given}")
