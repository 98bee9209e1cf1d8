"""JoEm with both encoders learning, on tiny images (joem §2-§5)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import World
from zslib.backbones.network import SegmentationNetwork
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import IGNORE_INDEX
from zslib.errors import InputError
from zslib.held_out import draw_held_out
from zslib.methods.joem import end_to_end
from zslib.methods.joem.end_to_end import losses, set_mode
from zslib.methods.joem.networks import SemanticEncoder
from zslib.params import (
    AugmentationParams,
    FeatureParams,
    JoemEndToEnd,
    JoemObjectives,
    OptimiserParams,
)
from zslib.prototypes import PrototypeClassifier
from zslib.training import SingleProcess

PARAMS = JoemEndToEnd(
    epochs=20,
    batch_size=4,
    augmentation=AugmentationParams(base_size=32, crop_size=32, scale=(1.0, 1.0), blur=0.0),
    optimiser=OptimiserParams(name="adam", lr=0.01, weight_decay=1e-4),
    head_lr_factor=2.0,
    encoder_optimiser=OptimiserParams(name="adam", lr=0.02, power=0.0),
)
OBJECTIVES = JoemObjectives(ratio=0.5)
FEATURES = FeatureParams(short_side=32, tuning_images=2, batch_size=4)
SIGMAS = [0.25, 0.5, 1.0]

Fitted = tuple[Backbone, PrototypeClassifier]


def backbone() -> Backbone:
    torch.manual_seed(0)
    params = tiny.deeplab(dropout=0.1)
    return Backbone(build_network(params, 9, pretrained=False), params, tiny.SPLIT)


def fitted(world: World, folder: Path, params: JoemEndToEnd = PARAMS, **options: object) -> Fitted:
    return end_to_end.fit(
        backbone(),
        tiny.labelled_images(folder, world.images, world.image_labels),
        world.class_embeddings,
        params,
        OBJECTIVES,
        SIGMAS,
        selection=world.selection,
        features=FEATURES,
        run=tiny.run(folder, **options),
    )


def state(learned: Backbone) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learned.network.state_dict().items()}


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curves() -> tiny.RecordedCurves:
    return tiny.RecordedCurves()


@pytest.fixture(scope="module")
def learned(
    world: World, tmp_path_factory: pytest.TempPathFactory, curves: tiny.RecordedCurves
) -> Fitted:
    return fitted(world, tmp_path_factory.mktemp("e2e"), curves=curves)


@pytest.mark.usefixtures("learned")
def test_the_losses_decrease(curves: tiny.RecordedCurves) -> None:
    for name in ("loss", "cross_entropy", "regression"):
        values = curves.series(name)
        assert np.mean(values[-4:]) < 0.8 * np.mean(values[:4]), name


def test_joem_section_5_batch_norm_of_the_encoder_keeps_its_statistics_alone(
    learned: Fitted,
) -> None:
    before, after = state(backbone()), state(learned[0])
    rested = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert rested == {
        name for name in before if name.startswith("encoder.") and name.endswith(statistics)
    }


def test_sigma_was_chosen_on_the_classes_of_the_first_draw(learned: Fitted, world: World) -> None:
    classifier = learned[1]
    (choice,) = classifier.meta.values()
    hidden = draw_held_out(tiny.SPLIT, world.selection, seed=0)[0].unseen
    assert choice["held_out"] == [[tiny.CLASSES[c] for c in hidden]]
    assert choice["chosen"] == classifier.sigma == SIGMAS[np.argmax(choice["hiou"][0])]


def test_prototypes_of_all_classes_are_one_affine_map_of_their_embeddings(learned: Fitted) -> None:
    found = learned[1].prototypes.double()
    assert found.shape == (9, 8)
    words = F.pad(tiny.EMBEDDINGS.double(), (0, 1), value=1.0)
    solution = torch.linalg.lstsq(words, found, driver="gelsd").solution
    torch.testing.assert_close(words @ solution, found, atol=1e-5, rtol=1e-4)


def test_seen_pixels_lie_nearest_to_their_prototypes(learned: Fitted, world: World) -> None:
    """More often than by chance among seven classes; the classifier reads the network's features."""
    network, classifier = learned
    features_of, right, counted = network.features_of(SingleProcess()), 0, 0
    for path, label_map in zip(world.images, world.image_labels, strict=True):
        picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
        maps = features_of(picture)[0].permute(1, 2, 0)
        labels = tiny.SPLIT.seen_labels(label_map)
        found = classifier.uncalibrated().predict(maps, labels.shape)
        right += int((found == labels)[labels != IGNORE_INDEX].sum())
        counted += int((labels != IGNORE_INDEX).sum())
    assert right / counted > 0.4


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path
) -> None:
    short = PARAMS.model_copy(update={"epochs": 2})
    whole, classifier = fitted(world, tmp_path / "whole", short)
    with pytest.raises(tiny.KilledError):
        fitted(world, tmp_path, short, curves=tiny.RecordedCurves(dies_after=2), seconds=0)
    resumed, again = fitted(world, tmp_path, short, seconds=0)
    before, after = state(whole), state(resumed)
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []
    classifier.save(tmp_path / "one")
    again.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_fewer_images_than_a_batch_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"joem\.end_to_end\.batch_size: 99 .* 6 training"):
        fitted(world, tmp_path, PARAMS.model_copy(update={"batch_size": 99}))


# --- losses (joem §3) ----------------------------------------------------------------------------

CONSISTENT = torch.tensor(tiny.SPLIT.seen)


def found_losses(
    network: SegmentationNetwork, encoder: SemanticEncoder, labels: Tensor
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    features = network.features(torch.randn(2, 3, 32, 32))
    logits = nn.functional.interpolate(
        network.classifier(features), (32, 32), mode="bilinear", align_corners=True
    )
    words = {"words": tiny.EMBEDDINGS, "consistent": CONSISTENT, "objectives": OBJECTIVES}
    return dict(losses(features, logits, labels, encoder, **words))


def touched(loss: Tensor, *modules: nn.Module) -> list[bool]:
    """Return whether the gradient of a loss reaches each module."""
    for module in modules:
        module.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    gradients = [[p.grad for p in module.parameters()] for module in modules]
    return [any(g is not None and bool(g.any()) for g in found) for found in gradients]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross_entropy", [True, True, False]),
        ("consistency", [False, False, True]),
        ("regression", [True, False, True]),
    ],
)
def test_joem_o13_where_gradients_go(name: str, expected: list[bool]) -> None:
    """To the visual network, to its auxiliary classifier, to the semantic encoder."""
    network, encoder = backbone().network, SemanticEncoder(6, 8)
    set_mode(network)
    labels = torch.from_numpy(np.stack(tiny.block_maps(2, tiny.SPLIT.seen)))
    loss = found_losses(network, encoder, labels)[name]
    assert touched(loss, network.encoder, network.classifier, encoder) == expected


def test_joem_section_3_1_cross_entropy_is_at_the_size_of_the_labels() -> None:
    network, encoder = backbone().network.eval(), SemanticEncoder(6, 8)
    labels = torch.from_numpy(np.stack(tiny.block_maps(2, tiny.SPLIT.seen)))
    found = found_losses(network, encoder, labels)["cross_entropy"]
    torch.manual_seed(0)
    expected = F.cross_entropy(
        network(torch.randn(2, 3, 32, 32)), labels.long(), ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(found, expected)


def test_joem_section_9_13_a_batch_without_a_labelled_pixel_is_harmless() -> None:
    network, encoder = backbone().network, SemanticEncoder(6, 8)
    void = torch.full((2, 32, 32), IGNORE_INDEX, dtype=torch.uint8)
    found = found_losses(network, encoder, void)
    assert (found["cross_entropy"].item(), found["regression"].item()) == (0, 0)
    assert torch.isfinite(found["consistency"])
    assert touched(found["cross_entropy"] + found["regression"], network, encoder) == [False] * 2
