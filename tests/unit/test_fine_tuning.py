"""What end-to-end forms share: images, schedule, groups (spnet §5, joem §5, cagnet §2)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from zslib.backbones.trained import build_network
from zslib.fine_tuning import (
    LabelledImages,
    augmented,
    groups_without_norm,
    learn,
)
from zslib.params.backbone import DeepLabParams, DeepLabV2Params
from zslib.params.training import (
    AugmentationParams,
    OptimiserParams,
    StepDecay,
    SteppedOptimiserParams,
)
from zslib.training import TrainState, build_optimiser

AUGMENTATION = AugmentationParams(base_size=32, crop_size=32, scale=(1.0, 1.0), blur=0.0)
OPTIMISER = OptimiserParams(name="sgd", lr=2.5e-4, weight_decay=5e-4)
MAPS = tiny.block_maps(8, range(9))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    folder = tmp_path_factory.mktemp("images")
    return tiny.labelled_images(folder, tiny.write_images(folder, MAPS), MAPS)


# --- images --------------------------------------------------------------------------------------


def test_no_unseen_label_shows(images: LabelledImages) -> None:
    assert np.isin(np.stack(MAPS), tiny.UNSEEN).any(), "the masks do show some"
    assert not np.isin(np.stack(list(images)), tiny.UNSEEN).any()


def test_hidden_classes_and_images_are_gone(images: LabelledImages) -> None:
    """The training that a choice is made with sees neither the classes nor the images that judge."""
    hidden = tiny.SPLIT.hide([0, 5])
    left = images.hide(hidden, images.ids[:2])
    assert (left.ids, left.paths) == (images.ids[2:], images.paths[2:])
    for label_map, mask in zip(left, MAPS[2:], strict=True):
        np.testing.assert_array_equal(label_map, hidden.seen_labels(mask))
    assert not np.isin(np.stack(list(left)), [0, 5, *tiny.UNSEEN]).any()


# --- schedule ------------------------------------------------------------------------------------


def rates(
    images: LabelledImages,
    folder: Path,
    *,
    steps: int,
    refresh: int,
    params: OptimiserParams = OPTIMISER,
) -> list[list[float]]:
    """Return the learning rates of every step."""
    parts = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    groups = [{"params": [p], "lr_factor": f} for p, f in zip(parts, (1, 10, 20), strict=True)]
    optimiser = build_optimiser(params, groups)
    found = []

    def step(_: object) -> dict[str, torch.Tensor]:
        found.append([group["lr"] for group in optimiser.param_groups])
        return {}

    run, state = tiny.run(folder), TrainState({}, {"all": optimiser})
    views, order = augmented(
        images, AUGMENTATION, batch_size=4, section="spnet.end_to_end", run=run
    )
    learn(views, order, state, step, steps=steps, refresh=refresh, run=run)
    return found


def test_spnet_s5_released_rates_are_refreshed_every_tenth_step(
    images: LabelledImages, tmp_path: Path
) -> None:
    found = rates(images, tmp_path, steps=25, refresh=10)
    expected = [2.5e-4 * (1 - start / 25) ** 0.9 for start in (0, 10, 20)]
    for step, (encoder, weights, biases) in enumerate(found):
        assert encoder == pytest.approx(expected[step // 10])
        assert (weights, biases) == pytest.approx((10 * encoder, 20 * encoder))


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (50, {1: 2.5e-4, 2: 2.454955e-4, 26: 1.339717e-4, 50: 7.393788e-6}),
        (200, {2: 2.488747e-4, 101: 1.339717e-4, 200: 2.123308e-6}),
    ],
)
def test_joem_j7_released_rates_change_once_per_epoch(
    images: LabelledImages, tmp_path: Path, epochs: int, expected: dict[int, float]
) -> None:
    found = rates(images, tmp_path, steps=2 * epochs, refresh=2)
    for epoch, rate in expected.items():
        for encoder, head, _ in found[2 * epoch - 2 : 2 * epoch]:
            assert encoder == pytest.approx(rate, rel=1e-6)
            assert head == pytest.approx(10 * rate, rel=1e-6)


def test_clean_rates_change_at_every_step(images: LabelledImages, tmp_path: Path) -> None:
    encoder = [first for first, *_ in rates(images, tmp_path, steps=9, refresh=1)]
    assert encoder == pytest.approx([2.5e-4 * (1 - step / 9) ** 0.9 for step in range(9)])


def test_cagnet_section_5_rates_fall_in_steps_as_well(
    images: LabelledImages, tmp_path: Path
) -> None:
    decay = StepDecay(start=3, every=2, factor=0.5)
    params = SteppedOptimiserParams(name="sgd", lr=2.5e-4, power=0.0, decay=decay)
    encoder = [first for first, *_ in rates(images, tmp_path, steps=7, refresh=1, params=params)]
    assert encoder == pytest.approx([2.5e-4 * x for x in (1, 1, 1, 0.5, 0.5, 0.25, 0.25)])


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [tiny.deeplab, tiny.deeplab_v2])
def test_spnet_section_5_every_parameter_learns_in_one_group(
    model: Callable[[], DeepLabParams | DeepLabV2Params],
) -> None:
    network, projection = build_network(model(), 9, pretrained=False), nn.Linear(8, 6)
    groups = groups_without_norm(
        network, head_lr_factor=10, bias_lr_factor=20, projection=projection
    )
    optimiser = build_optimiser(OPTIMISER, groups)
    found = {
        id(parameter): (group["lr"] / OPTIMISER.lr, group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert len(found) == sum(len(group["params"]) for group in optimiser.param_groups)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    resting = {id(p) for module in [*norms, network.classifier] for p in module.parameters()}
    encoder = {id(parameter) for parameter in network.encoder.parameters()}
    for parameter in [*network.parameters(), *projection.parameters()]:
        if id(parameter) in resting:
            assert id(parameter) not in found
        elif id(parameter) in encoder:
            assert found.pop(id(parameter)) == (1, 5e-4)
        else:
            expected = (10, 5e-4) if parameter.ndim > 1 else (20, 0)
            assert found.pop(id(parameter)) == pytest.approx(expected)
    assert found == {}
