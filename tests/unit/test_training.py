"""The training loop: schedules, optimisers, means over processes, curves; two processes as one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from tests import tiny
from tests.unit import train_together
from zslib.artifacts.weights import load_tensors
from zslib.backbones.trained import build_network
from zslib.errors import InputError
from zslib.fine_tuning import groups_without_norm
from zslib.methods import supervised
from zslib.params.training import ComputeParams, OptimiserParams
from zslib.training import (
    BatchNorm,
    Checkpoint,
    Curves,
    FabricRuntime,
    Runtime,
    SingleProcess,
    TrainState,
    build_optimiser,
    mean_over_processes,
    poly_lr,
    share_batch_statistics,
    start_runtime,
    train,
)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.007), (500, 0.003751207), (999, 1.396684e-5)])
def test_zs3net_oracle_10_poly_schedule(step: int, expected: float) -> None:
    assert poly_lr(0.007, step, 1000) == pytest.approx(expected, abs=1e-9)
    assert poly_lr(0.07, step, 1000) == pytest.approx(10 * expected, abs=1e-8)


@pytest.mark.parametrize(
    ("total", "step", "expected"),
    [
        (20_000, 0, 2.5e-4),
        (20_000, 10, 2.498875e-4),
        (20_000, 10_000, 1.339717e-4),
        (20_000, 19_990, 2.673086e-7),
        (100_000, 10, 2.499775e-4),
        (100_000, 50_000, 1.339717e-4),
        (100_000, 99_990, 6.279716e-8),
    ],
)
def test_spnet_s5_poly_schedule(total: int, step: int, expected: float) -> None:
    assert poly_lr(2.5e-4, step, total) == pytest.approx(expected, rel=1e-6)


def one_parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def run(
    optimiser: torch.optim.Optimizer, *, steps: int, losses: Any = None, **options: Any
) -> list[list[float]]:
    """Run the loop with a step that notes the learning rates; return them."""
    rates = []

    def step(value: float) -> dict[str, Tensor]:
        rates.append([group["lr"] for group in optimiser.param_groups])
        return {"loss": torch.tensor(value)}

    values = losses or [0.0] * steps
    train(
        TrainState({}, {"o": optimiser}),
        step,
        lambda start: iter(values[start:]),
        steps=steps,
        seed=0,
        name="test",
        runtime=options.pop("runtime", SingleProcess()),
        **options,
    )
    return rates


def test_spnet_s5_groups_keep_their_factors_along_the_schedule() -> None:
    groups = [
        {"params": [one_parameter()]},
        {"params": [one_parameter()], "lr_factor": 10},
        {"params": [one_parameter()], "lr_factor": 20},
    ]
    rates = run(build_optimiser(OptimiserParams(name="sgd", lr=2.5e-4), groups), steps=20)
    for step, (backbone, weights, biases) in enumerate(rates):
        assert backbone == pytest.approx(2.5e-4 * (1 - step / 20) ** 0.9)
        assert (weights, biases) == pytest.approx((10 * backbone, 20 * backbone))


def test_power_zero_keeps_the_rate() -> None:
    optimiser = build_optimiser(OptimiserParams(name="adam", lr=2e-4, power=0.0), [one_parameter()])
    assert run(optimiser, steps=5) == [[2e-4]] * 5


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimisers_are_torchs(name: str, kind: type) -> None:
    params = OptimiserParams(name=name, lr=0.1, momentum=0.8, weight_decay=0.3)
    optimiser = build_optimiser(params, [one_parameter()])
    assert isinstance(optimiser, kind)
    (group,) = optimiser.param_groups
    assert group["weight_decay"] == 0.3
    assert name != "sgd" or (group["momentum"], group["nesterov"]) == (0.8, False)


class OneOf(SingleProcess):
    """One of several processes whose counts are known."""

    def __init__(self, rank: int, counts: list[int]) -> None:
        self.rank, self.world_size, self._total = rank, len(counts), sum(counts)
        self.barriers = 0

    def total(self, value: Tensor) -> Tensor:
        return torch.tensor(float(self._total))

    def barrier(self) -> None:
        self.barriers += 1


@pytest.mark.parametrize("counts", [[3, 1], [0, 4], [0, 0]])
def test_mean_over_processes_weighs_each_pixel_alike(counts: list[int]) -> None:
    pixels = torch.tensor([2.0, 4.0, 9.0, 1.0])
    parts = torch.split(pixels[: sum(counts)], counts)
    means = [
        mean_over_processes(OneOf(rank, counts), part.sum(), torch.tensor(float(len(part))))
        for rank, part in enumerate(parts)
    ]
    # Processes average their gradients, hence the mean of what each returns.
    expected = pixels.mean() if sum(counts) else torch.tensor(0.0)
    torch.testing.assert_close(torch.stack(means).mean(), expected)


def test_processes_meet_equally_often_whatever_their_clocks_say(tmp_path: Path) -> None:
    """A process that waits for the others inside a save they do not make waits forever."""
    met = []
    for rank, seconds in ((0, 0), (1, 1e9)):
        runtime = OneOf(rank, [1, 1])
        checkpoint = Checkpoint(tmp_path, seconds)
        optimiser = build_optimiser(OptimiserParams(name="sgd", lr=0.1), [one_parameter()])
        run(optimiser, steps=4, runtime=runtime, checkpoint=checkpoint)
        (tmp_path / "state.pt").unlink(missing_ok=True)
        met.append(runtime.barriers)
    assert met[0] == met[1]


def test_randomness_of_a_step_depends_on_seed_and_step_only() -> None:
    def draws(seed: int, start: int) -> list[float]:
        found: list[float] = []

        def step(_: int) -> dict[str, Tensor]:
            found.append(torch.rand(()).item())
            return {}

        state = TrainState({}, {}, start)
        train(
            state,
            step,
            lambda s: iter(range(s, 6)),
            steps=6,
            seed=seed,
            name="test",
            runtime=SingleProcess(),
        )
        return found

    whole = draws(0, 0)
    assert draws(0, 3) == whole[3:]
    assert len(set(whole)) == 6
    assert draws(1, 0) != whole


def test_batches_that_end_early_are_an_error() -> None:
    optimiser = build_optimiser(OptimiserParams(name="sgd", lr=0.1), [one_parameter()])
    with pytest.raises(RuntimeError, match="ended at step 3 of 5"):
        run(optimiser, steps=5, losses=[0.0] * 3)


def test_a_gpu_asked_for_and_absent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute\.device: 'cuda' asked for"):
        start_runtime(ComputeParams(device="cuda"))


@pytest.mark.parametrize(("precision", "kind"), [("auto", SingleProcess), ("bf16", FabricRuntime)])
def test_a_precision_asked_for_is_had_on_a_cpu_too(precision: str, kind: type) -> None:
    assert isinstance(start_runtime(ComputeParams(device="cpu", precision=precision)), kind)


# --- batch norm among several GPUs ---------------------------------------------------------------


class Sharing(SingleProcess):
    """Prepares a module as one of several GPUs does."""

    def prepare(
        self, module: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        share_batch_statistics(module)
        return module, optimiser


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_that_is_frozen_stays_so_among_several_gpus(
    tmp_path: Path, *, frozen: bool
) -> None:
    maps = tiny.block_maps(8, train_together.CLASSES)
    images = tiny.write_images(tmp_path, maps)

    def fit(runtime: SingleProcess) -> nn.Module:
        params = tiny.backbone(epochs=1, frozen_batch_norm=frozen)
        options = {"seed": 0, "compute": tiny.CPU, "runtime": runtime}
        return supervised.fit(images, maps, tiny.SPLIT, params, **options).network

    alone, shared = fit(SingleProcess()), fit(Sharing())
    norms = [module for module in shared.modules() if isinstance(module, BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) != frozen for norm in norms)
    for norm in norms:
        assert torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) == frozen
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], tensor, msg=name)


def test_shared_batch_norm_is_left_out_of_what_learns_without_it() -> None:
    network = build_network(tiny.deeplab(), 3)
    rates = {"head_lr_factor": 1.0, "bias_lr_factor": 1.0}
    before = groups_without_norm(network, **rates)
    share_batch_statistics(network)
    assert [group["params"] for group in groups_without_norm(network, **rates)] == [
        group["params"] for group in before
    ]


def test_shared_batch_norm_keeps_its_activation_and_its_names() -> None:
    network = timm.create_model("test_efficientnet").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, names = network(images), list(network.state_dict())
    share_batch_statistics(network)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network(images), before)


# --- half precision ------------------------------------------------------------------------------


def half_precision() -> FabricRuntime:
    compute = ComputeParams(device="cpu", precision="fp16")
    return FabricRuntime(compute, accelerator="cpu", processes=1)


@pytest.mark.parametrize(("name", "moved"), [("sgd", 0.25), ("adamw", 1.0)])
def test_clipping_bounds_the_gradient_and_not_its_scaled_copy(name: str, moved: float) -> None:
    """The gradient is four times 0.5, of norm 1; Adam divides by its size."""
    runtime, module = half_precision(), nn.Linear(4, 1, bias=False)
    nn.init.zeros_(module.weight)
    optimiser = build_optimiser(OptimiserParams(name=name, lr=1.0), module.parameters())
    prepared, stepping = runtime.prepare(module, optimiser)
    runtime.backward(0.5 * prepared(torch.ones(1, 4)).float().sum())
    runtime.clip(prepared, stepping, 0.5)
    stepping.step()
    torch.testing.assert_close(module.weight.detach(), torch.full((1, 4), -moved))


def test_fault_9_a_resumed_run_goes_on_with_its_scale(tmp_path: Path) -> None:
    """The first scales overflow, and their steps are left out: not once more after a kill."""

    def weights_after(folder: Path, runtime: Runtime, *, dies_at: int | None = None) -> Tensor:
        torch.manual_seed(0)
        module = nn.Linear(4, 1)
        optimiser = build_optimiser(OptimiserParams(name="sgd", lr=1e-3), module.parameters())
        prepared, stepping = runtime.prepare(module, optimiser)

        def step(index: int) -> dict[str, Tensor]:
            if index == dies_at:
                raise tiny.KilledError
            loss = 10 * (prepared(torch.ones(1, 4)).float() - index).square().sum()
            stepping.zero_grad()
            runtime.backward(loss)
            stepping.step()
            return {"loss": loss.detach()}

        train(
            TrainState({"module": module}, {"sgd": optimiser}),
            step,
            lambda start: iter(range(start, 12)),
            steps=12,
            seed=0,
            name="test",
            runtime=runtime,
            checkpoint=Checkpoint(folder, 0),
        )
        return module.weight.detach()

    whole, first = half_precision(), half_precision()
    expected = weights_after(tmp_path / "whole", whole)
    assert whole.state()["scale"] < first.state()["scale"], "no step overflowed"
    with pytest.raises(tiny.KilledError):
        weights_after(tmp_path / "killed", first, dies_at=9)
    assert torch.equal(weights_after(tmp_path / "killed", half_precision()), expected)


def test_a_run_goes_on_in_another_precision(tmp_path: Path) -> None:
    full, half = SingleProcess(), half_precision()
    scale = half.state()["scale"]
    half.restore(full.state())
    full.restore(half.state())
    assert half.state()["scale"] == scale


def test_training_that_scales_no_gradient_refuses_fp16() -> None:
    with pytest.raises(InputError, match=r"compute\.precision: 'fp16'.*use 'bf16' or '32'"):
        ComputeParams(precision="fp16").without_scaling()
    assert ComputeParams(precision="bf16").without_scaling().precision == "bf16"


# --- curves --------------------------------------------------------------------------------------


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    lines = (folder / "plots" / "metrics" / f"{name}.tsv").read_text().splitlines()
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]
    return [(int(row["step"]), float(row[name])) for row in rows]


def test_curves_are_means_over_windows(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "curves", every=2)
    for step, value in enumerate([1.0, 3.0, 5.0, 6.0]):
        curves.add(step, {"loss": value})
    curves.write()
    assert points(tmp_path / "curves", "loss") == [(2, 2.0), (4, 5.5)]
    assert json.loads((tmp_path / "curves" / "metrics.json").read_text())["loss"] == 5.5


def test_a_curve_that_skips_steps_is_the_mean_of_the_steps_it_has(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "curves", every=4)
    for step in range(4):
        curves.add(step, {"loss": 1.0} | ({"mmd": 2.0} if step % 2 else {}))
    curves.write()
    assert points(tmp_path / "curves", "mmd") == [(4, 2.0)]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_shorter_than_a_window_still_has_a_curve(tmp_path: Path, steps: int) -> None:
    curves = Curves(tmp_path / "curves", every=50)
    for step in range(steps):
        curves.add(step, {"loss": float(step)})
    curves.write()
    assert points(tmp_path / "curves", "loss") == [(steps, (steps - 1) / 2)]


def test_curves_taken_up_again_are_those_of_the_whole_run(tmp_path: Path) -> None:
    """Also where nothing was left to do but to write them."""
    first, whole = (Curves(tmp_path / name, every=4) for name in ("first", "whole"))
    for step in range(6):
        whole.add(step, {"loss": float(step)})
        first.add(step, {"loss": float(step)})
    second = Curves(tmp_path / "second", every=4)
    second.restore(first.state())
    for curves in (second, whole):
        curves.write()
    assert points(tmp_path / "whole", "loss") == [(4, 1.5), (6, 4.5)]
    assert points(tmp_path / "second", "loss") == [(4, 1.5), (6, 4.5)]


# --- distribution --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """The folder in which one process, two processes, and a half-precision run wrote their results."""
    folder = tmp_path_factory.mktemp("together")
    tiny.write_images(folder / "images", tiny.block_maps(8, train_together.CLASSES))
    command = [sys.executable, "-m", "tests.unit.train_together", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    options = {"cwd": project, "env": environment, "start_new_session": True}
    log = folder / "log.txt"
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options) as several,
    ):
        try:
            train_together.work(folder / "one", tiny.CPU)
            several.wait(timeout=240)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the processes wait for each other\n{log.read_text()}")
        finally:
            if several.poll() is None:
                os.killpg(several.pid, signal.SIGKILL)
    assert several.returncode == 0, log.read_text()
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_tensors(folder / "weights.safetensors", schema=tiny.SCHEMA)[0]


def test_two_processes_train_to_the_weights_of_one(trained: Path) -> None:
    shares = train_together.labelled_pixels_per_process(2)
    assert all(a != b for a, b in shares), "equal shares would hide a mean of means"
    one, two = weights(trained / "one"), weights(trained / "two")
    assert set(one) == set(two)
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, atol=1e-5, rtol=1e-4, err_msg=name)


def test_two_processes_extract_the_bytes_of_one(trained: Path) -> None:
    found = [(trained / name / "dense.h5").read_bytes() for name in ("one", "two")]
    assert found[0] == found[1]


def test_half_precision_trains_to_nearly_the_same_weights(trained: Path) -> None:
    """The gradient scaler's factor of 65,536 must be gone before the optimiser steps."""
    full, half = weights(trained / "one"), weights(trained / "half")
    for name, tensor in full.items():
        np.testing.assert_allclose(half[name], tensor, atol=0.02, err_msg=name)
