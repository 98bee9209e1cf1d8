"""A small visual head on cached features, trained with JoEm's three losses (joem §10, F1)."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.losses import weighted_cross_entropy
from zslib.methods.joem.cells import Cells, Inputs, labelled_cells
from zslib.methods.joem.networks import SemanticEncoder, VisualHead
from zslib.methods.joem.objectives import (
    boundary_aware_regression,
    consistency_classes,
    descend,
    semantic_consistency,
)
from zslib.params.joem import JoemHead, JoemObjectives
from zslib.prototypes import PrototypeClassifier
from zslib.training import Curves, Losses, Runtime, TrainState, build_optimiser, train


def fit_head(
    inputs: Inputs,
    split: Split,
    maps: DenseMaps,
    params: JoemHead,
    objectives: JoemObjectives,
    *,
    seed: int,
    runtime: Runtime,
    curves: Curves | None = None,
) -> PrototypeClassifier:
    """Train head and semantic encoder together on cells of the split's seen classes."""
    torch.manual_seed(seed)
    words = inputs.class_embeddings.to(runtime.device)
    cells = draw_cells(inputs, split, maps, params, objectives, seed=seed)
    head = VisualHead(maps.dimension, params.dimension, len(split.classes)).to(runtime.device)
    encoder = SemanticEncoder(words.shape[1], params.dimension).to(runtime.device)
    optimisers = {
        "head": build_optimiser(params.optimiser, head.parameters()),
        "encoder": build_optimiser(params.encoder_optimiser, encoder.parameters()),
    }
    consistent = torch.tensor(consistency_classes(split), device=runtime.device)

    def batches(start: int) -> Iterator[Cells]:
        for step in range(start, params.steps):
            rng = np.random.default_rng([seed, step])
            rows = torch.from_numpy(rng.integers(0, len(cells), params.batch_size))
            yield cells.at(rows).to(runtime.device)

    def step(batch: Cells) -> Losses:
        found = losses(batch, head, encoder, words, consistent, objectives)
        return descend(found, optimisers)

    train(
        TrainState({"head": head, "encoder": encoder}, optimisers),
        step,
        batches,
        steps=params.steps,
        seed=seed,
        name=f"joem head {split.name}",
        runtime=runtime,
        curves=curves,
    )
    prototypes = encoder(words).detach().cpu()
    weight, bias = head.folded()
    return PrototypeClassifier(split, prototypes, hidden=(weight.cpu(), bias.cpu()))


def losses(
    cells: Cells,
    head: VisualHead,
    encoder: SemanticEncoder,
    words: Float[Tensor, "c e"],
    consistent: Int64[Tensor, " n"],
    objectives: JoemObjectives,
) -> dict[str, Float[Tensor, ""]]:
    """Return the three weighted losses (joem §3)."""
    features, table = head(cells.features.float()), encoder.table(words)
    logits, labels = head.classifier(features), cells.labels.long()
    total, count = weighted_cross_entropy(logits, labels)
    labelled = labels != IGNORE_INDEX
    errors, _ = boundary_aware_regression(features, cells.weights, table, labelled)
    consistency = semantic_consistency(
        words.index_select(0, consistent), table.index_select(0, consistent), objectives
    )
    return {
        "cross_entropy": total / count,
        "regression": errors / count,
        "consistency": objectives.consistency_weight * consistency,
    }


def draw_cells(
    inputs: Inputs,
    split: Split,
    maps: DenseMaps,
    params: JoemHead,
    objectives: JoemObjectives,
    *,
    seed: int,
) -> Cells:
    """Return at most `cells_per_image` labelled cells of each map."""
    drawn = []
    for position, cells in enumerate(labelled_cells(inputs, split, maps, objectives)):
        order = np.random.default_rng([seed, position]).permutation(len(cells))
        drawn.append(cells.at(torch.from_numpy(np.sort(order[: params.cells_per_image]))))
    return Cells.joined(drawn)
