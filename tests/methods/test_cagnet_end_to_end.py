"""CaGNet's first step with the backbone learning along, on tiny images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods.tester import World
from zslib.artifacts.features import DenseMaps
from zslib.backbones.network import Normalise
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import IGNORE_INDEX
from zslib.errors import InputError
from zslib.grids import feature_grid
from zslib.methods.cagnet import end_to_end
from zslib.methods.cagnet.end_to_end import Pyramid, parameter_groups
from zslib.methods.cagnet.networks import ContextualModule, gate
from zslib.methods.cagnet.objectives import word_table
from zslib.methods.cagnet.players import Players, losses_on_real
from zslib.methods.cagnet.step1 import Step1
from zslib.params import (
    AugmentationParams,
    CagnetEndToEnd,
    CagnetNetworks,
    CagnetObjectives,
    CagnetStep1,
    DeepLabParams,
    DeepLabV2Params,
    SteppedOptimiserParams,
)
from zslib.training import Checkpoint, SingleProcess, build_optimiser

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
    augmentation=AugmentationParams(base_size=32, crop_size=32, scale=(1.0, 1.0), blur=0.0),
    optimiser=SteppedOptimiserParams(name="sgd", lr=0.02, weight_decay=5e-4),
)


def backbone(model: DeepLabParams | DeepLabV2Params | None = None) -> Backbone:
    torch.manual_seed(0)
    params = model or tiny.deeplab(dropout=0.5)
    return Backbone(build_network(params, 9, pretrained=False), params, tiny.SPLIT)


def fitted(
    world: World, learning: Backbone, params: CagnetEndToEnd = PARAMS, **options: object
) -> Step1:
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(200, 8)), 0).astype(np.float16)
    maps = DenseMaps(features, np.array([[10, 20]]), ("a",), {}, np.array([0]))
    return end_to_end.fit(
        learning,
        world.images,
        [tiny.SPLIT.seen_labels(label_map) for label_map in world.image_labels],
        maps=maps,
        class_embeddings=world.class_embeddings,
        step1=STEP1,
        params=params,
        label_rule="corners",
        seed=0,
        compute=tiny.CPU,
        runtime=SingleProcess(),
        **options,
    )


def state(learning: Backbone, networks: Step1) -> dict[str, Tensor]:
    parts = {
        "network": learning.network,
        "context": networks.context,
        "players": networks.players,
    }
    return {f"{n}.{key}": t for n, part in parts.items() for key, t in part.state_dict().items()}


def test_the_loss_decreases_and_batch_norm_rests(world: World) -> None:
    learning, curves = backbone(), tiny.RecordedCurves()
    before = {name: tensor.clone() for name, tensor in learning.network.state_dict().items()}
    fitted(world, learning, curves=curves)
    losses = curves.series("loss")
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    norms = {n for n, m in learning.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    rested = {n for n, t in learning.network.state_dict().items() if torch.equal(t, before[n])}
    unused = {"classifier.weight", "classifier.bias"}
    assert rested == unused | {n for n in before if n.rpartition(".")[0] in norms}


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path
) -> None:
    short, checkpoint = PARAMS.model_copy(update={"steps": 4}), Checkpoint(tmp_path, 0)
    one, other = backbone(), backbone()
    whole = state(one, fitted(world, one, short))
    curves = tiny.RecordedCurves(dies_after=2)
    with pytest.raises(tiny.KilledError):
        fitted(world, backbone(), short, checkpoint=checkpoint, curves=curves)
    resumed = state(other, fitted(world, other, short, checkpoint=checkpoint))
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


def test_fewer_images_than_a_batch_are_refused(world: World) -> None:
    with pytest.raises(InputError, match=r"cagnet\.end_to_end\.batch_size: 99"):
        fitted(world, backbone(), PARAMS.model_copy(update={"batch_size": 99}))


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
    learning = backbone()
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
