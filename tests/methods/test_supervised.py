"""The seen-only backbone and the supervised ceiling."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests import tiny
from tests.methods.tester import BaseMethodTester, World
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import ALL_SEEN, Split
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.methods import supervised
from zslib.training import SingleProcess

CLASSES = (0, 1, 2, 3)


def fit(
    world: World, *, seed: int, curves: tiny.RecordedCurves | None = None, **options: object
) -> Backbone:
    """Train on seen labels of pictures in four colours."""
    params = tiny.backbone(epochs=20)
    return supervised.fit(
        pictures(world),
        blocks(),
        options.get("split", tiny.SPLIT),
        params.model_copy(update=options.get("change", {})),
        seed=seed,
        compute=tiny.CPU,
        runtime=SingleProcess(),
        curves=curves,
    )


def pictures(world: World) -> list[Path]:
    return tiny.write_images(world.images[0].parent.with_name("seen"), blocks())


def blocks() -> list[np.ndarray]:
    return tiny.block_maps(8, CLASSES)


class TestSupervised(BaseMethodTester):
    seen_accuracy = 0.8

    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PixelClassifier:
        return supervised.own_classifier(fit(world, seed=seed, curves=curves))

    def test_separable_seen_classes_are_told_apart(
        self, world: World, fitted: PixelClassifier
    ) -> None:
        features_of = fit(world, seed=0).features_of(SingleProcess())
        correct = total = 0
        for path, labels in zip(pictures(world), blocks(), strict=True):
            image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
            features = features_of(image)[0].permute(1, 2, 0)
            kept = labels != 255
            correct += (fitted.predict(features, labels.shape) == labels)[kept].sum()
            total += kept.sum()
        assert correct / total >= self.seen_accuracy

    def test_a_saved_classifier_predicts_the_same(self, world: World, fitted, tmp_path) -> None:
        fitted.save(tmp_path / "c.safetensors")
        assert torch.equal(PixelClassifier.load(tmp_path / "c.safetensors").weight, fitted.weight)


def test_frozen_batch_norm_neither_counts_nor_learns(world: World) -> None:
    """cagnet §2: always in eval mode, and its affine map is not optimised."""
    frozen, moving = (
        batch_norm_state(fit(world, seed=0, change={"frozen_batch_norm": on, "epochs": 1}))
        for on in (True, False)
    )
    torch.manual_seed(0)
    fresh = batch_norm_state(Backbone(build_network(tiny.deeplab(), 9), tiny.deeplab(), tiny.SPLIT))
    assert all(torch.equal(frozen[name], fresh[name]) for name in fresh)
    assert not any(torch.equal(moving[name], fresh[name]) for name in fresh)


def batch_norm_state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, module in backbone.network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for key, tensor in module.state_dict().items()
    }


def test_deeplab_v2_learns(world: World) -> None:
    curves = tiny.RecordedCurves()
    fit(world, seed=0, curves=curves, change={"model": tiny.deeplab_v2(), "epochs": 10})
    losses = curves.series("loss")
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_dividing_the_loss_by_the_batch_equals_a_rate_divided_by_it(world: World) -> None:
    """zs3net §2: the effective rate is 1/16, 1/10 or 1/8 of the nominal one."""
    plain = tiny.backbone(epochs=1).optimiser
    divided = fit(world, seed=0, change={"epochs": 1, "divide_loss_by_batch": True})
    slower = plain.model_copy(update={"lr": plain.lr / 4})
    expected = fit(world, seed=0, change={"epochs": 1, "optimiser": slower})
    for name, tensor in expected.network.state_dict().items():
        torch.testing.assert_close(
            divided.network.state_dict()[name], tensor, atol=1e-5, rtol=1e-4, msg=name
        )


@pytest.mark.parametrize("resolution", ["image", "grid"])
def test_both_loss_resolutions_learn(world: World, resolution: str) -> None:
    curves = tiny.RecordedCurves()
    fit(world, seed=0, curves=curves, change={"loss_resolution": resolution, "epochs": 10})
    losses = curves.series("loss")
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_batch_without_labels_changes_nothing_but_statistics(world: World) -> None:
    """spnet §9.5: no NaN; nothing is learned from void."""
    void = [np.full((32, 32), 255, np.uint8)] * 8
    curves = tiny.RecordedCurves()
    sgd = tiny.backbone(epochs=1).optimiser
    backbone = supervised.fit(
        world.images,
        void,
        tiny.SPLIT,
        tiny.backbone(epochs=1).model_copy(update={"optimiser": sgd}),
        seed=0,
        compute=tiny.CPU,
        runtime=SingleProcess(),
        curves=curves,
    )
    assert curves.series("loss") == [0, 0]
    torch.manual_seed(0)
    fresh = DeepLabV3Plus(tiny.deeplab(), 9)
    for name, parameter in backbone.network.named_parameters():
        assert torch.equal(parameter, fresh.get_parameter(name)), name


def test_the_ceiling_has_nothing_unseen(world: World) -> None:
    everything = Split.from_ids(ALL_SEEN, tiny.CLASSES, [], [])
    backbone = fit(world, seed=0, split=everything, change={"epochs": 1})
    found = supervised.own_classifier(backbone)
    assert found.split.unseen == ()
    assert found.for_split(tiny.SPLIT).split.unseen == tiny.UNSEEN


def test_fewer_images_than_a_batch_is_an_error(world: World) -> None:
    with pytest.raises(InputError, match=r"backbone\.batch_size: 9 is more than the 8"):
        fit(world, seed=0, change={"batch_size": 9})
