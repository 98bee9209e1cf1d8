"""Faults 16, 17, 18: diverging losses, vanishing MMD, dying workers; and too little to train on."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from stages import command
from tests import tiny
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import open_labels
from zslib.datasets.views import BatchOrder, TrainingViews, loader
from zslib.errors import InputError
from zslib.losses import guarded_root, squared_mmd
from zslib.methods.spnet import frozen
from zslib.methods.zs3net.generator import fit_generators
from zslib.params.evaluation import SelectionParams
from zslib.params.training import AugmentationParams, LinearTraining, OptimiserParams
from zslib.params.zs3net import GeneratorParams
from zslib.training import Checkpoint, SingleProcess, TrainState, build_optimiser, train

# --- fault 16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_fault_16_a_loss_that_is_no_number_stops_within_one_step(
    tmp_path: Path, value: float
) -> None:
    weight = nn.Linear(1, 1)
    optimiser = build_optimiser(OptimiserParams(name="sgd", lr=0.1), weight.parameters())
    steps: list[int] = []

    def step(index: int) -> dict[str, Tensor]:
        steps.append(index)
        with torch.no_grad():
            weight.weight.fill_(value if index == 3 else index)
        return {"loss": torch.tensor(value if index == 3 else 1.0)}

    with pytest.raises(InputError, match=r"test: loss 'loss' is -?(nan|inf) at step 3; lower"):
        train(
            TrainState({"weight": weight}, {"o": optimiser}),
            step,
            lambda start: iter(range(start, 9)),
            steps=9,
            seed=0,
            name="test",
            runtime=SingleProcess(),
            checkpoint=Checkpoint(tmp_path, 0),
        )
    assert steps == [0, 1, 2, 3]
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert kept["step"] == 3
    assert kept["modules"]["weight"]["weight"].item() == 2, "the state before the bad step"


@pytest.mark.parametrize("bad", [2, 3])
def test_fault_16_weights_that_a_finite_loss_broke_are_not_kept(tmp_path: Path, bad: int) -> None:
    """The gradient of a finite loss may be NaN, at the last step too: sqrt(0) has none."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = build_optimiser(OptimiserParams(name="sgd", lr=0.1), [weight])

    def step(index: int) -> dict[str, Tensor]:
        loss = (0 * weight).sqrt().sum() if index == bad else weight.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach()}

    with pytest.raises(InputError, match=rf"test: '0' is not finite after {bad + 1} steps; lower"):
        train(
            TrainState({"weight": nn.ParameterList([weight])}, {"o": optimiser}),
            step,
            lambda start: iter(range(start, 4)),
            steps=4,
            seed=0,
            name="test",
            runtime=SingleProcess(),
            checkpoint=Checkpoint(tmp_path, 0),
        )
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert kept["step"] == bad
    assert torch.isfinite(kept["modules"]["weight"]["0"]).all()


def test_fault_16_a_run_without_checkpoint_does_not_end_in_broken_weights() -> None:
    broken = nn.Linear(1, 1)
    nn.init.constant_(broken.weight, float("inf"))
    with pytest.raises(InputError, match="'weight' is not finite after 1 steps"):
        train(
            TrainState({"broken": broken}, {}),
            lambda _: {},
            lambda start: iter(range(start, 1)),
            steps=1,
            seed=0,
            name="test",
            runtime=SingleProcess(),
        )


@command.stage
def diverging(section: command.Sections, *, out: Path) -> None:
    """Diverge."""
    train(
        TrainState({}, {}),
        lambda _: {"loss": torch.tensor(float("nan"))},
        lambda start: iter(range(start, 9)),
        steps=9,
        seed=0,
        name="diverging",
        runtime=SingleProcess(),
    )


def test_fault_16_a_diverging_stage_exits_with_2_and_one_line(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_die_with_parent", lambda: None)
    options = ["--params", str(project / "params.yaml"), "--out", "out"]
    result = CliRunner().invoke(diverging, options)
    assert result.exit_code == 2
    assert "error: diverging: loss 'loss' is nan at step 0" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


# --- fault 17 ------------------------------------------------------------------------------------

BANDWIDTHS = (2, 5, 10, 20, 40, 80)


@pytest.mark.parametrize("shift", [0.0, 1e-7, 1e-5, 1e-3])
def test_fault_17_the_gradient_of_a_vanishing_mmd_is_finite_and_bounded(shift: float) -> None:
    """The root of 0 has an infinite gradient, and rounding can go below 0 (zs3net §4.2)."""
    vanished = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        real = torch.randn(128, 256, generator=generator).relu()
        fake = (real[torch.randperm(128, generator=generator)] + shift).requires_grad_()
        squared = squared_mmd(fake, real, BANDWIDTHS)
        loss = guarded_root(squared)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(fake.grad).all()
        exact = squared_mmd(fake.detach().double(), real.double(), BANDWIDTHS)
        assert squared.item() == pytest.approx(exact.item(), abs=1e-6)
        vanished += squared.item() <= 1e-12
    assert shift > 0 or vanished > 0, "this test must meet the case it is about"


def test_fault_17_away_from_zero_the_gradient_is_that_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(32, 16, generator=generator).relu()
    fake = (torch.randn(32, 16, generator=generator) + 0.5).requires_grad_()
    guarded_root(squared_mmd(fake, real, BANDWIDTHS)).backward()
    exact = fake.detach().double().requires_grad_()
    torch.sqrt(squared_mmd(exact, real.double(), BANDWIDTHS)).backward()
    torch.testing.assert_close(fake.grad.double(), exact.grad, atol=1e-6, rtol=1e-4)


# --- fault 18 ------------------------------------------------------------------------------------


def test_fault_18_a_worker_that_fails_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    maps = tiny.block_maps(4, [0, 1])
    images = tiny.write_images(tmp_path / "images", maps)
    images[2].write_bytes(b"")
    params = AugmentationParams(base_size=32, crop_size=32)
    views = TrainingViews(images, maps, params, seed=0, cache_images=False)
    batches = loader(views, BatchOrder(4, 2, section="backbone", seed=0), 0, 2, workers=1)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"02\.png"):
        list(batches)
    assert time.monotonic() - started < 30


# --- too little to train on ----------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> frozen.Inputs:
    """Every image of the bank is a tuning image, so nothing is left to train a choice on."""
    maps = tiny.label_maps(4, tiny.SPLIT.seen, seed=0)
    return frozen.Inputs(
        PixelBank.open(tiny.write_bank(tmp_path / "bank.h5", images=4)),
        DenseMaps.open(tiny.write_maps(tmp_path / "tuning.h5", maps)),
        open_labels(tiny.write_labels(tmp_path / "labels.h5", maps)),
        tiny.EMBEDDINGS,
    )


SELECTION = SelectionParams(held_out=1)
TRAINING = LinearTraining(optimiser=OptimiserParams(name="sgd", lr=0.1), steps=2, batch_size=8)


def test_no_row_outside_the_tuning_images_is_an_error_that_says_what_to_do(
    small: frozen.Inputs,
) -> None:
    with pytest.raises(InputError, match=r"features\.tuning_images"):
        frozen.choose_gamma(small, TRAINING, [0.0], SELECTION, seed=0)
    with pytest.raises(InputError, match=r"features\.tuning_images"):
        fit_generators(
            small.bank,
            small.class_embeddings,
            GeneratorParams(steps=2),
            SELECTION,
            tuning_ids=small.tuning.ids,
            seed=0,
        )


def test_too_few_seen_classes_to_hold_out_is_an_error(small: frozen.Inputs) -> None:
    selection = SelectionParams(held_out=4, draws=2)
    with pytest.raises(InputError, match=r"selection: 2 draws of 4 classes need 8 seen"):
        frozen.choose_gamma(small, TRAINING, [0.0], selection, seed=0)


def test_a_held_out_class_without_pixels_gives_a_choice_and_no_nan(tmp_path: Path) -> None:
    maps = [np.full((4, 4), 0, np.uint8)] * 2
    inputs = frozen.Inputs(
        PixelBank.open(tiny.write_bank(tmp_path / "bank.h5")),
        DenseMaps.open(tiny.write_maps(tmp_path / "tuning.h5", maps)),
        open_labels(tiny.write_labels(tmp_path / "labels.h5", maps)),
        tiny.EMBEDDINGS,
    )
    choice, _ = frozen.choose_gamma(inputs, TRAINING, [0.0, 0.5], SELECTION, seed=0)
    assert np.isfinite(choice.hiou).all()
    assert choice.chosen == 0.0, "the first of equals"
