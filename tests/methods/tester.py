"""What every method must do: a new method subclasses this, says how it is fitted, and is tested.

class TestMine(BaseMethodTester):
    def fit(self, world, *, seed, curves=None): ...
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.backbones.trained import Backbone, build_network
from zslib.errors import InputError
from zslib.fine_tuning import LabelledImages, Run, Tuning
from zslib.heads import Head, load_head
from zslib.held_out import draw_held_out
from zslib.metrics import confusion_matrix, scores
from zslib.params.backbone import DeepLabParams, DeepLabV2Params
from zslib.params.evaluation import SelectionParams
from zslib.params.training import AugmentationParams


@dataclass(frozen=True)
class World:
    """Everything a method may learn from, and validation maps with all classes."""

    bank: PixelBank
    tuning: DenseMaps
    labels: LabelMaps
    class_embeddings: Tensor
    selection: SelectionParams
    images: list[Path]
    image_labels: list[np.ndarray]
    """Label maps of `images`, with all classes: for methods that are given them."""
    validation: list[tuple[Tensor, np.ndarray]]


class BaseMethodTester:
    """The tests that all methods share."""

    seen_accuracy = 0.95
    """Mean accuracy over the seen classes that must be reached among the seen classes."""

    def fit(self, world: World, *, seed: int, curves: tiny.RecordedCurves | None = None) -> Any:
        """Return a head that can be saved."""
        raise NotImplementedError

    def tables(self, head: Any) -> list[Tensor]:
        """Return what a head has one row of for each class."""
        return [head.weight, head.bias]

    def accuracy(self, head: Head, pixels: Sequence[tuple[Tensor, np.ndarray]]) -> dict[str, float]:
        """Return all scores on pairs of pixel features and label map."""
        matrix = sum(
            confusion_matrix(labels, head.predict(features, labels.shape), len(tiny.CLASSES))
            for features, labels in pixels
        )
        return scores(matrix, seen=tiny.SPLIT.seen, unseen=tiny.SPLIT.unseen)

    @pytest.fixture
    def fitted(self, fitted_once: tuple[Any, tiny.RecordedCurves]) -> Any:
        return fitted_once[0]

    @pytest.fixture
    def curves(self, fitted_once: tuple[Any, tiny.RecordedCurves]) -> tiny.RecordedCurves:
        return fitted_once[1]

    def test_no_unseen_label_is_in_the_bank(self, world: World) -> None:
        assert not np.isin(world.bank.labels, tiny.UNSEEN).any()
        assert not np.isin(world.labels.pixels, tiny.UNSEEN).any()

    def test_it_scores_every_class_with_finite_numbers(self, fitted: Any) -> None:
        for table in self.tables(fitted):
            assert len(table) == len(tiny.CLASSES)
            assert torch.isfinite(table).all()
            assert not table.requires_grad
        assert fitted.split == tiny.SPLIT

    def test_the_loss_decreases(self, curves: tiny.RecordedCurves) -> None:
        losses = curves.series("loss")
        tenth = max(len(losses) // 10, 1)
        assert np.mean(losses[-tenth:]) < np.mean(losses[:tenth])

    def test_separable_seen_classes_are_told_apart(self, world: World, fitted: Any) -> None:
        among_seen = fitted.uncalibrated().for_split(tiny.SPLIT)
        found = self.accuracy(among_seen, self.seen_pixels(world))
        assert found["mean_accuracy_seen"] >= self.seen_accuracy

    def seen_pixels(self, world: World) -> list[tuple[Tensor, np.ndarray]]:
        return [(f, tiny.SPLIT.seen_labels(m)) for f, m in world.validation]

    def test_the_same_seed_gives_the_same_bytes(
        self, world: World, fitted: Any, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path / "one")
        torch.rand(7)  # the state of the global generator must not matter
        self.fit(world, seed=0).save(tmp_path / "two")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_another_seed_gives_other_weights(self, world: World, fitted: Any) -> None:
        other = self.fit(world, seed=1)
        assert not torch.equal(self.tables(other)[0], self.tables(fitted)[0])

    def test_a_saved_classifier_predicts_the_same(
        self, world: World, fitted: Any, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path / "c.safetensors")
        found = load_head(tmp_path / "c.safetensors")
        features, labels = world.validation[0]
        expected = fitted.predict(features, labels.shape)
        np.testing.assert_array_equal(found.predict(features, labels.shape), expected)


class ZeroShotMethodTester(BaseMethodTester):
    """For methods that fit the bank and must recognise new combinations of known attributes."""

    unseen_miou = 0.3

    def test_unseen_classes_are_recognised(self, world: World, fitted: Any) -> None:
        assert self.accuracy(fitted, world.validation)["miou_unseen"] >= self.unseen_miou

    def test_its_choices_were_made_on_seen_classes(self, fitted: Any) -> None:
        assert fitted.meta
        for choice in fitted.meta.values():
            unseen = {tiny.CLASSES[c] for c in tiny.UNSEEN}
            assert len(choice["held_out"]) == 2
            assert not unseen & {name for draw in choice["held_out"] for name in draw}
            best = np.argmax(np.mean(choice["hiou"], axis=0))
            assert choice["chosen"] == choice["candidates"][best]


AUGMENTATION = AugmentationParams(base_size=32, crop_size=32, scale=(1.0, 1.0), blur=0.0)
TUNING = Tuning(images=2, short_side=32, batch_size=4)
"""For end-to-end forms on the world's images."""


def backbone(model: DeepLabParams | DeepLabV2Params | None = None) -> Backbone:
    """Return a network to start from, the same each time."""
    torch.manual_seed(0)
    params = model or tiny.deeplab()
    return Backbone(build_network(params, 9, pretrained=False), params, tiny.SPLIT)


def unchanged(before: nn.Module, after: nn.Module) -> set[str]:
    """Return the names of all parameters and statistics that training has left alone."""
    old = before.state_dict()
    return {name for name, now in after.state_dict().items() if torch.equal(now, old[name])}


def of_norms(network: nn.Module) -> set[str]:
    """Return the names of all parameters and statistics of batch norm."""
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    return {name for name in network.state_dict() if name.rpartition(".")[0] in norms}


def fit_calibrated(
    fit: Callable[..., Any],
    model: DeepLabParams | DeepLabV2Params,
    world: World,
    images: LabelledImages,
    *recipe: Any,
    run: Run,
) -> Any:
    """Return what a form with a calibration learns from a recipe, which ends in its candidates."""
    return fit(
        backbone(model),
        images,
        world.class_embeddings,
        *recipe,
        selection=world.selection,
        tuning=TUNING,
        run=run,
    )


class EndToEndTester:
    """What every form must do whose whole network learns."""

    section: str
    """Of params.yaml: where its batch size stands."""
    short: Mapping[str, int]
    """Changes of its parameters: no more than a few steps."""
    falling: Sequence[str] = ("loss",)
    falls_to = 0.8
    """The losses at the end, of those at the beginning."""
    checkpoints: Sequence[str] = ("state.pt",)
    batched = "8 training images"
    """What the first training has: those that a choice is made by are kept out of it."""

    def fit(self, world: World, images: LabelledImages, run: Run, **changes: Any) -> Any:
        """Return what it has learned, some of its parameters changed."""
        raise NotImplementedError

    def save(self, fitted: Any, folder: Path) -> None:
        """Write all that it has learned into a folder."""
        for index, part in enumerate(fitted):
            part.save(folder / str(index))

    def fit_in(self, world: World, folder: Path, *, changes: Any = None, **options: Any) -> Any:
        images = tiny.labelled_images(folder, world.images, world.image_labels)
        return self.fit(world, images, tiny.run(folder, **options), **(changes or {}))

    @pytest.fixture
    def fitted(self, trained_once: tuple[Any, tiny.RecordedCurves]) -> Any:
        return trained_once[0]

    @pytest.fixture
    def curves(self, trained_once: tuple[Any, tiny.RecordedCurves]) -> tiny.RecordedCurves:
        return trained_once[1]

    def test_the_losses_decrease(self, curves: tiny.RecordedCurves) -> None:
        for name in self.falling:
            values = curves.series(name)
            assert np.mean(values[-5:]) < self.falls_to * np.mean(values[:5]), name

    def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
        self, world: World, tmp_path: Path
    ) -> None:
        whole, again = tmp_path / "whole", tmp_path / "again"
        self.save(self.fit_in(world, tmp_path / "unbroken", changes=self.short), whole)
        curves = tiny.RecordedCurves(dies_after=2)
        with pytest.raises(tiny.KilledError):
            self.fit_in(world, tmp_path, changes=self.short, curves=curves, seconds=0)
        assert all((tmp_path / "run" / file).exists() for file in self.checkpoints)
        self.save(self.fit_in(world, tmp_path, changes=self.short, seconds=0), again)
        files = sorted(path.name for path in whole.iterdir())
        assert files
        for name in files:
            assert (whole / name).read_bytes() == (again / name).read_bytes(), name

    def test_fewer_images_than_a_batch_are_refused(self, world: World, tmp_path: Path) -> None:
        refused = rf"{self.section}\.batch_size: 99 is more than the {self.batched}"
        with pytest.raises(InputError, match=refused):
            self.fit_in(world, tmp_path, changes={"batch_size": 99})


class CalibratedEndToEndTester(EndToEndTester):
    """For those with a calibration, whose strength is chosen by a training of its own."""

    strength: str
    """The classifier's."""
    candidates: Sequence[float]
    checkpoints = ("held-out/state.pt", "state.pt")
    batched = "6 training images"

    def classifier(self, fitted: Any) -> Any:
        return fitted[1]

    def test_the_strength_was_chosen_on_the_classes_of_the_first_draw(
        self, fitted: Any, world: World
    ) -> None:
        classifier = self.classifier(fitted)
        (choice,) = classifier.meta.values()
        hidden = draw_held_out(tiny.SPLIT, world.selection, seed=0)[0].unseen
        assert choice["held_out"] == [[tiny.CLASSES[c] for c in hidden]]
        best = self.candidates[np.argmax(choice["hiou"][0])]
        assert choice["chosen"] == getattr(classifier, self.strength) == best
