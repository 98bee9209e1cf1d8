"""ZS3Net's last step: the classifier, on real features of seen and generated ones of unseen classes.

How much the generated features weigh in the loss decides the score (the released code says 100); it
is chosen on seen classes held out from generator and classifier alike (zs3net §9.5).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.losses import weighted_cross_entropy
from zslib.methods.zs3net.generator import Generator, Generators
from zslib.params import ClassifierParams
from zslib.sampling import NaturalRows
from zslib.selection import Choice, hiou_of, matrix_over, tuning_pairs
from zslib.training import Curves, Losses, SingleProcess, TrainState, build_optimiser, train


def fit(
    bank: PixelBank,
    tuning: DenseMaps,
    labels: LabelMaps,
    generators: Generators,
    class_embeddings: Float[Tensor, "c e"],
    params: ClassifierParams,
    *,
    seed: int,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Return the classifier over all classes; its `meta` tells how the weight was chosen."""
    choice = choose_unseen_weight(
        bank, tuning, labels, generators, class_embeddings, params, seed=seed
    )
    classifier = fit_classifier(
        bank,
        generators.final,
        class_embeddings,
        bank.split,
        params,
        unseen_weight=choice.chosen,
        allowed=None,
        seed=seed,
        curves=curves,
    )
    return replace(classifier, meta={"unseen_weight": choice.describe(bank.split.classes)})


def fit_classifier(
    bank: PixelBank,
    generator: Generator,
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: ClassifierParams,
    *,
    unseen_weight: float,
    allowed: np.ndarray | None,
    seed: int,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Train the last layer on real rows of seen and synthetic rows of unseen classes."""
    torch.manual_seed(seed)
    training = params.training
    head = nn.Linear(bank.dimension, len(split.classes))
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    optimiser = build_optimiser(training.optimiser, head.parameters())
    usable = bank.rows_of_classes(split.seen)
    real_rows = NaturalRows(bank, usable if allowed is None else usable & allowed)
    per_class = max(round(training.batch_size * params.synthetic_share / len(split.unseen)), 1)
    fake_labels = torch.tensor(split.unseen).repeat_interleave(per_class)
    weights = torch.ones(len(split.classes))
    weights[list(split.unseen)] = unseen_weight
    generator.train(params.synthetic_dropout)

    def batches(start: int) -> Iterator[tuple[Tensor, Int64[Tensor, " n"]]]:
        count = max(training.batch_size - len(fake_labels), 1)
        for step in range(start, training.steps):
            chosen = real_rows.draw(count, np.random.default_rng([seed, step]))
            yield bank.gather(chosen), torch.from_numpy(bank.labels[chosen].astype(np.int64))

    def step(batch: tuple[Tensor, Tensor]) -> Losses:
        features, labels = batch
        with torch.no_grad():
            fake = generator.sample(class_embeddings.index_select(0, fake_labels))
        logits = head(torch.cat([features, fake]))
        total, weight = weighted_cross_entropy(logits, torch.cat([labels, fake_labels]), weights)
        loss = total / weight
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach()}

    train(
        TrainState({"head": head}, {"head": optimiser}),
        step,
        batches,
        steps=training.steps,
        seed=seed,
        name=f"classifier {split.name}",
        runtime=SingleProcess(),
        curves=curves,
    )
    return PixelClassifier(split, head.weight.detach(), head.bias.detach())


def choose_unseen_weight(
    bank: PixelBank,
    tuning: DenseMaps,
    labels: LabelMaps,
    generators: Generators,
    class_embeddings: Float[Tensor, "c e"],
    params: ClassifierParams,
    *,
    seed: int,
) -> Choice:
    """Score every candidate weight on seen classes held out from generator and classifier."""
    outside = bank.rows_outside(tuning.ids)
    table = []
    for generator, draw in zip(generators.held_out, generators.draws, strict=True):
        row = []
        for weight in params.unseen_weights:
            classifier = fit_classifier(
                bank,
                generator,
                class_embeddings,
                draw,
                params,
                unseen_weight=weight,
                allowed=outside,
                seed=seed,
            )
            row.append(hiou_of(matrix_over(classifier, tuning_pairs(tuning, labels, draw)), draw))
        table.append(tuple(row))
    held_out = tuple(draw.unseen for draw in generators.draws)
    return Choice(tuple(params.unseen_weights), tuple(table), held_out)
