"""Pieces of the work that trains no network on images: a measurement does some of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPModel

from zslib.artifacts.proposals import STRIDE, Proposals
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.methods.cagnet.batches import Windows
from zslib.methods.cagnet.networks import ContextualModule
from zslib.methods.cagnet.objectives import word_table
from zslib.methods.cagnet.players import Pixels, Players, losses_on_real, take_steps
from zslib.methods.cagnet.step1 import context_optimiser, contextual_pixels, joint_step
from zslib.methods.simbaseline.segmenters import ProposalSegmenter
from zslib.methods.zs3net.generator import Generator, mmd_loss
from zslib.params import Params
from zslib.plan import sizes
from zslib.plan.clip import build_clip, picture_side
from zslib.plan.networks import WORDS
from zslib.plan.survey import PHOTOGRAPH

_MANY = 64
_TOKENS = 6
"""Of a class name and what stands around it, apart from learned ones."""


@dataclass(frozen=True)
class Piece:
    """Work in equal parts."""

    run: Callable[[int], object]
    """Does so many parts."""
    largest: int = _MANY
    """Parts that are done at a time, or that are enough to tell the pace."""
    units: int = 1
    """Of what the rules count, in a part."""


def pieces(params: Params, device: torch.device) -> Iterator[tuple[str, Piece]]:
    """Yield what the splits in force ask for, by the name of its unit; together they would be large."""
    simbaseline, across = params.simbaseline, bool(params.benchmark.source_splits)
    if params.splits:
        yield "generator step", generator(params)
        yield "cagnet window", cagnet_windows(params, device)
        yield "cagnet row", cagnet_rows(params, device)
        yield "classified pixel", classified(params)
        yield "pixel between competitors", between_competitors(params)
    if simbaseline.proposal_splits or across:
        yield "pixel under masks", under_masks(params)
    if simbaseline.splits or simbaseline.fcn.splits or across:
        clip = build_clip(params).to(device)
        yield "pixel for CLIP", for_clip(clip, params)
        if simbaseline.splits:
            yield "text for CLIP", prompts(clip, params)


def generator(params: Params) -> Piece:
    """Return steps of ZS3Net's generator, on the CPU, where generators are trained."""
    settings, dimension = params.zs3net.generator, params.backbone.model.feature_channels
    network = Generator(settings.noise_dimension, dimension, settings)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr)
    words = torch.rand(settings.rows, settings.noise_dimension)
    real = torch.rand(settings.rows, dimension)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            mmd_loss(network.sample(words), real, settings).backward()
            optimiser.step()

    return Piece(run)


def cagnet_windows(params: Params, device: torch.device) -> Piece:
    """Return a step of all of CaGNet's networks, its batch of windows being the parts (cagnet §5)."""
    recipe, dimension = params.cagnet.step1, params.backbone.model.feature_channels
    classes = len(params.benchmark.classes)
    context = ContextualModule(dimension, recipe.networks).to(device)
    players = Players(WORDS, dimension, classes, recipe.networks).to(device)
    optimisers = {"context": context_optimiser(context, recipe), **players.optimisers(recipe)}
    words = word_table(torch.rand(classes, WORDS)).to(device)
    cells = recipe.crop**2
    rows = min(cells, (recipe.rows or cells * recipe.batch_size) // recipe.batch_size)

    def run(windows: int) -> None:
        features = torch.rand(windows, dimension, recipe.crop, recipe.crop)
        chosen = torch.arange(windows * rows)
        batch = Windows(features, chosen, chosen // cells % classes).to(device)
        pixels, divergence = contextual_pixels(context, batch, words)
        joint_step(players, pixels, divergence, recipe, optimisers)

    return Piece(run, recipe.batch_size)


def cagnet_rows(params: Params, device: torch.device) -> Piece:
    """Return a step of CaGNet's players alone, its rows of the bank being the parts."""
    recipe, dimension = params.cagnet.step1, params.backbone.model.feature_channels
    players = Players(WORDS, dimension, len(params.benchmark.classes), recipe.networks).to(device)
    optimisers = players.optimisers(recipe)

    def run(rows: int) -> None:
        squashed, latent = torch.rand(2, rows, dimension, device=device)
        labels = torch.zeros(rows, dtype=torch.int64, device=device)
        pixels = Pixels(squashed, latent, torch.rand(rows, WORDS, device=device), labels)
        found = losses_on_real(players, pixels, recipe.objectives, recipe)
        take_steps(found.of_players(), optimisers, step_idle=recipe.objectives.step_idle)

    return Piece(run, recipe.rows or recipe.batch_size * params.cagnet.bank_rows)


def classified(params: Params) -> Piece:
    """Return photographs that a linear classifier of cached features labels."""
    classifier, features = _linear(params)
    return _photographs(lambda size: classifier.predict(features, size))


def between_competitors(params: Params) -> Piece:
    """Return photographs of which it tells the best seen and the best unseen class of each pixel."""
    classifier, features = _linear(params)
    return _photographs(lambda size: classifier.competitors(features, size))


def _photographs(look: Callable[[tuple[int, int]], object]) -> Piece:
    """Return photographs, at each of whose (height, width) a classifier looks."""
    width, height = PHOTOGRAPH

    def run(photographs: int) -> None:
        for _ in range(photographs):
            look((height, width))

    return Piece(run, units=width * height)


def _linear(params: Params) -> tuple[PixelClassifier, torch.Tensor]:
    """Return a classifier, and the feature map of a photograph."""
    split, dimension = _first_split(params), params.backbone.model.feature_channels
    weight = torch.zeros(len(split.classes), dimension)
    short, stride = params.features.short_side, params.backbone.model.feature_stride
    (grid,) = sizes.feature_grids([PHOTOGRAPH], short_side=short, stride=stride)
    classifier = PixelClassifier(split, weight, torch.zeros(len(weight)))
    return classifier, torch.rand(*grid, dimension)


def under_masks(params: Params) -> Piece:
    """Return photographs whose pixels get their classes by the masks over them (simbaseline §5)."""
    split, settings = _first_split(params), params.simbaseline
    queries = settings.proposals.network.queries
    (view,) = sizes.proposal_views([PHOTOGRAPH], settings.test)
    (padded,) = sizes.padded_views([PHOTOGRAPH], settings.test)
    cells = queries * (padded[0] // STRIDE) * (padded[1] // STRIDE)
    proposals = Proposals(
        ("photograph",),
        logits=np.zeros(cells, np.float16),
        vectors=np.zeros((1, queries, 1), np.float16),
        no_object=np.zeros(1, np.float32),
        views=np.array([view]),
        padded=np.array([padded]),
        meta={},
    )
    classes = tuple(sorted(split.seen + split.unseen))
    scores = torch.rand(queries, len(classes))
    segmenter = ProposalSegmenter(proposals, split, classes, lambda *_: scores)
    size = min(view, (PHOTOGRAPH[1], PHOTOGRAPH[0]))  # the world's images are as small as its views

    def run(photographs: int) -> None:
        for _ in range(photographs):
            segmenter.predict(0, size)

    return Piece(run, units=view[0] * view[1])


def _first_split(params: Params) -> Split:
    benchmark = params.benchmark
    name = [*params.splits, *benchmark.source_splits][0]
    unseen, void = benchmark.unseen_in(name), benchmark.void
    return Split.named(name, benchmark.classes, unseen=unseen, void=void)


def for_clip(clip: CLIPModel, params: Params) -> Piece:
    """Return pictures that CLIP embeds."""
    side = picture_side(params)

    @torch.inference_mode()
    def run(pictures: int) -> None:
        clip.get_image_features(torch.rand(pictures, 3, side, side, device=clip.device))

    return Piece(run, params.vision_language.regions.batch_size, units=side**2)


def prompts(clip: CLIPModel, params: Params) -> Piece:
    """Return class names that CLIP reads behind learned tokens, and learns them by (simbaseline §4)."""
    length = params.vision_language.prompts.tokens + _TOKENS
    places = clip.text_model.embeddings.position_embedding.weight.requires_grad_()

    def run(texts: int) -> None:
        names = torch.zeros(texts, length, dtype=torch.int64, device=clip.device)
        clip.get_text_features(names).pooler_output.sum().backward()
        places.grad = None

    return Piece(run, len(params.benchmark.classes))
