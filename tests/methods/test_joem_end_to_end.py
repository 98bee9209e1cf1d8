"""JoEm with both encoders learning, on tiny images (joem §2-§5)."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import (
    AUGMENTATION,
    FEATURES,
    CalibratedEndToEndTester,
    World,
    backbone,
    unchanged,
)
from zslib.backbones.network import SegmentationNetwork
from zslib.backbones.trained import Backbone
from zslib.benchmark import IGNORE_INDEX
from zslib.fine_tuning import LabelledImages, Run
from zslib.methods.joem import end_to_end
from zslib.methods.joem.end_to_end import losses, set_mode
from zslib.methods.joem.networks import SemanticEncoder
from zslib.params import JoemEndToEnd, JoemObjectives, OptimiserParams
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
        return end_to_end.fit(
            backbone(MODEL),
            images,
            world.class_embeddings,
            PARAMS.model_copy(update=changes),
            OBJECTIVES,
            SIGMAS,
            selection=world.selection,
            features=FEATURES,
            run=run,
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


def test_joem_section_9_13_a_batch_without_a_labelled_pixel_is_harmless() -> None:
    network, encoder = backbone(MODEL).network, SemanticEncoder(6, 8)
    void = torch.full((2, 32, 32), IGNORE_INDEX, dtype=torch.uint8)
    found = found_losses(network, encoder, void)
    assert (found["cross_entropy"].item(), found["regression"].item()) == (0, 0)
    assert torch.isfinite(found["consistency"])
    assert touched(found["cross_entropy"] + found["regression"], network, encoder) == [False] * 2
