"""JoEm on cached features of the tiny problem, without training and with a head."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import World, ZeroShotMethodTester
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import open_labels
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.held_out import draw_held_out
from zslib.methods.joem.cells import Cells, Inputs, labelled_cells
from zslib.methods.joem.closed_form import Moments, solve
from zslib.methods.joem.frozen import fit_closed_form, fit_with_head
from zslib.methods.joem.head import draw_cells, fit_head, losses
from zslib.methods.joem.networks import SemanticEncoder, VisualHead
from zslib.methods.joem.objectives import mixing_weights, semantic_consistency
from zslib.params.joem import JoemClosedForm, JoemHead, JoemObjectives
from zslib.params.training import OptimiserParams
from zslib.prototypes import PrototypeClassifier
from zslib.training import SingleProcess

ADAM = OptimiserParams(name="adam", lr=0.02)
# The tiny maps are noise from cell to cell: there is no boundary to be aware of.
OBJECTIVES = JoemObjectives(ratio=1.0)
CLOSED_FORM = JoemClosedForm(ridges=[0.001, 0.1], consistency_steps=10)
HEAD = JoemHead(
    dimension=16,
    cells_per_image=30,
    steps=150,
    batch_size=128,
    optimiser=ADAM,
    encoder_optimiser=ADAM,
)
SIGMAS = [0.2, 0.4, 0.6, 0.8, 1.0]


def inputs_of(world: World) -> Inputs:
    """Return maps of all training images; the world itself holds those of the tuning images."""
    maps = [tiny.features(labels, seed=5 + i) for i, labels in enumerate(world.labels)]
    grids = world.labels.sizes
    features = np.concatenate([m.reshape(-1, tiny.DIMENSION) for m in maps])
    starts = np.cumsum([0, *grids.prod(axis=1)])[:-1]
    meta = {"tuning": list(world.tuning.ids)}
    dense = DenseMaps(features, grids, world.labels.ids, meta, starts)
    return Inputs(dense, world.labels, world.class_embeddings)


class PrototypeTester(ZeroShotMethodTester):
    def tables(self, head: PrototypeClassifier) -> list[Tensor]:
        return [head.prototypes]

    def test_sigma_is_one_of_the_candidates_and_kept(self, fitted: PrototypeClassifier) -> None:
        assert fitted.sigma in SIGMAS
        assert fitted.sigma == fitted.meta["sigma"]["chosen"]


class TestClosedForm(PrototypeTester):
    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PrototypeClassifier:
        inputs = inputs_of(world)
        found = fit_closed_form(inputs, CLOSED_FORM, OBJECTIVES, SIGMAS, world.selection, seed=seed)
        return found.final

    test_the_loss_decreases = None  # nothing is trained

    def test_another_seed_gives_other_weights(self, world: World) -> None:
        """Not here: the seed only draws the classes that are held out."""
        alone = CLOSED_FORM.model_copy(update={"ridges": [0.01]})
        options = (inputs_of(world), alone, OBJECTIVES, SIGMAS, world.selection)
        one, other = (fit_closed_form(*options, seed=seed).final for seed in (0, 1))
        assert torch.equal(one.prototypes, other.prototypes)
        assert one.meta["sigma"]["held_out"] != other.meta["sigma"]["held_out"]


class TestHead(PrototypeTester):
    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PrototypeClassifier:
        options = {"seed": seed, "runtime": SingleProcess(), "curves": curves}
        inputs = inputs_of(world)
        return fit_with_head(inputs, HEAD, OBJECTIVES, SIGMAS, world.selection, **options).final

    def test_features_pass_the_head_first(self, fitted: PrototypeClassifier) -> None:
        assert (fitted.dimension, fitted.prototypes.shape[1]) == (tiny.DIMENSION, 16)

    def test_every_loss_decreases(self, curves: tiny.RecordedCurves) -> None:
        for name in ("regression", "consistency"):
            losses = curves.series(name)
            assert np.mean(losses[-15:]) < np.mean(losses[:15]), name


# --- cells ---------------------------------------------------------------------------------------


def test_cells_of_hidden_classes_are_left_out(world: World) -> None:
    inputs = inputs_of(world)
    (draw,) = draw_held_out(tiny.SPLIT, world.selection.model_copy(update={"draws": 1}), seed=0)
    cells = Cells.joined(list(labelled_cells(inputs, draw, inputs.maps, OBJECTIVES)))
    everything = Cells.joined(list(labelled_cells(inputs, inputs.split, inputs.maps, OBJECTIVES)))
    hidden = torch.tensor(draw.unseen)
    assert len(cells) == len(everything) - int(torch.isin(everything.labels, hidden).sum())
    assert set(cells.labels.tolist()) == set(draw.seen)
    assert not cells.weights[:, list(draw.unseen)].any()


def test_cells_hold_the_features_of_their_labels(world: World) -> None:
    inputs = inputs_of(world)
    cells = draw_cells(inputs, inputs.split, inputs.maps, HEAD, OBJECTIVES, seed=0)
    assert len(cells) == 16 * HEAD.cells_per_image
    expected = tiny.features(cells.labels.numpy(), seed=0).astype(np.float32)
    assert np.abs(cells.features.float().numpy() - expected).max() < 1
    assert (cells.weights.argmax(1) == cells.labels).all()


def test_no_labelled_cell_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    maps = [np.full((4, 4), 255, np.uint8)] * 2
    dense = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", maps))
    labels = open_labels(tiny.write_labels(tmp_path / "labels.h5", maps))
    inputs = Inputs(dense, labels, tiny.EMBEDDINGS)
    with pytest.raises(InputError, match=r"features\.train_maps: no map of split 'tiny'"):
        Moments.of(labelled_cells(inputs, inputs.split, dense, OBJECTIVES))


# --- the head ------------------------------------------------------------------------------------


def test_joem_section_3_the_three_losses_of_the_head(world: World) -> None:
    """Only semantic consistency has a weight."""
    torch.manual_seed(0)
    inputs, objectives = inputs_of(world), JoemObjectives(ratio=1.0, consistency_weight=0.3)
    cells = draw_cells(inputs, inputs.split, inputs.maps, HEAD, objectives, seed=0)
    head, encoder = VisualHead(tiny.DIMENSION, 16, 9).eval(), SemanticEncoder(6, 16)
    consistent = torch.tensor(tiny.SPLIT.seen)
    found = losses(cells, head, encoder, tiny.EMBEDDINGS, consistent, objectives)
    features, labels = head(cells.features.float()), cells.labels.long()
    own, words = encoder(tiny.EMBEDDINGS)[labels], tiny.EMBEDDINGS[consistent]
    expected = {
        "cross_entropy": F.cross_entropy(head.classifier(features), labels),
        "regression": F.mse_loss(features, own),
        "consistency": 0.3 * semantic_consistency(words, encoder(words), objectives),
    }
    torch.testing.assert_close(found, expected)


def test_joem_section_5_steps_of_the_head_and_of_the_semantic_encoder(world: World) -> None:
    """Against the same in double precision, by optimisers that are not fused."""
    inputs, objectives = inputs_of(world), JoemObjectives(ratio=0.5, consistency_weight=0.3)
    sgd = OptimiserParams(name="sgd", lr=0.05, weight_decay=0.01)
    constant = ADAM.model_copy(update={"power": 0.0})
    changes = {"steps": 3, "batch_size": 40, "optimiser": sgd, "encoder_optimiser": constant}
    params, given = HEAD.model_copy(update=changes), (inputs, inputs.split, inputs.maps)
    found = fit_head(*given, params, objectives, seed=0, runtime=SingleProcess())

    torch.manual_seed(0)
    head, encoder = VisualHead(tiny.DIMENSION, 16, 9).double(), SemanticEncoder(6, 16).double()
    cells = draw_cells(*given, params, objectives, seed=0)
    visual = torch.optim.SGD(head.parameters(), momentum=0.9, weight_decay=0.01, foreach=False)
    semantic = torch.optim.Adam(encoder.parameters(), 0.02, foreach=False)
    table, seen = tiny.EMBEDDINGS.double(), list(tiny.SPLIT.seen)
    for step in range(3):
        rows = np.random.default_rng([0, step]).integers(0, len(cells), 40)
        features = head(cells.features[rows].double())
        targets = encoder.affine(cells.weights[rows, :9].double() @ table)
        consistency = semantic_consistency(table[seen], encoder.affine(table[seen]), objectives)
        loss = F.cross_entropy(head.classifier(features), cells.labels[rows].long())
        loss = loss + (features - targets).square().mean() + 0.3 * consistency
        visual.param_groups[0]["lr"] = 0.05 * (1 - step / 3) ** 0.9
        for optimiser in (visual, semantic):
            optimiser.zero_grad()
        loss.backward()
        for optimiser in (visual, semantic):
            optimiser.step()
    expected = (encoder.affine(table).detach(), *head.folded())
    for one, other in zip((found.prototypes, *found.hidden), expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=0)


# --- the closed form -----------------------------------------------------------------------------


@cache
def block_cells() -> tuple[Cells, Tensor]:
    """Return cells of 24 x 24 maps whose features are mixed prototypes, and those prototypes."""
    maps = np.stack(tiny.block_maps(20, tiny.SPLIT.seen, side=24))
    weights, valid = mixing_weights(torch.from_numpy(maps), (24, 24), 9, JoemObjectives())
    rng = np.random.default_rng(0)
    table = torch.tensor(rng.integers(-8, 9, (10, 4)), dtype=torch.float32)
    rows = valid.flatten().nonzero()[:, 0]
    labels = torch.from_numpy(maps).flatten()
    cells = Cells((weights @ table).flatten(0, 2).half(), weights.flatten(0, 2), labels)
    return cells.at(rows), table[:9]


def solution(words: Tensor, objectives: JoemObjectives, *, ridge: float, steps: int) -> Tensor:
    cells, _ = block_cells()
    return solve(Moments.of([cells]), words, tiny.SPLIT.seen, objectives, ridge=ridge, steps=steps)


def test_least_squares_undoes_the_mixing() -> None:
    """joem §10: with a word of its own, each class gets its prototype back; class means do not."""
    (cells, table), seen = block_cells(), list(tiny.SPLIT.seen)
    plain = JoemObjectives(consistency_weight=0.0)
    found = solution(torch.eye(9), plain, ridge=1e-9, steps=0)
    torch.testing.assert_close(found[seen], table[seen], atol=2e-2, rtol=0)
    means = torch.stack([cells.features[cells.labels == c].float().mean(0) for c in seen])
    assert (means - table[seen]).abs().max() > 0.5


def test_joem_9_11_nothing_random_is_left_in_unseen_prototypes() -> None:
    """An unseen word that shares nothing with the seen ones is at the bias."""
    plain = JoemObjectives(consistency_weight=0.0)
    found = solution(torch.eye(9), plain, ridge=1e-4, steps=0)
    first, second = tiny.UNSEEN
    torch.testing.assert_close(found[first], found[second])


def test_steps_bring_prototypes_closer_to_a_scaled_isometry() -> None:
    """joem §3.3: then all ratios of distances are equal."""
    words, seen = tiny.EMBEDDINGS, list(tiny.SPLIT.seen)
    strong = JoemObjectives(consistency_weight=100.0)
    spreads = []
    for steps in (0, 50):
        found = solution(words, strong, ridge=1e-3, steps=steps)[seen]
        ratios = torch.pdist(found) / torch.pdist(words[seen])
        spreads.append((ratios.std() / ratios.mean()).item())
    assert spreads[1] < 0.7 * spreads[0]


def test_the_scale_of_features_does_not_matter() -> None:
    cells, _ = block_cells()
    scaled = replace(cells, features=(4 * cells.features.float()).half())
    found = [
        solve(Moments.of([c]), tiny.EMBEDDINGS, tiny.SPLIT.seen, JoemObjectives(), ridge=r, steps=9)
        for c, r in ((cells, 0.01), (scaled, 0.01))
    ]
    torch.testing.assert_close(found[1], 4 * found[0], atol=0.05, rtol=0)


# --- choosing ------------------------------------------------------------------------------------


def test_tuning_images_do_not_teach_what_they_judge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[tuple[str, ...]] = []

    def recording(inputs: Inputs, split: Split, maps: DenseMaps, *options: object) -> Any:
        taught.append(maps.ids)
        return labelled_cells(inputs, split, maps, *options)

    monkeypatch.setattr("zslib.methods.joem.frozen.labelled_cells", recording)
    fit_closed_form(inputs_of(world), CLOSED_FORM, OBJECTIVES, SIGMAS, world.selection, seed=0)
    everything = set(world.labels.ids)
    outside = everything - set(world.tuning.ids)
    assert [set(ids) for ids in taught] == [outside, outside, everything]


def test_ridge_and_sigma_are_the_best_pair(world: World) -> None:
    inputs = inputs_of(world)
    classifiers = fit_closed_form(inputs, CLOSED_FORM, OBJECTIVES, SIGMAS, world.selection, seed=0)
    found = classifiers.final
    ridge, sigma = found.meta["ridge"], found.meta["sigma"]
    assert (ridge["candidates"], sigma["candidates"]) == (CLOSED_FORM.ridges, SIGMAS)
    best = np.mean(ridge["hiou"], axis=0).max()
    assert best == pytest.approx(np.mean(sigma["hiou"], axis=0).max())
    alone = CLOSED_FORM.model_copy(update={"ridges": [ridge["chosen"]]})
    same = fit_closed_form(inputs, alone, OBJECTIVES, SIGMAS, world.selection, seed=0).final
    assert torch.equal(same.prototypes, found.prototypes)
    assert same.sigma == found.sigma
    assert {draw.sigma for draw in classifiers.held_out} == {found.sigma}
    hidden = [[tiny.CLASSES[c] for c in draw.split.unseen] for draw in classifiers.held_out]
    assert hidden == ridge["held_out"]
