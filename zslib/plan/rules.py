"""What each kind of stage takes, from the survey, the pace and the artifacts' arithmetic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zslib.methods.sazs.margins import view_of
from zslib.params import Params
from zslib.plan import sizes
from zslib.plan.graph import Stage
from zslib.plan.pace import Pace
from zslib.plan.survey import Survey

CLIP_DIMENSION = 512
"""Of the space that images and texts share in ViT-B/16 (simbaseline §2.1)."""

_TRAININGS = 2
"""End-to-end forms train once more, to choose the strength of their calibration."""


@dataclass(frozen=True)
class Cost:
    """What a stage takes; None is what nobody can tell beforehand."""

    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Facts:
    """All that a cost may depend on."""

    params: Params
    survey: Survey
    pace: Pace

    @property
    def stride(self) -> int:
        return self.params.backbone.model.feature_stride

    def grids(self, images: sizes.Sizes) -> sizes.Grids:
        """Return the grids of the frozen network's maps."""
        short = self.params.features.short_side
        return sizes.feature_grids(images, short_side=short, stride=self.stride)

    def dense(self, images: sizes.Sizes) -> int:
        """Return the bytes of these images' maps."""
        return sizes.dense_maps(self.grids(images), self.params.backbone.model.feature_channels)

    def whole(self, images: sizes.Sizes) -> sizes.Sizes:
        """Return the training images of which whole maps are kept."""
        return images[: self.params.features.train_maps or len(images)]

    @property
    def classes(self) -> int:
        return len(self.params.benchmark.classes)

    @property
    def shared_dimension(self) -> int:
        """Of the space of images and texts."""
        captions = self.params.vision_language.training
        return captions.dimension if captions else CLIP_DIMENSION

    def bank_rows(self, images: sizes.Sizes, rows_per_class: int) -> int:
        """Return the rows of a bank, at most: all that each class of an image is allowed."""
        return round(len(images) * self.survey.classes_per_image * rows_per_class)

    def training(self, images: float, crop: int, scales: Sequence[float] = (1.0,)) -> float:
        """Return the seconds in which the network learns from so many crops, each at these scales."""
        return images * crop**2 * sum(s**2 for s in scales) * self.pace.training

    def looking(self, images: sizes.Sizes) -> float:
        """Return the seconds in which the frozen network sees the images once."""
        short = self.params.features.short_side
        views = (sizes.view(size, short) for size in images)
        return self.pace.forward * sum(height * width for height, width in views)


def _seen_labels(facts: Facts, stage: Stage, split: str) -> Cost:
    return Cost(disk=sizes.label_maps(facts.survey.kept(split)))


def _all_labels(facts: Facts, stage: Stage, split: str) -> Cost:
    of_val = "val_masks" in (stage.option("--masks") or "")
    return Cost(disk=sizes.label_maps(facts.survey.val if of_val else facts.survey.train))


def _backbone(facts: Facts, stage: Stage, split: str) -> Cost:
    params, images = facts.params.backbone, facts.survey.kept(split)
    epochs = facts.params.supervised.epochs if "--ceiling" in stage.command else params.epochs
    steps = epochs * (len(images) // params.batch_size)
    seconds = facts.training(steps * params.batch_size, params.augmentation.crop_size)
    return Cost(seconds, facts.pace.training_memory, facts.pace.network_bytes)


def _joem(facts: Facts, stage: Stage, split: str) -> Cost:
    params, images = facts.params.joem.end_to_end, len(facts.survey.kept(split))
    once = facts.training(params.epochs * images, params.augmentation.crop_size)
    return Cost(_TRAININGS * once, disk=facts.pace.network_bytes)


def _spnet_end_to_end(facts: Facts, stage: Stage, split: str) -> Cost:
    params = facts.params.spnet.end_to_end
    crop, images = params.augmentation.crop_size, params.steps * params.batch_size
    once = facts.training(images, crop, params.scales)
    return Cost(_TRAININGS * once, disk=facts.pace.network_bytes)


def _cagnet_end_to_end(facts: Facts, stage: Stage, split: str) -> Cost:
    params = facts.params.cagnet.end_to_end
    crop, images = params.augmentation.crop_size, params.steps * params.batch_size
    return Cost(facts.training(images, crop, params.scales), disk=facts.pace.network_bytes)


def _zs3net_official(facts: Facts, stage: Stage, split: str) -> Cost:
    """The backbone does not learn: every epoch it looks at a crop of every image (zs3net §4.4)."""
    params, images = facts.params.zs3net.official, len(facts.survey.train)
    looked_at = params.epochs * images * params.augmentation.crop_size**2
    return Cost(looked_at * facts.pace.forward, disk=facts.pace.network_bytes)


def _train_features(facts: Facts, stage: Stage, split: str) -> Cost:
    images, dimension = facts.survey.kept(split), facts.params.backbone.model.feature_channels
    rows = facts.bank_rows(images, facts.params.features.rows_per_class)
    bank = sizes.pixel_bank(rows, dimension, len(images))
    return Cost(facts.looking(images), disk=bank + facts.dense(facts.whole(images)))


def _maps(facts: Facts, stage: Stage, split: str) -> Cost:
    survey = facts.survey
    images = survey.unlabelled(split) if stage.option("--unlabelled") else survey.val
    return Cost(facts.looking(images), disk=facts.dense(images))


def _generator(facts: Facts, stage: Stage, split: str) -> Cost:
    trainings = 1 + facts.params.selection.draws
    return Cost(trainings * facts.params.zs3net.generator.steps * facts.pace.generator)


def _cagnet_maps(facts: Facts, stage: Stage, split: str) -> Cost:
    survey, whole = facts.survey, facts.whole(facts.survey.kept(split))
    recipe = facts.params.cagnet
    rows = recipe.official.bank_rows if "official" in stage.command else recipe.bank_rows
    disk = sizes.gated_maps(
        [facts.dense(images) for images in (whole, survey.val, survey.unlabelled(split))],
        bank_rows=rows * len(whole),
        images=len(whole),
        dimension=facts.params.backbone.model.feature_channels,
    )
    return Cost(disk=disk)


def _self_train(facts: Facts, stage: Stage, split: str) -> Cost:
    return Cost(disk=sizes.pseudo_labels(facts.survey.unlabelled(split)))


def _proposals(facts: Facts, stage: Stage, split: str) -> Cost:
    survey, params = facts.survey, facts.params.simbaseline
    disk = sizes.proposals(
        survey.unlabelled(split) if stage.option("--unlabelled") else survey.val,
        params.test,
        queries=params.proposals.network.queries,
        dimension=facts.shared_dimension,
    )
    return Cost(disk=disk)


def _regions(facts: Facts, stage: Stage, split: str) -> Cost:
    survey, of_val = facts.survey, "unlabelled" not in (stage.option("--proposals") or "")
    images = survey.val if of_val else survey.unlabelled(split)
    queries = facts.params.simbaseline.proposals.network.queries
    return Cost(disk=sizes.regions(len(images), queries=queries, dimension=facts.shared_dimension))


def _eigenvectors(facts: Facts, stage: Stage, split: str) -> Cost:
    """Nodes are cells of the maps, or patches of a ViT."""
    params, survey = facts.params.eigenvectors, facts.survey
    tuning = survey.kept(split)[: facts.params.features.tuning_images]
    images = [*survey.val, *(tuning if stage.option("--train-maps") else ())]
    encoder = params.encoder
    grids = sizes.patch_grids(images, encoder) if encoder else facts.grids(images)
    return Cost(disk=None if grids is None else sizes.eigenvectors(grids, params.vectors))


def _spnet_maps(facts: Facts, stage: Stage, split: str) -> Cost:
    """The network looks once for each scale; what is kept are the scores of all classes."""
    images, scales = facts.survey.val, facts.params.spnet.end_to_end.scales
    seconds = facts.looking(images) * sum(s**2 for s in scales)
    return Cost(seconds, disk=sizes.dense_maps(facts.grids(images), facts.classes))


def _sazs_maps(facts: Facts, stage: Stage, split: str) -> Cost:
    """What is kept are the margins of all classes; only of the split's own network is the pace known."""
    params, short = facts.params.sazs, facts.params.features.short_side
    views = [view_of(size, params.input_size, short) for size in facts.survey.val]
    grids = sizes.margin_grids(views, params.model, stride=facts.stride)
    own = params.model.architecture == "seen_only"
    seconds = facts.pace.forward * sizes.cells(views) if own else None
    return Cost(seconds, disk=None if grids is None else sizes.dense_maps(grids, facts.classes))


def _competitors(facts: Facts, stage: Stage, split: str) -> Cost:
    return Cost(disk=sizes.competitors(facts.survey.val))


def _evaluate(facts: Facts, stage: Stage, split: str) -> Cost:
    rows = stage.command.split().count("--row")
    return Cost(disk=rows * sizes.evaluation(facts.survey.val, facts.classes))


RULES: dict[str, Callable[[Facts, Stage, str], Cost]] = {
    "seen_labels": _seen_labels,
    "all_labels": _all_labels,
    "backbone": _backbone,
    "zs5net": _backbone,
    "joem": _joem,
    "spnet_end_to_end": _spnet_end_to_end,
    "cagnet_end_to_end": _cagnet_end_to_end,
    "zs3net_official": _zs3net_official,
    "train_features": _train_features,
    "maps": _maps,
    "zs3net_generator": _generator,
    "cagnet_maps": _cagnet_maps,
    "self_train": _self_train,
    "simbaseline_proposals": _proposals,
    "regions": _regions,
    "eigenvectors": _eigenvectors,
    "spnet_maps": _spnet_maps,
    "sazs_maps": _sazs_maps,
    "competitors": _competitors,
    "evaluate": _evaluate,
    "simbaseline_evaluate": _evaluate,
}
"""By the module of the stage."""
