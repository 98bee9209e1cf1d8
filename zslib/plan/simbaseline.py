"""What each kind of SimBaseline's stages takes: its own networks, and CLIP."""

from collections.abc import Mapping

from zslib.params.simbaseline import PixelTraining
from zslib.plan import sizes
from zslib.plan.clip import bytes_of_clip, picture_side, shared_dimension
from zslib.plan.facts import Cost, Facts, Rule
from zslib.plan.graph import Stage
from zslib.plan.networks import seen_classes
from zslib.plan.pace import NetworkPace
from zslib.vision_language.windows import corners


def _vision_language(facts: Facts, stage: Stage, split: str) -> Cost:
    return Cost(disk=bytes_of_clip(facts.params))


def _prompts(facts: Facts, stage: Stage, split: str) -> Cost:
    """Each step looks at a batch of regions, and reads the names of all seen classes."""
    params, pace = facts.params.vision_language.prompts, facts.pace.pieces
    side = picture_side(facts.params)
    height, width = params.size or (side, side)
    looking = params.batch_size * height * width * pace["pixel for CLIP"]
    reading = seen_classes(facts.params, split) * pace["text for CLIP"]
    return Cost(params.steps * (looking + reading))


def _network(facts: Facts, stage: Stage, split: str) -> Cost:
    pace = facts.pace.networks["simbaseline"]
    seconds = _learning(facts.params.simbaseline.proposals.training, pace)
    return Cost(seconds, pace.training_memory, pace.size)


def _self_train(facts: Facts, stage: Stage, split: str) -> Cost:
    """Pseudo-labels, a second training, and what the network then proposes for validation images."""
    pace, survey = facts.pace.networks["simbaseline"], facts.survey
    unlabelled, views = survey.unlabelled(split), facts.params.simbaseline.test
    labelled = sizes.cells(sizes.proposal_views(unlabelled, views))
    seconds = labelled * facts.pace.pieces["pixel under masks"]
    seconds += _learning(facts.params.simbaseline.self_training.training, pace)
    disk = sizes.pseudo_labels(unlabelled) + pace.size + _bytes_of_proposals(facts, survey.val)
    return Cost(seconds + _seen_by(pace, facts, survey.val), pace.training_memory, disk)


def _learning(params: PixelTraining, pace: NetworkPace) -> float:
    """Return the seconds in which a network learns."""
    return params.steps * params.batch_size * params.augmentation.crop_size**2 * pace.training


def _proposals(facts: Facts, stage: Stage, split: str) -> Cost:
    survey = facts.survey
    images = survey.unlabelled(split) if stage.option("--unlabelled") else survey.val
    seconds = _seen_by(facts.pace.networks["simbaseline"], facts, images)
    return Cost(seconds, disk=_bytes_of_proposals(facts, images))


def _seen_by(pace: NetworkPace, facts: Facts, images: sizes.Sizes) -> float:
    """Return the seconds in which a network sees the images once."""
    return sizes.cells(sizes.padded_views(images, facts.params.simbaseline.test)) * pace.forward


def _bytes_of_proposals(facts: Facts, images: sizes.Sizes) -> int:
    params, dimension = facts.params.simbaseline, shared_dimension(facts.params)
    queries = params.proposals.network.queries
    return sizes.proposals(images, params.test, queries=queries, dimension=dimension)


def _regions(facts: Facts, stage: Stage, split: str) -> Cost:
    """At most: a query whose mask is empty has no region."""
    survey, of_val = facts.survey, "unlabelled" not in (stage.option("--proposals") or "")
    images = len(survey.val if of_val else survey.unlabelled(split))
    queries = facts.params.simbaseline.proposals.network.queries
    pixels = images * queries * picture_side(facts.params) ** 2
    disk = sizes.regions(images, queries=queries, dimension=shared_dimension(facts.params))
    return Cost(pixels * facts.pace.pieces["pixel for CLIP"], disk=disk)


def _evaluate(facts: Facts, stage: Stage, split: str) -> Cost:
    rows, images = len(stage.options("--row")), facts.survey.val
    views = sizes.proposal_views(images, facts.params.simbaseline.test)
    pixels = rows * facts.passes(split) * sizes.cells(views)
    disk = rows * sizes.evaluation(images, facts.classes)
    return Cost(pixels * facts.pace.pieces["pixel under masks"], disk=disk)


def _fcn(facts: Facts, stage: Stage, split: str) -> Cost:
    """As the backward pass begins, it holds two gradients as large as the logits of all pixels."""
    params, pace = facts.params.simbaseline.fcn.training, facts.pace.networks["fcn"]
    pixels = params.batch_size * params.augmentation.crop_size**2
    logits = pixels * seen_classes(facts.params, split) * sizes.SINGLE
    return Cost(_learning(params, pace), pace.training_memory + 2 * logits, pace.size)


def _fcn_evaluate(facts: Facts, stage: Stage, split: str) -> Cost:
    """Every row has its branches look at all images anew; how these then decide is left out."""
    rows, images = stage.options("--row"), facts.survey.val
    trained = _seen_by(facts.pace.networks["fcn"], facts, images)
    windows = _pixels_in_windows(facts, images) * facts.pace.pieces["pixel for CLIP"]
    seconds = sum(trained * (by != "windows") + windows * (by != "pixels") for by in rows)
    return Cost(seconds, disk=len(rows) * sizes.evaluation(images, facts.classes))


def _pixels_in_windows(facts: Facts, images: sizes.Sizes) -> int:
    """Return what CLIP sees of images, at all scales (simbaseline §6)."""
    params, pixels = facts.params.simbaseline, 0
    for scale in params.fcn.windows.scales:
        views = sizes.proposal_views(images, params.test.at(scale.short_side))
        pixels += sum(len(corners(view, scale.tile)) for view in views) * scale.tile**2
    return pixels


RULES: Mapping[str, Rule] = {
    "vision_language": _vision_language,
    "prompts": _prompts,
    "simbaseline_network": _network,
    "simbaseline_proposals": _proposals,
    "simbaseline_self_train": _self_train,
    "simbaseline_evaluate": _evaluate,
    "simbaseline_fcn": _fcn,
    "simbaseline_fcn_evaluate": _fcn_evaluate,
    "regions": _regions,
}
"""By the module of the stage."""
