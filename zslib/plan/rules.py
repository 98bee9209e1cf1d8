"""What each kind of stage takes, from the survey, the pace and the artifacts' arithmetic."""

from collections.abc import Mapping

from zslib.params import select
from zslib.params.benchmark import BACKGROUND
from zslib.plan import simbaseline, sizes
from zslib.plan.facts import Cost, Facts, Rule
from zslib.plan.graph import Stage

_TRAININGS = 2
"""End-to-end forms train once more, to choose the strength of their calibration."""


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
    return Cost(seconds, facts.pace.backbone.training_memory, facts.pace.backbone.size)


def _joem(facts: Facts, stage: Stage, split: str) -> Cost:
    params, images = facts.params.joem.end_to_end, len(facts.survey.kept(split))
    once = facts.training(params.epochs * images, params.augmentation.crop_size)
    return Cost(_TRAININGS * once, disk=facts.pace.backbone.size)


def _spnet_end_to_end(facts: Facts, stage: Stage, split: str) -> Cost:
    params = facts.params.spnet.end_to_end
    crop, images = params.augmentation.crop_size, params.steps * params.batch_size
    once = facts.training(images, crop, params.scales)
    return Cost(_TRAININGS * once, disk=facts.pace.backbone.size)


def _cagnet_end_to_end(facts: Facts, stage: Stage, split: str) -> Cost:
    params = facts.params.cagnet.end_to_end
    crop, images = params.augmentation.crop_size, params.steps * params.batch_size
    return Cost(facts.training(images, crop, params.scales), disk=facts.pace.backbone.size)


def _zs3net_official(facts: Facts, stage: Stage, split: str) -> Cost:
    """The backbone does not learn: every epoch it looks at a crop of every image (zs3net §4.4)."""
    params, images = facts.params.zs3net.official, len(facts.survey.train)
    looked_at = params.epochs * images * params.augmentation.crop_size**2
    return Cost(looked_at * facts.pace.backbone.forward, disk=facts.pace.backbone.size)


def _train_features(facts: Facts, stage: Stage, split: str) -> Cost:
    images, dimension = facts.survey.kept(split), facts.params.backbone.model.feature_channels
    rows = facts.bank_rows(images, facts.params.features.rows_per_class)
    bank = sizes.pixel_bank(rows, dimension, len(images))
    return Cost(facts.looking(images), disk=bank + facts.dense(facts.whole(images)))


def _maps(facts: Facts, stage: Stage, split: str) -> Cost:
    images = facts.unlabelled(split) if stage.option("--unlabelled") else facts.survey.val
    if view := stage.option("--view"):
        facts = facts.seen_at(select(facts.params, view))
    return Cost(facts.looking(images), disk=facts.dense(images))


def _generator(facts: Facts, stage: Stage, split: str) -> Cost:
    trainings = 1 + facts.params.selection.draws
    steps = trainings * facts.params.zs3net.generator.steps
    return Cost(steps * facts.pace.pieces["generator step"])


def _cagnet_step1(facts: Facts, stage: Stage, split: str) -> Cost:
    """As released, the loss takes as long as runs of equal labels are (cagnet §4): nobody can tell."""
    if _is_official(stage):
        return Cost()
    params = facts.params.cagnet.step1
    return Cost(params.steps * params.batch_size * facts.pace.pieces["cagnet window"])


def _cagnet_step2(facts: Facts, stage: Stage, split: str) -> Cost:
    """Players are trained without each draw's classes, and go on with every candidate.

    Steps on synthetic rows are taken for steps on real ones, which take longer.
    """
    if _is_official(stage):
        return Cost()
    recipe, draws = facts.params.cagnet, facts.params.selection.draws
    first, second = (
        params.steps * (params.rows or params.batch_size * recipe.bank_rows)
        for params in (recipe.step1, recipe.step2)
    )
    rows = draws * (first + len(recipe.step2.unseen_boosts) * second) + second
    return Cost(rows * facts.pace.pieces["cagnet row"])


def _is_official(stage: Stage) -> bool:
    return stage.option("--recipe") == "cagnet.official"


def _cagnet_maps(facts: Facts, stage: Stage, split: str) -> Cost:
    survey, whole = facts.survey, facts.whole(facts.survey.kept(split))
    recipe = facts.params.cagnet
    rows = recipe.official.bank_rows if _is_official(stage) else recipe.bank_rows
    disk = sizes.gated_maps(
        [facts.dense(images) for images in (whole, survey.val, facts.unlabelled(split))],
        bank_rows=rows * len(whole),
        images=len(whole),
        dimension=facts.params.backbone.model.feature_channels,
    )
    return Cost(disk=disk)


def _cagnet_patches(facts: Facts, stage: Stage, split: str) -> Cost:
    """What is kept are the scores of all classes."""
    return Cost(disk=sizes.dense_maps(facts.grids(facts.survey.val), facts.classes))


def _self_train(facts: Facts, stage: Stage, split: str) -> Cost:
    return Cost(disk=sizes.pseudo_labels(facts.unlabelled(split)))


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


def _sazs(facts: Facts, stage: Stage, split: str) -> Cost:
    """An epoch is all pairs of an image and a class, or as many draws as images (sazs §1.3)."""
    params, images = facts.params.sazs.training, facts.survey.kept(split)
    named = facts.survey.classes_per_image - (BACKGROUND in facts.params.benchmark.classes)
    items = len(images) * (named if params.draw == "pairs" else 1)
    pixels, pace = params.augmentation.crop_size**2, facts.pace.networks["sazs"]
    seconds = _TRAININGS * params.epochs * items * pixels * pace.training
    held_out = facts.margins(images[: facts.params.features.tuning_images])
    disk = None if held_out is None else pace.size + held_out
    return Cost(seconds, pace.training_memory, disk)


def _sazs_maps(facts: Facts, stage: Stage, split: str) -> Cost:
    """What is kept are the margins of all classes."""
    images = facts.survey.val
    pixels = sizes.cells(facts.sazs_views(images))
    return Cost(pixels * facts.pace.networks["sazs"].forward, disk=facts.margins(images))


def _graphs(facts: Facts, stage: Stage, split: str) -> Cost:
    """As many segments in each image as the survey found in some."""
    if facts.survey.segments is None:
        return Cost()
    images = len(facts.whole(facts.survey.kept(split)))
    nodes, edges = (round(images * each) for each in facts.survey.segments)
    dimension = facts.params.backbone.model.feature_channels
    return Cost(disk=sizes.graphs(nodes, edges, images, dimension))


def _competitors(facts: Facts, stage: Stage, split: str) -> Cost:
    images, pace = facts.survey.val, facts.pace.pieces["pixel between competitors"]
    return Cost(sizes.pixels(images) * pace, disk=sizes.competitors(images))


def _evaluate(facts: Facts, stage: Stage, split: str) -> Cost:
    """All heads are taken for linear ones; of fused rows, tuning images are counted, and fusing is not."""
    rows, images = stage.options("--row"), facts.survey.val
    tuning = facts.survey.kept(split)[: facts.params.features.tuning_images]
    pixels = len(rows) * facts.passes(split) * sizes.pixels(images)
    pixels += rows.count("fused") * sizes.pixels(tuning)
    seconds = pixels * facts.pace.pieces["classified pixel"]
    return Cost(seconds, disk=len(rows) * sizes.evaluation(images, facts.classes))


RULES: Mapping[str, Rule] = {
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
    "cagnet_step1": _cagnet_step1,
    "cagnet_maps": _cagnet_maps,
    "cagnet_step2": _cagnet_step2,
    "cagnet_patches": _cagnet_patches,
    "self_train": _self_train,
    "zs3net_graphs": _graphs,
    "eigenvectors": _eigenvectors,
    "spnet_maps": _spnet_maps,
    "sazs": _sazs,
    "sazs_maps": _sazs_maps,
    "competitors": _competitors,
    "evaluate": _evaluate,
    **simbaseline.RULES,
}
"""By the module of the stage."""
