"""What every method is tested on."""

from typing import Any

import pytest

from tests import tiny
from tests.methods.tester import World
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import open_labels
from zslib.classifier import PixelClassifier
from zslib.params.evaluation import SelectionParams


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A bank of 16 training images with seen labels; four of them are kept for tuning."""
    folder = tmp_path_factory.mktemp("world")
    seen = tiny.label_maps(16, tiny.SPLIT.seen, seed=0)
    everything = tiny.label_maps(6, range(9), seed=1)
    validation = DenseMaps.open(tiny.write_maps(folder / "val.h5", everything, seed=50))
    blocks = tiny.block_maps(8, range(9))
    return World(
        bank=PixelBank.open(tiny.write_bank(folder / "bank.h5")),
        tuning=DenseMaps.open(tiny.write_maps(folder / "tuning.h5", seen[:4])),
        labels=open_labels(tiny.write_labels(folder / "labels.h5", seen)),
        class_embeddings=tiny.EMBEDDINGS,
        selection=SelectionParams(held_out=1, draws=2),
        images=tiny.write_images(folder / "images", blocks),
        image_labels=blocks,
        validation=[(f.float(), m) for f, m in zip(validation, everything, strict=True)],
    )


@pytest.fixture(scope="class")
def fitted_once(
    request: pytest.FixtureRequest, world: World
) -> tuple[PixelClassifier, tiny.RecordedCurves]:
    """The method of a tester class, fitted with seed 0, and its losses."""
    curves = tiny.RecordedCurves()
    return request.cls().fit(world, seed=0, curves=curves), curves


@pytest.fixture(scope="class")
def trained_once(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, tiny.RecordedCurves]:
    """What the end-to-end form of a tester class has learned, and its losses."""
    curves = tiny.RecordedCurves()
    return request.cls().fit_in(world, tmp_path_factory.mktemp("e2e"), curves=curves), curves
