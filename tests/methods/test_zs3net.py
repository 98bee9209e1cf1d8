"""ZS3Net, clean: generator, then classifier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.tester import World, ZeroShotMethodTester
from zslib.artifacts.features import PixelBank
from zslib.classifier import PixelClassifier
from zslib.losses import guarded_root, squared_mmd
from zslib.methods.zs3net import classifier as zs3net_classifier
from zslib.methods.zs3net.generator import (
    Generator,
    Generators,
    fit_generators,
    load_generators,
    save_generators,
)
from zslib.params.training import LinearTraining, OptimiserParams
from zslib.params.zs3net import ClassifierParams, GeneratorParams, GmmnParams

GENERATOR = GeneratorParams(hidden=128, noise_dimension=4, dropout=0.0, rows=32, lr=7e-3, steps=180)
CLASSIFIER = ClassifierParams(
    training=LinearTraining(
        optimiser=OptimiserParams(name="adam", lr=0.02), steps=120, batch_size=128
    ),
    unseen_weights=[0.3, 1.0, 3.0],
)

SHORT = CLASSIFIER.training.model_copy(update={"steps": 3})


def generators(world: World, *, seed: int, curves: tiny.RecordedCurves | None = None) -> Generators:
    return fit_generators(
        world.bank,
        world.class_embeddings,
        GENERATOR,
        world.selection,
        tuning_ids=world.tuning.ids,
        seed=seed,
        curves=curves,
    )


class TestZs3net(ZeroShotMethodTester):
    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PixelClassifier:
        return zs3net_classifier.fit(
            world.bank,
            world.tuning,
            world.labels,
            generators(world, seed=seed),
            world.class_embeddings,
            CLASSIFIER,
            seed=seed,
            curves=curves,
        ).final


@pytest.fixture(scope="module")
def generator_curves() -> tiny.RecordedCurves:
    return tiny.RecordedCurves()


@pytest.fixture(scope="module")
def trained(world: World, generator_curves: tiny.RecordedCurves) -> Generators:
    return generators(world, seed=0, curves=generator_curves)


def test_the_generators_loss_decreases(
    trained: Generators, generator_curves: tiny.RecordedCurves
) -> None:
    losses = generator_curves.series("mmd")
    assert len(losses) == GENERATOR.steps
    assert np.mean(losses[-25:]) < 0.5 * np.mean(losses[:25])


def test_generated_features_of_each_class_resemble_its_own(
    trained: Generators, world: World
) -> None:
    """Of seen classes, and of unseen ones that were never shown."""
    torch.manual_seed(0)
    labels = np.repeat(np.arange(9, dtype=np.uint8), 64)
    real = torch.from_numpy(tiny.features(labels, seed=8)).float().split(64)
    with torch.no_grad():
        for label in range(9):
            rows = world.class_embeddings[label].expand(64, -1)
            fake = trained.final.sample(rows)
            distances = [
                guarded_root(squared_mmd(fake, other, GENERATOR.bandwidths)).item()
                for other in real
            ]
            assert int(np.argmin(distances)) == label, tiny.CLASSES[label]


def test_held_out_generators_have_not_seen_their_class(trained: Generators) -> None:
    assert len(trained.draws) == len(trained.held_out) == 2
    hidden = [draw.unseen for draw in trained.draws]
    assert len({c for draw in hidden for c in draw}) == 2, "no class is hidden twice"
    for draw in trained.draws:
        assert set(draw.unseen) <= set(tiny.SPLIT.seen)
        assert set(draw.void) == set(tiny.UNSEEN)


def without_lessons_of_tuning_images(world: World) -> PixelBank:
    """The bank, with other features in the rows of the images that a choice is judged by."""
    spoilt = np.array(world.bank.features)
    spoilt[~world.bank.rows_outside(world.tuning.ids)] = 7
    return replace(world.bank, features=spoilt)


def test_tuning_images_do_not_teach_the_generators_of_draws(world: World) -> None:
    """The final one learns from them."""
    params = GENERATOR.model_copy(update={"steps": 3})
    found = [
        fit_generators(
            bank,
            world.class_embeddings,
            params,
            world.selection,
            tuning_ids=world.tuning.ids,
            seed=0,
        )
        for bank in (world.bank, without_lessons_of_tuning_images(world))
    ]
    for one, other in zip(*(generators.held_out for generators in found), strict=True):
        assert torch.equal(one.layers[3].weight, other.layers[3].weight)
    finals = [generators.final.layers[3].weight for generators in found]
    assert not torch.equal(*finals)


def test_tuning_images_do_not_teach_the_classifiers_of_draws(
    trained: Generators, world: World
) -> None:
    params = CLASSIFIER.model_copy(update={"training": SHORT})
    found = [
        zs3net_classifier.choose_unseen_weight(
            bank, world.tuning, world.labels, trained, world.class_embeddings, params, seed=0
        )
        for bank in (world.bank, without_lessons_of_tuning_images(world))
    ]
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one.weight, other.weight)


def test_zs3net_section_4_1_the_generator_at_its_start() -> None:
    torch.manual_seed(0)
    layers = Generator(300, 256, GmmnParams()).layers
    for layer, sides in ((layers[0], 600 + 256), (layers[3], 256 + 256)):
        assert (layer.bias == 0.01).all()
        assert layer.weight.var().item() == pytest.approx(2 / sides, rel=0.02)
        assert layer.weight.abs().max().item() == pytest.approx((6 / sides) ** 0.5, rel=0.01)


@pytest.mark.parametrize("dropout", [True, False])
def test_zs3net_section_9_5_dropout_while_synthesising_is_a_switch(
    world: World, dropout: bool
) -> None:
    """Without it, features of a class differ by their noise alone."""
    params = GENERATOR.model_copy(update={"dropout": 0.5})
    spread: list[bool] = []

    class Watched(Generator):
        def sample(self, class_embeddings: Tensor) -> Tensor:
            same = self(class_embeddings[:1].expand(8, -1), torch.zeros(8, params.noise_dimension))
            spread.append(bool((same != same[0]).any()))
            return super().sample(class_embeddings)

    zs3net_classifier.fit_classifier(
        world.bank,
        Watched(6, tiny.DIMENSION, params).train(not dropout),
        world.class_embeddings,
        tiny.SPLIT,
        CLASSIFIER.model_copy(update={"synthetic_dropout": dropout, "training": SHORT}),
        unseen_weight=1.0,
        allowed=None,
        seed=0,
    )
    assert spread == [dropout] * 3


def test_generators_come_back_as_they_went(trained: Generators, tmp_path: Path) -> None:
    save_generators(tmp_path / "g.safetensors", trained)
    found = load_generators(tmp_path / "g.safetensors", Generator)
    assert found.draws == trained.draws
    pairs = zip((found.final, *found.held_out), (trained.final, *trained.held_out), strict=True)
    for one, other in pairs:
        assert one.params == other.params
        for name, tensor in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], tensor), name


def test_zs3net_section_4_5_a_generator_without_draws_takes_the_published_weight(
    world: World, trained: Generators
) -> None:
    """An imported one: nothing was held out from it, so nothing can be chosen."""
    params = CLASSIFIER.model_copy(update={"training": SHORT})
    imported = Generators(trained.final, (), ())
    given = (world.bank, world.tuning, world.labels, imported, world.class_embeddings, params)
    found = zs3net_classifier.fit(*given, seed=0)
    expected = zs3net_classifier.fit_classifier(
        world.bank,
        trained.final,
        world.class_embeddings,
        tiny.SPLIT,
        params,
        unseen_weight=100.0,
        allowed=None,
        seed=0,
    )
    assert torch.equal(found.final.weight, expected.weight)
    assert (found.held_out, found.final.meta) == ((), {})


def test_the_unseen_weight_moves_pixels_to_unseen_classes(
    trained: Generators, world: World
) -> None:
    shares = []
    for weight in (0.01, 100.0):
        fitted = zs3net_classifier.fit_classifier(
            world.bank,
            trained.final,
            world.class_embeddings,
            tiny.SPLIT,
            CLASSIFIER,
            unseen_weight=weight,
            allowed=None,
            seed=0,
        )
        predictions = [fitted.predict(f, m.shape) for f, m in world.validation]
        shares.append(np.isin(np.concatenate(predictions), tiny.UNSEEN).mean())
    assert shares[0] < shares[1]
