"""CaGNet's first step with the backbone learning along, on tiny images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.tester import (
    AUGMENTATION,
    EndToEndTester,
    World,
    backbone,
    of_norms,
    unchanged,
)
from zslib.artifacts.features import DenseMaps
from zslib.backbones.network import Normalise
from zslib.backbones.trained import Backbone
from zslib.benchmark import IGNORE_INDEX
from zslib.fine_tuning import LabelledImages, Run
from zslib.grids import feature_grid
from zslib.methods.cagnet import end_to_end
from zslib.methods.cagnet.end_to_end import Pyramid, parameter_groups
from zslib.methods.cagnet.networks import ContextualModule, gate
from zslib.methods.cagnet.objectives import word_table
from zslib.methods.cagnet.players import Players, losses_on_real
from zslib.methods.cagnet.step1 import Step1
from zslib.params.backbone import DeepLabParams, DeepLabV2Params
from zslib.params.cagnet import CagnetEndToEnd, CagnetNetworks, CagnetObjectives, CagnetStep1
from zslib.params.training import SteppedOptimiserParams
from zslib.training import build_optimiser

ADAM = SteppedOptimiserParams(name="adam", lr=0.01)
STEP1 = CagnetStep1(
    networks=CagnetNetworks(
        context_channels=4,
        generator_hidden=[16],
        generator_dropout=[0.1],
        shared_hidden=32,
        shared_dropout=0.1,
    ),
    objectives=CagnetObjectives(kl_weight=1.0),
    steps=1,
    rows=60,
    crop=1,
    context=ADAM,
    generator=ADAM,
    discriminator=ADAM,
    real_weight=1.0,
    fake_weight=0.0,
)
PARAMS = CagnetEndToEnd(
    steps=50,
    batch_size=4,
    augmentation=AUGMENTATION,
    optimiser=SteppedOptimiserParams(name="sgd", lr=0.02, weight_decay=5e-4),
)


MODEL = tiny.deeplab(dropout=0.5)


class TestCagnet(EndToEndTester):
    section, short = "cagnet.end_to_end", {"steps": 4}
    falls_to = 0.9

    def fit(
        self, world: World, images: LabelledImages, run: Run, **changes: object
    ) -> tuple[Backbone, Step1]:
        features = np.maximum(np.random.default_rng(0).normal(size=(200, 8)), 0)
        learning = backbone(MODEL)
        networks = end_to_end.fit(
            learning,
            images,
            DenseMaps(features.astype(np.float16), np.array([[10, 20]]), ("a",), {}, np.array([0])),
            world.class_embeddings,
            STEP1,
            PARAMS.model_copy(update=changes),
            label_rule="corners",
            run=run,
        )
        return learning, networks

    def test_batch_norm_and_the_networks_own_classifier_rest(
        self, fitted: tuple[Backbone, Step1]
    ) -> None:
        network = fitted[0].network
        rested = unchanged(backbone(MODEL).network, network)
        assert rested == of_norms(network) | {"classifier.weight", "classifier.bias"}

    def test_the_networks_weights_have_the_order_in_memory_that_convolutions_want(
        self, fitted: tuple[Backbone, Step1]
    ) -> None:
        for name, parameter in fitted[0].network.named_parameters():
            if parameter.ndim == 4:
                assert parameter.is_contiguous(memory_format=torch.channels_last), name

    def test_a_step_is_that_of_an_optimiser_that_is_not_fused(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Gradients of convolutions may come in another order in memory than their weights."""
        changes, adam = {"steps": 1, "optimiser": ADAM}, torch.optim.Adam
        fused = self.fit_in(world, tmp_path / "fused", changes=changes)

        def not_fused(*groups: object, fused: bool, **rest: object) -> torch.optim.Optimizer:
            return adam(*groups, **rest)

        monkeypatch.setattr(torch.optim, "Adam", not_fused)
        plain = self.fit_in(world, tmp_path / "plain", changes=changes)
        for one, other in zip(learned(fused), learned(plain), strict=True):
            torch.testing.assert_close(one.state_dict(), other.state_dict(), atol=1e-6, rtol=1e-4)


def learned(fitted: tuple[Backbone, Step1]) -> list[nn.Module]:
    backbone, networks = fitted
    return [backbone.network, networks.context, networks.players]


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [tiny.deeplab, tiny.deeplab_v2])
def test_cagnet_section_2_every_parameter_learns_in_one_group(
    model: Callable[[], DeepLabParams | DeepLabV2Params],
) -> None:
    learning = backbone(model())
    network = learning.network
    context = ContextualModule(learning.params.feature_channels, STEP1.networks)
    groups = parameter_groups(network, context, PARAMS)
    optimiser = build_optimiser(PARAMS.optimiser, groups)
    rates = {
        id(parameter): (group["lr"] / PARAMS.optimiser.lr, group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert len(rates) == sum(len(group["params"]) for group in optimiser.param_groups)
    for name, parameter in network.encoder.named_parameters():
        if parameter.ndim > 1:
            assert rates.pop(id(parameter)) == (1, 5e-4), name
    for name, parameter in context.named_parameters():
        assert rates.pop(id(parameter)) == (5, 5e-4), name
    for parameter in network.head_parameters():
        if id(parameter) in rates:
            expected = (10, 5e-4) if parameter.ndim > 1 else (20, 0)
            assert rates.pop(id(parameter)) == pytest.approx(expected)
    assert rates == {}


# --- scales --------------------------------------------------------------------------------------


def test_cagnet_section_2_grids_of_the_three_scales() -> None:
    for crop, grids in ((368, [47, 24, 35]), (513, [65, 33, 49])):
        sides = [round(crop * scale) for scale in (1.0, 0.5, 0.75)]
        assert [feature_grid((side, side), 8)[0] for side in sides] == grids


@pytest.fixture
def pyramid() -> Pyramid:
    learning = backbone(MODEL)
    context = ContextualModule(8, STEP1.networks)
    return Pyramid(
        learning.network,
        context,
        Normalise((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        word_table(tiny.EMBEDDINGS),
        scales=[1.0, 0.5, 0.75],
        rows=10_000,
        label_rule="corners",
    )


IMAGES = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)


def test_the_classifier_sees_three_scales_and_their_maximum(pyramid: Pyramid) -> None:
    labels = np.zeros((2, 32, 32), np.uint8)
    found = pyramid(IMAGES, labels)
    assert found is not None
    pixels, _ = found
    cells = [2 * feature_grid((side, side), 4)[0] ** 2 for side in (32, 16, 24, 32)]
    assert [len(view.labels) for view in pixels.views] == cells
    first, *_, maximum = pixels.views
    assert (maximum.squashed >= first.squashed - 1e-6).all()
    assert (maximum.squashed > first.squashed).any()


def test_each_scale_counts_alike_for_the_classifier(pyramid: Pyramid) -> None:
    torch.manual_seed(0)
    found = pyramid(IMAGES, np.zeros((2, 32, 32), np.uint8))
    assert found is not None
    pixels, _ = found
    players = Players(6, 8, 9, STEP1.networks).eval()
    losses = losses_on_real(players, pixels, STEP1.objectives, STEP1)
    alone = [
        nn.functional.cross_entropy(players.discriminator.classify(v.squashed), v.labels)
        for v in pixels.views
    ]
    torch.testing.assert_close(losses.classification, torch.stack(alone).mean())


def test_latent_codes_are_those_of_the_first_scale(pyramid: Pyramid) -> None:
    """The squashed feature of a pixel follows from its own latent code."""
    found = pyramid(IMAGES, np.zeros((2, 32, 32), np.uint8))
    assert found is not None
    pixels, _ = found
    gates = torch.logit(pixels.squashed.double()) / (1 + pixels.latent.sigmoid())
    with torch.no_grad():
        normalised = pyramid._normalise(IMAGES)
        features = pyramid._network.features(normalised).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(gates.float(), features, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gate(features, pixels.latent).sigmoid(), pixels.squashed)


def test_labels_are_those_of_the_grid(pyramid: Pyramid) -> None:
    labels = np.full((2, 32, 32), IGNORE_INDEX, np.uint8)
    labels[1, :, 16:] = 3
    found = pyramid(IMAGES, labels)
    assert found is not None
    for view in found[0].views:
        assert set(view.labels.tolist()) == {3}
    assert [len(view.labels) for view in found[0].views] == [32, 8, 18, 32]


def test_cagnet_o4_a_batch_without_a_labelled_pixel_is_left_out(pyramid: Pyramid) -> None:
    assert pyramid(IMAGES, np.full((2, 32, 32), IGNORE_INDEX, np.uint8)) is None
