"""ZS3Net's last step: the classifier, on real features of seen and generated ones of unseen classes.

How much the generated features weigh in the loss decides the score (the released code says 100); it
is chosen on seen classes held out from generator and classifier alike (zs3net §9.5).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.heads import Classifiers
from zslib.losses import weighted_cross_entropy
from zslib.methods.zs3net.generator import Generator, Generators
from zslib.minimising import minimise
from zslib.params.zs3net import ClassifierParams
from zslib.sampling import NaturalRows
from zslib.selection import Choice, hiou_of, matrix_over, tuning_pairs
from zslib.training import Curves

RELEASED_WEIGHT = 100.0
"""Of unseen classes in the released code's loss, on both datasets and all splits (zs3net §4.5)."""

Branch = Callable[[nn.Linear, Float[Tensor, " c"], np.random.Generator], Float[Tensor, ""]]
"""A further term of each step's loss, of the classifier and the class weights."""


@dataclass(frozen=True)
class Branches:
    """The branch of a split, and one per draw of held-out seen classes."""

    final: Branch
    held_out: tuple[Branch, ...]


def fit(
    bank: PixelBank,
    tuning: DenseMaps,
    labels: LabelMaps,
    generators: Generators[Generator],
    class_embeddings: Float[Tensor, "c e"],
    params: ClassifierParams,
    *,
    branches: Branches | None = None,
    seed: int,
    curves: Curves | None = None,
) -> Classifiers[PixelClassifier]:
    """Return the classifier over all classes; its `meta` tells how the weight was chosen.

    A generator that was imported comes without draws. Then nothing is chosen: the weight is the
    released code's.
    """
    choice, held_out = choose_unseen_weight(
        bank, tuning, labels, generators, class_embeddings, params, branches=branches, seed=seed
    )
    classifier = fit_classifier(
        bank,
        generators.final,
        class_embeddings,
        bank.split,
        params,
        unseen_weight=choice.chosen if generators.draws else RELEASED_WEIGHT,
        allowed=None,
        branch=branches.final if branches else None,
        seed=seed,
        curves=curves,
    )
    if generators.draws:
        meta = {"unseen_weight": choice.describe(bank.split.classes)}
        classifier = replace(classifier, meta=meta)
    return Classifiers(classifier, held_out)


def fit_classifier(
    bank: PixelBank,
    generator: Generator,
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: ClassifierParams,
    *,
    unseen_weight: float,
    allowed: np.ndarray | None,
    branch: Branch | None = None,
    seed: int,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Train the last layer on real rows of seen and synthetic rows of unseen classes."""
    torch.manual_seed(seed)
    training = params.training
    head = nn.Linear(bank.dimension, len(split.classes))
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    usable = bank.rows_of_classes(split.seen)
    real_rows = NaturalRows(bank, usable if allowed is None else usable & allowed)
    per_class = max(round(training.batch_size * params.synthetic_share / len(split.unseen)), 1)
    fake_labels = torch.tensor(split.unseen).repeat_interleave(per_class)
    weights = torch.ones(len(split.classes))
    weights[list(split.unseen)] = unseen_weight
    generator.train(params.synthetic_dropout)

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor, np.random.Generator]:
        chosen = real_rows.draw(max(training.batch_size - len(fake_labels), 1), rng)
        labels = torch.from_numpy(bank.labels[chosen].astype(np.int64))
        return bank.gather(chosen), labels, rng

    def loss_of(batch: tuple[Tensor, Tensor, np.random.Generator]) -> Tensor:
        features, labels, rng = batch
        with torch.no_grad():
            fake = generator.sample(class_embeddings.index_select(0, fake_labels))
        logits = head(torch.cat([features, fake]))
        total, weight = weighted_cross_entropy(logits, torch.cat([labels, fake_labels]), weights)
        loss = total / weight
        return loss if branch is None else loss + branch(head, weights, rng)

    minimise(
        loss_of,
        draw,
        head,
        training.optimiser,
        steps=training.steps,
        seed=seed,
        name=f"classifier {split.name}",
        curves=curves,
    )
    return PixelClassifier(split, head.weight.detach(), head.bias.detach())


def choose_unseen_weight(
    bank: PixelBank,
    tuning: DenseMaps,
    labels: LabelMaps,
    generators: Generators[Generator],
    class_embeddings: Float[Tensor, "c e"],
    params: ClassifierParams,
    *,
    branches: Branches | None = None,
    seed: int,
) -> tuple[Choice, tuple[PixelClassifier, ...]]:
    """Score every candidate weight on seen classes held out from generator and classifier.

    Returns the choice, and each draw's classifier with the chosen weight.
    """
    outside = bank.rows_outside(tuning.ids)
    held_out_branches = branches.held_out if branches else (None,) * len(generators.draws)
    sources = zip(generators.held_out, held_out_branches, generators.draws, strict=True)
    tried, table = [], []
    for generator, branch, draw in sources:
        classifiers = [
            fit_classifier(
                bank,
                generator,
                class_embeddings,
                draw,
                params,
                unseen_weight=weight,
                allowed=outside,
                branch=branch,
                seed=seed,
            )
            for weight in params.unseen_weights
        ]
        matrices = [matrix_over(c, tuning_pairs(tuning, labels, draw)) for c in classifiers]
        table.append(tuple(hiou_of(matrix, draw) for matrix in matrices))
        tried.append(classifiers)
    held_out = tuple(draw.unseen for draw in generators.draws)
    choice = Choice(tuple(params.unseen_weights), tuple(table), held_out)
    return choice, tuple(classifiers[choice.best] for classifiers in tried)
