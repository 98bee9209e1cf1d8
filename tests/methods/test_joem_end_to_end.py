"""JoEm with both encoders learning, on tiny images (joem §2-§5)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests import tiny
from tests.methods.tester import (
    AUGMENTATION,
    CalibratedEndToEndTester,
    World,
    backbone,
    fit_calibrated,
    unchanged,
)
from zslib.backbones.network import SegmentationNetwork, resize
from zslib.backbones.trained import Backbone
from zslib.benchmark import IGNORE_INDEX
from zslib.fine_tuning import LabelledImages, Run
from zslib.methods.joem import end_to_end
from zslib.methods.joem.end_to_end import fine_tune, losses, set_mode
from zslib.methods.joem.networks import SemanticEncoder
from zslib.methods.joem.objectives import semantic_consistency
from zslib.params.joem import JoemEndToEnd, JoemObjectives
from zslib.params.training import OptimiserParams
from zslib.prototypes import PrototypeClassifier
from zslib.training import SingleProcess

PARAMS = JoemEndToEnd(
    epochs=20,
    batch_size=4,
    augmentation=AUGMENTATION,
    optimiser=OptimiserParams(name="adam", lr=0.01, weight_decay=1e-4),
    head_lr_factor=2.0,
    encoder_optimiser=OptimiserParams(name="adam", lr=0.02, power=0.0),
)
OBJECTIVES = JoemObjectives(ratio=0.5)
SIGMAS = [0.25, 0.5, 1.0]
MODEL = tiny.deeplab(dropout=0.1)

Fitted = tuple[Backbone, PrototypeClassifier]


# --- training ------------------------------------------------------------------------------------


class TestJoem(CalibratedEndToEndTester):
    section, short = "joem.end_to_end", {"epochs": 2}
    falling = ("loss", "cross_entropy", "regression")
    strength, candidates = "sigma", SIGMAS

    def fit(self, world: World, images: LabelledImages, run: Run, **changes: object) -> Fitted:
        params = PARAMS.model_copy(update=changes)
        return fit_calibrated(
            end_to_end.fit, MODEL, world, images, params, OBJECTIVES, SIGMAS, run=run
        )

    def test_joem_section_5_batch_norm_of_the_encoder_keeps_its_statistics_alone(
        self, fitted: Fitted
    ) -> None:
        network = fitted[0].network
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert unchanged(backbone(MODEL).network, network) == {
            name
            for name in network.state_dict()
            if name.startswith("encoder.") and name.endswith(statistics)
        }

    def test_prototypes_of_all_classes_are_one_affine_map_of_their_embeddings(
        self, fitted: Fitted
    ) -> None:
        found = fitted[1].prototypes.double()
        assert found.shape == (9, 8)
        words = F.pad(tiny.EMBEDDINGS.double(), (0, 1), value=1.0)
        solution = torch.linalg.lstsq(words, found, driver="gelsd").solution
        torch.testing.assert_close(words @ solution, found, atol=1e-5, rtol=1e-4)

    def test_seen_pixels_lie_nearest_to_their_prototypes(
        self, fitted: Fitted, world: World
    ) -> None:
        """More often than by chance among seven classes; the classifier reads the network's features."""
        network, classifier = fitted
        features_of, right, counted = network.features_of(SingleProcess()), 0, 0
        for path, label_map in zip(world.images, world.image_labels, strict=True):
            picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
            maps = features_of(picture)[0].permute(1, 2, 0)
            labels = tiny.SPLIT.seen_labels(label_map)
            found = classifier.uncalibrated().predict(maps, labels.shape)
            right += int((found == labels)[labels != IGNORE_INDEX].sum())
            counted += int((labels != IGNORE_INDEX).sum())
        assert right / counted > 0.4


def test_joem_section_5_rates_of_encoder_head_and_semantic_encoder(
    world: World, tmp_path: Path
) -> None:
    learning, taken = backbone(MODEL), []
    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    params = PARAMS.model_copy(update={"epochs": 1, "head_lr_factor": 10.0})

    def watch(optimiser: torch.optim.Optimizer, *_: object) -> None:
        groups = optimiser.param_groups
        taken.append([(group["lr"], set(map(id, group["params"]))) for group in groups])

    hook = register_optimizer_step_pre_hook(watch)
    try:
        fine_tune(learning, images, tiny.EMBEDDINGS, params, OBJECTIVES, run=tiny.run(tmp_path))
    finally:
        hook.remove()
    (encoder, head), semantic = taken[:2]
    assert [rate for rate, _ in (encoder, head)] == pytest.approx([0.01, 0.1])
    assert {rate for rate, _ in semantic} == {0.02}
    network = learning.network
    assert encoder[1] == set(map(id, network.encoder.parameters()))
    assert encoder[1] | head[1] == set(map(id, network.parameters()))


# --- the SPNet setting (joem §2.2) ---------------------------------------------------------------


def test_joem_section_2_2_the_losses_see_features_after_a_relu(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning, least = backbone(tiny.deeplab_v2()), []

    def watched(features: Tensor, logits: Tensor, *given: object, **named: object) -> object:
        least.append(features.min().item())
        own = resize(learning.network.classifier(features), logits.shape[-2:])
        torch.testing.assert_close(logits, own)
        return losses(features, logits, *given, **named)

    monkeypatch.setattr(end_to_end, "losses", watched)
    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    params = PARAMS.model_copy(update={"epochs": 1})
    fine_tune(learning, images, tiny.EMBEDDINGS, params, OBJECTIVES, run=tiny.run(tmp_path))
    assert set(least) == {0.0}


def test_joem_section_2_2_distances_are_those_of_features_after_a_relu(
    world: World, tmp_path: Path
) -> None:
    """Maps are made without it; DeepLabV3+ has its own."""
    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    recipe = (PARAMS.model_copy(update={"epochs": 1}), OBJECTIVES, SIGMAS)
    network, found = fit_calibrated(
        end_to_end.fit, tiny.deeplab_v2(), world, images, *recipe, run=tiny.run(tmp_path)
    )
    picture = torch.from_numpy(np.array(Image.open(world.images[0]))).permute(2, 0, 1)[None]
    cells = network.features_of(SingleProcess())(picture)[0].permute(1, 2, 0)
    assert (cells < 0).any()
    expected = (cells.relu()[..., None, :] - found.prototypes).square().sum(-1)
    distances = found.squared_distances(cells, tuple(cells.shape[:2]))
    torch.testing.assert_close(distances.permute(1, 2, 0), expected, atol=1e-4, rtol=1e-4)


# --- losses (joem §3) ----------------------------------------------------------------------------

CONSISTENT = torch.tensor(tiny.SPLIT.seen)


def found_losses(
    network: SegmentationNetwork,
    encoder: SemanticEncoder,
    labels: Tensor,
    objectives: JoemObjectives = OBJECTIVES,
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    features = network.features(torch.randn(2, 3, 32, 32))
    logits = nn.functional.interpolate(
        network.classifier(features), (32, 32), mode="bilinear", align_corners=True
    )
    words = {"words": tiny.EMBEDDINGS, "consistent": CONSISTENT, "objectives": objectives}
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
    network, encoder = backbone(MODEL).network, SemanticEncoder(6, 8)
    set_mode(network)
    labels = torch.from_numpy(np.stack(tiny.block_maps(2, tiny.SPLIT.seen)))
    loss = found_losses(network, encoder, labels)[name]
    assert touched(loss, network.encoder, network.classifier, encoder) == expected


def test_joem_section_3_1_cross_entropy_is_at_the_size_of_the_labels() -> None:
    network, encoder = backbone(MODEL).network.eval(), SemanticEncoder(6, 8)
    labels = torch.from_numpy(np.stack(tiny.block_maps(2, tiny.SPLIT.seen)))
    found = found_losses(network, encoder, labels)["cross_entropy"]
    torch.manual_seed(0)
    expected = F.cross_entropy(
        network(torch.randn(2, 3, 32, 32)), labels.long(), ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(found, expected)


def test_joem_section_3_4_semantic_consistency_is_weighted() -> None:
    network, encoder = backbone(MODEL).network.eval(), SemanticEncoder(6, 8)
    labels = torch.from_numpy(np.stack(tiny.block_maps(2, tiny.SPLIT.seen)))
    objectives = OBJECTIVES.model_copy(update={"consistency_weight": 0.3})
    found = found_losses(network, encoder, labels, objectives)["consistency"]
    words = tiny.EMBEDDINGS[CONSISTENT]
    expected = 0.3 * semantic_consistency(words, encoder(words), objectives)
    torch.testing.assert_close(found, expected)


def test_joem_section_9_13_a_batch_without_a_labelled_pixel_is_harmless() -> None:
    network, encoder = backbone(MODEL).network, SemanticEncoder(6, 8)
    void = torch.full((2, 32, 32), IGNORE_INDEX, dtype=torch.uint8)
    found = found_losses(network, encoder, void)
    assert (found["cross_entropy"].item(), found["regression"].item()) == (0, 0)
    assert torch.isfinite(found["consistency"])
    assert touched(found["cross_entropy"] + found["regression"], network, encoder) == [False] * 2
