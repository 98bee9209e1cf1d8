"""CaGNet's second step: the classifier learns all classes (cagnet §5).

Blocks of steps on real pixels alternate with blocks on synthetic ones: labels drawn from a prior that
favours unseen classes, latent codes from N(0, 1). By how much it favours them decides the score; the
clean form chooses it on held-out seen classes, with players that never saw them. The contextual
module has, as the backbone has (DESIGN §10): scores on the way compare candidates, and no more.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.heads import Classifiers
from zslib.methods.cagnet.batches import RowSampler
from zslib.methods.cagnet.objectives import synthetic_prior, word_table
from zslib.methods.cagnet.players import Players, checkpoint_of, losses_on_real, take_steps
from zslib.methods.cagnet.step1 import cached_pixels, fit_players
from zslib.params.cagnet import CagnetObjectives, CagnetStep1, CagnetStep2
from zslib.selection import Choice, hiou_of, matrix_over, tuning_pairs
from zslib.training import Checkpoint, Curves, Losses, Runtime, TrainState, train

RealRows = Int64[np.ndarray, " n"]
DrawnLabels = Int64[Tensor, " n"]


def fit(
    bank: PixelBank,
    tuning: DenseMaps,
    labels: LabelMaps,
    players: Players,
    class_embeddings: Float[Tensor, "c e"],
    params: CagnetStep2,
    *,
    step1: CagnetStep1,
    draws: Sequence[Split],
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> Classifiers[PixelClassifier]:
    """Return the classifier over all classes, and those of the draws.

    `players` come from step 1 on all seen classes. Without draws, as in the released code, nothing is
    chosen: the first boost is taken. Each training keeps its state in a folder of its own in that of
    `checkpoint`: of those that ended before a kill, no step is taken again.
    """
    choice, held_out = choose_boost(
        bank,
        tuning,
        labels,
        class_embeddings,
        params,
        step1=step1,
        draws=draws,
        seed=seed,
        runtime=runtime,
        checkpoint=checkpoint,
    )
    final = fit_mixed(
        bank,
        players,
        class_embeddings,
        bank.split,
        params,
        objectives=step1.objectives,
        unseen_boost=choice.chosen if draws else params.unseen_boosts[0],
        allowed=np.ones(len(bank.labels), bool),
        seed=seed,
        runtime=runtime,
        checkpoint=checkpoint_of(checkpoint, "final"),
        curves=curves,
    )
    if draws:
        final = replace(final, meta={"unseen_boost": choice.describe(bank.split.classes)})
    return Classifiers(final, held_out)


def choose_boost(
    bank: PixelBank,
    tuning: DenseMaps,
    labels: LabelMaps,
    class_embeddings: Float[Tensor, "c e"],
    params: CagnetStep2,
    *,
    step1: CagnetStep1,
    draws: Sequence[Split],
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
) -> tuple[Choice, tuple[PixelClassifier, ...]]:
    """Score every candidate on held-out seen classes; return the draws' classifiers at the best."""
    boosts, outside = params.unseen_boosts, bank.rows_outside(tuning.ids)
    table, classifiers = [], []
    for number, draw in enumerate(draws):
        players = fit_players(
            bank,
            class_embeddings,
            draw,
            step1,
            allowed=outside,
            seed=seed,
            runtime=runtime,
            checkpoint=checkpoint_of(checkpoint, f"draw {number} players"),
        )
        row = [
            fit_mixed(
                bank,
                players,
                class_embeddings,
                draw,
                params,
                objectives=step1.objectives,
                unseen_boost=boost,
                allowed=outside,
                seed=seed,
                runtime=runtime,
                checkpoint=checkpoint_of(checkpoint, f"draw {number} boost {boost:g}"),
            )
            for boost in boosts
        ]
        scored = (matrix_over(one, tuning_pairs(tuning, labels, draw)) for one in row)
        table.append(tuple(hiou_of(matrix, draw) for matrix in scored))
        classifiers.append(row)
    choice = Choice(tuple(boosts), tuple(table), tuple(draw.unseen for draw in draws))
    return choice, tuple(row[choice.best] for row in classifiers)


def fit_mixed(
    bank: PixelBank,
    players: Players,
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: CagnetStep2,
    *,
    objectives: CagnetObjectives,
    unseen_boost: float,
    allowed: Bool[np.ndarray, " n"],
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Train a copy of the players on real pixels of seen and synthetic ones of all classes."""
    players = copy.deepcopy(players).to(runtime.device)
    words = word_table(class_embeddings).to(runtime.device)
    optimisers = players.optimisers(params)
    usable = allowed & bank.rows_of_classes(split.seen)
    sampler = RowSampler(bank, usable, batch_size=params.batch_size, rows=params.rows)
    prior = synthetic_prior(split, unseen_boost)

    def batches(start: int) -> Iterator[np.ndarray | Tensor]:
        for step in range(start, params.steps):
            rng = np.random.default_rng([seed, step])
            if step // params.block % 2 == 0:
                yield sampler.draw(rng)
            else:
                yield torch.from_numpy(rng.choice(len(prior), params.synthetic_rows, p=prior))

    def step(batch: np.ndarray | Tensor) -> Losses:
        if isinstance(batch, Tensor):
            loss = synthetic_loss(players, batch.to(runtime.device), words)
            losses = {"discriminator": params.synthetic_weight * loss}
            if params.generator_weight or objectives.step_idle:
                losses["generator"] = params.generator_weight * loss
            found = {"loss": loss.detach(), "synthetic": loss.detach()}
        else:
            real = losses_on_real(players, cached_pixels(bank, batch, words), objectives, params)
            losses, found = real.of_players(), real.curves()
        take_steps(losses, optimisers, step_idle=objectives.step_idle)
        return found

    train(
        TrainState({"players": players}, optimisers),
        step,
        batches,
        steps=params.steps,
        seed=seed,
        name=f"cagnet step 2 {split.name}",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    return players.classifier(split)


def synthetic_loss(
    players: Players, labels: Int64[Tensor, " n"], words: Float[Tensor, "256 e"]
) -> Float[Tensor, ""]:
    """Return the classifier's cross-entropy on features generated for drawn labels (cagnet §5)."""
    embeddings = words.index_select(0, labels)
    dimension = players.discriminator.shared.in_features
    latent = torch.randn(len(labels), dimension, device=labels.device)
    fake = players.generator(embeddings, latent)
    return F.cross_entropy(players.discriminator.classify(fake), labels)
