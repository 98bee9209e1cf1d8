"""What every method must do: a new method subclasses this, says how it is fitted, and is tested.

class TestMine(BaseMethodTester):
    def fit(self, world, *, seed, curves=None): ...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps
from zslib.heads import Head, load_head
from zslib.metrics import confusion_matrix, scores
from zslib.params import SelectionParams


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
