"""ZS3Net as released: §4.4 step by step, leaks included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods.tester import BaseMethodTester, World
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.graphs import propagation
from zslib.methods.zs3net import official, official_graph
from zslib.methods.zs3net.generator import Generator, mmd_loss
from zslib.methods.zs3net.graph import GraphGenerator
from zslib.methods.zs3net.official_graph import OfficialGraphBranch
from zslib.params.backbone import EncoderParams
from zslib.params.training import AugmentationParams, OptimiserParams
from zslib.params.zs3net import GmmnParams, OfficialParams
from zslib.training import Checkpoint, SingleProcess

ENCODER = EncoderParams(name="test_resnet")
PARAMS = OfficialParams(
    generator=GmmnParams(hidden=16, noise="uniform", noise_dimension=4, rows=8),
    optimiser=OptimiserParams(name="sgd", lr=0.07, weight_decay=5e-4),
    epochs=12,
    batch_size=4,
    augmentation=AugmentationParams(base_size=32, crop_size=32),
)


class TestOfficial(BaseMethodTester):
    def fit(
        self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PixelClassifier:
        torch.manual_seed(0)
        return official.fit(
            DeepLabV3Plus(tiny.deeplab(dropout=0.1), len(tiny.CLASSES)),
            ENCODER,
            images=world.images,
            label_maps=world.image_labels,
            class_embeddings=world.class_embeddings,
            split=tiny.SPLIT,
            params=PARAMS,
            seed=seed,
            compute=tiny.CPU,
            runtime=SingleProcess(),
            curves=curves,
        )

    # Its features come from a network that is not trained here: nothing to tell apart.
    test_separable_seen_classes_are_told_apart = None

    def test_a_saved_classifier_predicts_the_same(self, world: World, fitted, tmp_path) -> None:
        fitted.save(tmp_path / "c.safetensors")
        found = PixelClassifier.load(tmp_path / "c.safetensors")
        assert torch.equal(found.weight, fitted.weight)


# --- one iteration, with known features ----------------------------------------------------------

SPLIT = Split.from_ids("s", ("a", "b", "c"), [2], [])


class GivenFeatures(DeepLabV3Plus):
    """A network whose features are known beforehand."""

    def __init__(self, features: Tensor) -> None:
        nn.Module.__init__(self)
        self._features = features
        self.classifier = nn.Conv2d(features.shape[1], 3, 1)
        self.modes: list[bool] = []

    def features(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        assert not torch.is_grad_enabled()
        return self._features


class EchoGenerator(Generator):
    """Generates the class embedding itself, and counts its training steps."""

    def __init__(self) -> None:
        super().__init__(3, 3, PARAMS.generator)
        self.classes: list[tuple[Tensor, int]] = []

    def sample(self, class_embeddings: Tensor) -> Tensor:
        self.classes.append((class_embeddings[0], len(class_embeddings)))
        return class_embeddings + 0 * self.layers[3].bias.sum()


EMBEDDINGS = torch.tensor([[9.0, 9.0, 9.0], [0.5, 0.5, 0.0], [0.0, 1.0, 3.0]])


class Stepped(torch.optim.SGD):
    """Counts its steps and changes nothing."""

    steps = 0

    def step(self, closure: None = None) -> None:
        self.steps += 1


def run(
    features: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], EchoGenerator, dict[str, Stepped], GivenFeatures]:
    head = nn.Conv2d(3, 3, 1)
    head.weight.data = torch.eye(3)[:, :, None, None]
    head.bias.data.zero_()
    generator, network = EchoGenerator(), GivenFeatures(features)
    optimisers = {
        "generator": Stepped(generator.parameters(), lr=1.0),
        "head": Stepped(head.parameters(), lr=1.0),
    }
    iteration = official.Iteration(
        network,
        ENCODER,
        generator=generator,
        head=head,
        class_embeddings=EMBEDDINGS,
        split=SPLIT,
        params=PARAMS,
    )
    images = torch.zeros(len(labels), 3, *labels.shape[1:], dtype=torch.uint8)
    return dict(iteration([images, labels], optimisers)), generator, optimisers, network


ORACLE_FEATURES = torch.tensor([[[1.0, 0, 0], [0, 2, -1]], [[7.0, 7, 7], [7, 7, 7]]])
ORACLE_FEATURES = ORACLE_FEATURES.permute(0, 2, 1)[:, :, None]
ORACLE_LABELS = torch.tensor([[[0, 255]], [[2, 1]]], dtype=torch.uint8)


def test_zs3net_oracle_6_weighted_loss_divided_by_the_batch() -> None:
    """The second image shows class 2, unseen: its features, seen class 1 included, are synthetic."""
    losses, *_ = run(ORACLE_FEATURES, ORACLE_LABELS)
    assert losses["loss"].item() == pytest.approx(0.090657190, abs=1e-6)


def test_zs3net_section_4_4_the_generator_learns_from_seen_images_only() -> None:
    _, generator, optimisers, network = run(ORACLE_FEATURES, ORACLE_LABELS)
    assert optimisers["generator"].steps == 1
    assert optimisers["head"].steps == 1
    assert [int(torch.nonzero((e == EMBEDDINGS).all(1))) for e, _ in generator.classes] == [0, 1, 2]
    assert network.modes == [True], "train mode: batch statistics move (§9.1 L2)"


def test_zs3net_section_4_4_real_features_of_unseen_images_are_not_used() -> None:
    spoilt = ORACLE_FEATURES.clone()
    spoilt[1] = torch.nan
    losses, *_ = run(spoilt, ORACLE_LABELS)
    assert losses["loss"].item() == pytest.approx(0.090657190, abs=1e-6)


def test_zs3net_section_4_4_one_generator_step_per_seen_class_of_an_image() -> None:
    features = torch.rand(2, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [255, 1]]], dtype=torch.uint8)
    losses, generator, optimisers, _ = run(features, labels)
    assert optimisers["generator"].steps == 3
    assert [count for _, count in generator.classes] == [2, 2, 3], "a feature for every pixel"
    assert "mmd" in losses


def test_zs3net_section_4_4_as_many_rows_are_compared_however_few_cells_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drawn with replacement: an image of two cells still gives PARAMS.generator.rows pairs."""
    compared: list[tuple[int, int]] = []

    def watched(generated: Tensor, real: Tensor, params: GmmnParams) -> Tensor:
        compared.append((len(generated), len(real)))
        return mmd_loss(generated, real, params)

    monkeypatch.setattr(official, "mmd_loss", watched)
    run(torch.ones(1, 3, 1, 2), torch.tensor([[[0, 0]]], dtype=torch.uint8))
    assert compared == [(8, 8)]


def test_zs3net_section_4_4_void_of_a_synthetic_image_is_zero() -> None:
    labels = torch.tensor([[[2, 255]]], dtype=torch.uint8)
    losses, *_ = run(torch.full((1, 3, 1, 2), torch.nan), labels)
    expected = nn.functional.cross_entropy(EMBEDDINGS[2][None], torch.tensor([2]))
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_an_image_of_void_has_no_loss() -> None:
    labels = torch.full((1, 1, 2), 255, dtype=torch.uint8)
    losses, *_ = run(torch.rand(1, 3, 1, 2), labels)
    assert losses["loss"].item() == 0
    assert "mmd" not in losses


def test_zs3net_section_4_3_labels_come_to_the_grid_by_the_floor_rule() -> None:
    """Cells 0 and 1 of three pixels' two take pixels 0 and 1; with corners aligned, 0 and 2."""
    labels = torch.tensor([[[0, 2, 1]]], dtype=torch.uint8)
    _, generator, optimisers, _ = run(torch.rand(1, 3, 1, 2), labels)
    found = [int(torch.nonzero((e == EMBEDDINGS).all(1))) for e, _ in generator.classes]
    assert found == [0, 2]
    assert optimisers["generator"].steps == 0, "the image shows an unseen class"


@pytest.mark.parametrize("graph", [False, True])
def test_an_iteration_runs_where_the_embeddings_are(
    monkeypatch: pytest.MonkeyPatch, *, graph: bool
) -> None:
    """The device "meta" computes shapes only, and like a GPU takes nothing that is elsewhere."""

    def dense(*arguments: object, **options: object) -> Tensor:
        return propagation(*arguments, **options).to_dense()  # there is no sparse one on "meta"

    monkeypatch.setattr(official_graph, "propagation", dense)
    embeddings, sizes = EMBEDDINGS.to("meta"), (3, 8, PARAMS.generator)
    with torch.device("meta"):
        network, head = DeepLabV3Plus(tiny.deeplab(), 3), nn.Conv2d(8, 3, 1)
        generator, second = Generator(*sizes), GraphGenerator(*sizes)
    modules = {"generator": generator, "head": head, "graph": second}
    iteration = official.Iteration(
        network,
        ENCODER,
        generator=generator,
        head=head,
        class_embeddings=embeddings,
        split=SPLIT,
        params=PARAMS,
        branch=OfficialGraphBranch(second, embeddings, SPLIT, sizes[2]) if graph else None,
    )
    quarters = torch.tensor([[[0, 0], [1, 255]], [[0, 1], [2, 2]]], dtype=torch.uint8)
    labels = quarters.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    optimisers = {name: Stepped(module.parameters(), lr=1.0) for name, module in modules.items()}
    losses = iteration([images, labels], optimisers)
    assert all(loss.device == torch.device("meta") for loss in losses.values())
    assert {name: o.steps for name, o in optimisers.items()} == {
        "generator": 2,
        "head": 1,
        "graph": int(graph),
    }


def fit_once(
    world: World, network: DeepLabV3Plus, *, params: OfficialParams = PARAMS, **options: Any
) -> PixelClassifier:
    """Train for an epoch."""
    return official.fit(
        network,
        ENCODER,
        images=world.images,
        label_maps=world.image_labels,
        class_embeddings=world.class_embeddings,
        split=tiny.SPLIT,
        params=params.model_copy(update={"epochs": 1}),
        seed=0,
        compute=tiny.CPU,
        runtime=SingleProcess(),
        **options,
    )


def test_zs3net_section_4_6_the_head_starts_uniform_between_0_and_1(world: World) -> None:
    still = OptimiserParams(name="sgd", lr=1e-12)
    params = PARAMS.model_copy(update={"optimiser": still})
    found = fit_once(world, DeepLabV3Plus(tiny.deeplab(), 9), params=params)
    for start in (found.weight, found.bias):
        assert 0 <= start.min() < 0.2
        assert 0.8 < start.max() < 1
    assert found.weight.mean().item() == pytest.approx(0.5, abs=0.1)


def test_zs3net_section_9_1_batch_statistics_of_the_network_move(world: World) -> None:
    torch.manual_seed(0)
    network = DeepLabV3Plus(tiny.deeplab(), 9)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    fit_once(world, network)
    moved = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert moved
    assert all("running" in n or "num_batches" in n for n in moved)
    assert all(torch.isfinite(t).all() for t in network.state_dict().values())


@pytest.mark.parametrize("graph", [False, True])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path, *, graph: bool
) -> None:
    def fit(**options: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = DeepLabV3Plus(tiny.deeplab(dropout=0.3), 9)
        found = fit_once(world, network, graph=graph, **options)
        return {"head": found.weight} | network.state_dict()

    whole, kept = fit(), Checkpoint(tmp_path, 0)
    with pytest.raises(tiny.KilledError):
        fit(checkpoint=kept, curves=tiny.RecordedCurves(dies_after=2))
    resumed = fit(checkpoint=kept)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_fewer_images_than_a_batch_are_refused(world: World) -> None:
    """They would give not a single step."""
    with pytest.raises(
        InputError, match=r"zs3net\.official\.batch_size: 9 is more than the 8 train"
    ):
        fit_once(
            world,
            DeepLabV3Plus(tiny.deeplab(), 9),
            params=PARAMS.model_copy(update={"batch_size": 9}),
        )
