"""SPNet and SPNet-c."""

from typing import Any

import numpy as np
import torch

from tests import tiny
from tests.methods.tester import World, ZeroShotMethodTester
from zslib.classifier import PixelClassifier
from zslib.heads import Classifiers
from zslib.methods.spnet import frozen
from zslib.params.training import LinearTraining, OptimiserParams

TRAINING = LinearTraining(
    optimiser=OptimiserParams(name="adam", lr=0.02), steps=150, batch_size=128
)
GAMMAS = [round(0.1 * step, 1) for step in range(11)]


def inputs(world: World) -> frozen.Inputs:
    return frozen.Inputs(world.bank, world.tuning, world.labels, world.class_embeddings)


class TestSpnet(ZeroShotMethodTester):
    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PixelClassifier:
        return self.fit_all(world, seed=seed, curves=curves).final

    def fit_all(self, world: World, **options: Any) -> Classifiers[PixelClassifier]:
        return frozen.fit(inputs(world), TRAINING, GAMMAS, world.selection, **options)

    def test_each_draw_keeps_its_classifier_with_the_chosen_gamma(self, world: World) -> None:
        found = self.fit_all(world, seed=0)
        held_out = found.final.meta["gamma"]["held_out"]
        hidden = [[tiny.CLASSES[c] for c in draw.split.unseen] for draw in found.held_out]
        assert hidden == held_out
        assert {draw.gamma for draw in found.held_out} == {found.final.gamma}

    def test_gamma_is_one_of_the_candidates_and_kept(self, fitted: PixelClassifier) -> None:
        assert fitted.gamma in GAMMAS
        assert fitted.gamma == fitted.meta["gamma"]["chosen"]

    def test_weights_lie_in_the_span_of_the_seen_embeddings(self, fitted: PixelClassifier) -> None:
        """spnet §3: from a zero start, updates of the projection stay there."""
        seen = tiny.EMBEDDINGS[list(tiny.SPLIT.seen)].double()
        rank = int(torch.linalg.matrix_rank(seen))
        scores_of_all = fitted.weight.double()
        projector = torch.linalg.pinv(seen) @ seen
        projected = (
            tiny.EMBEDDINGS.double() @ projector @ torch.linalg.pinv(tiny.EMBEDDINGS.double())
        )
        assert rank == 5
        torch.testing.assert_close(projected @ scores_of_all, scores_of_all, atol=1e-4, rtol=1e-4)

    def test_only_the_gram_matrix_of_the_embeddings_matters(self, world: World) -> None:
        """spnet §3: a rotation of word space changes nothing (plain SGD)."""
        sgd = OptimiserParams(name="sgd", lr=0.05)
        training = TRAINING.model_copy(update={"optimiser": sgd, "steps": 30})
        turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
        turned = world.class_embeddings @ torch.tensor(turn, dtype=torch.float32)
        found = [
            frozen.fit_projection(
                frozen.Inputs(world.bank, world.tuning, world.labels, rows),
                tiny.SPLIT,
                training,
                allowed=None,
                seed=0,
            )
            for rows in (world.class_embeddings, turned)
        ]
        torch.testing.assert_close(found[0].weight, found[1].weight, atol=1e-4, rtol=1e-4)

    def test_tuning_images_do_not_teach_what_they_judge(self, world: World) -> None:
        """Rows of the tuning images may hold anything while gamma is chosen."""
        outside = world.bank.rows_outside(world.tuning.ids)
        spoilt = np.array(world.bank.features)
        spoilt[~outside] = 7
        bank = type(world.bank)(
            spoilt,
            world.bank.labels,
            world.bank.pixels,
            world.bank.offsets,
            world.bank.ids,
            world.bank.split,
        )
        options = (TRAINING.model_copy(update={"steps": 20}), GAMMAS, world.selection)
        choices = [
            frozen.choose_gamma(
                frozen.Inputs(b, world.tuning, world.labels, world.class_embeddings),
                *options,
                seed=0,
            )
            for b in (world.bank, bank)
        ]
        assert choices[0][0] == choices[1][0]
