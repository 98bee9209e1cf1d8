"""JoEm on cached features: rows `joem-frozen` and `joem-frozen-head` (joem §10).

The first takes features as they are, and solves for the prototypes; the second trains a small head
that brings features to them. Either loses against the paper: the backbone does not learn along, and
boundaries are as sharp as its grid. Sigma, and the closed form's ridge, are chosen on held-out seen
classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float64

from zslib.artifacts.features import DenseMaps
from zslib.benchmark import Split
from zslib.heads import Classifiers
from zslib.held_out import draw_held_out
from zslib.methods.joem.cells import Inputs, labelled_cells
from zslib.methods.joem.closed_form import Moments, solve
from zslib.methods.joem.head import fit_head
from zslib.methods.joem.objectives import consistency_classes
from zslib.params.evaluation import SelectionParams
from zslib.params.joem import JoemClosedForm, JoemHead, JoemObjectives
from zslib.prototypes import PrototypeClassifier
from zslib.selection import Choice, score_strengths
from zslib.training import Curves, Runtime


def fit_closed_form(
    inputs: Inputs,
    params: JoemClosedForm,
    objectives: JoemObjectives,
    sigmas: Sequence[float],
    selection: SelectionParams,
    *,
    seed: int,
) -> Classifiers[PrototypeClassifier]:
    """Return the classifier over all classes, with ridge and sigma chosen together."""

    def fit(split: Split, maps: DenseMaps) -> list[PrototypeClassifier]:
        """Return one uncalibrated classifier per ridge."""
        moments = Moments.of(labelled_cells(inputs, split, maps, objectives))
        consistent = consistency_classes(split)
        shared = (moments, inputs.class_embeddings, consistent, objectives)
        steps = params.consistency_steps
        tables = (solve(*shared, ridge=ridge, steps=steps) for ridge in params.ridges)
        return [PrototypeClassifier(split, table) for table in tables]

    draws = draw_held_out(inputs.split, selection, seed=seed)
    fitted = [fit(draw, inputs.outside_tuning) for draw in draws]
    hiou = score_strengths_of(fitted, inputs, sigmas)
    ridge_at, sigma_at = np.unravel_index(hiou.mean(0).argmax(), hiou.shape[1:])
    choices = {
        "ridge": _choice(params.ridges, hiou[:, :, sigma_at], draws),
        "sigma": _choice(sigmas, hiou[:, ridge_at], draws),
    }
    final = fit(inputs.split, inputs.maps)[ridge_at]
    return _calibrated(final, [candidates[ridge_at] for candidates in fitted], choices)


def fit_with_head(
    inputs: Inputs,
    params: JoemHead,
    objectives: JoemObjectives,
    sigmas: Sequence[float],
    selection: SelectionParams,
    *,
    seed: int,
    runtime: Runtime,
    curves: Curves | None = None,
) -> Classifiers[PrototypeClassifier]:
    """Return the classifier over all classes, with sigma chosen."""
    fit = partial(
        fit_head, inputs, params=params, objectives=objectives, seed=seed, runtime=runtime
    )
    draws = draw_held_out(inputs.split, selection, seed=seed)
    fitted = [fit(draw, inputs.outside_tuning) for draw in draws]
    hiou = score_strengths_of([[one] for one in fitted], inputs, sigmas)
    final = fit(inputs.split, inputs.maps, curves=curves)
    return _calibrated(final, fitted, {"sigma": _choice(sigmas, hiou[:, 0], draws)})


def score_strengths_of(
    fitted: Sequence[Sequence[PrototypeClassifier]], inputs: Inputs, sigmas: Sequence[float]
) -> Float64[np.ndarray, "draws candidates sigmas"]:
    """Return the hIoU of every candidate with every sigma, in each draw."""
    table = [
        [score_strengths(one, inputs.maps.tuning, inputs.labels, sigmas) for one in candidates]
        for candidates in fitted
    ]
    return np.array(table)


def _choice(
    candidates: Sequence[float],
    hiou: Float64[np.ndarray, "draws candidates"],
    draws: Sequence[Split],
) -> Choice:
    rows = tuple(tuple(row) for row in hiou.tolist())
    return Choice(tuple(candidates), rows, tuple(draw.unseen for draw in draws))


def _calibrated(
    final: PrototypeClassifier,
    held_out: Sequence[PrototypeClassifier],
    choices: dict[str, Choice],
) -> Classifiers[PrototypeClassifier]:
    """Return the classifiers with the sigma chosen; the final one tells how."""
    sigma = choices["sigma"].chosen
    meta = {name: choice.describe(final.split.classes) for name, choice in choices.items()}
    return Classifiers(
        replace(final, sigma=sigma, meta=meta),
        tuple(replace(one, sigma=sigma) for one in held_out),
    )
