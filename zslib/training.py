"""The one training loop: device, precision, distribution, checkpoints, curves.

Every random choice of a training run is a function of (seed, step): data order and augmentation draw
from counters, and torch's generator is reseeded at every step. A run that is killed and resumed
therefore continues exactly as if nothing had happened, with no generator state to save.

Only this module knows about devices. One process on a CPU in float32 needs nothing but torch; all else
goes through Lightning Fabric (torchrun, SLURM), imported only then: it takes seconds.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from zslib.artifacts.publish import publish
from zslib.errors import InputError
from zslib.params.training import ComputeParams, OptimiserParams, SteppedOptimiserParams

log = logging.getLogger(__name__)

Batch = Any
Losses = Mapping[str, Tensor]


# --- where it runs -------------------------------------------------------------------------------


@runtime_checkable
class Runtime(Protocol):
    """What a training step may ask of the machine."""

    device: torch.device
    rank: int
    world_size: int

    def prepare(self, module: nn.Module, optimiser: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Move a module to the device, wrapped as processes and precision need it; and so its
        optimiser. The module and the optimiser given stay the ones that hold the state."""

    def backward(self, loss: Tensor) -> None: ...

    def clip(self, module: nn.Module, optimiser: Optimizer, max_norm: float) -> None:
        """Bound the norm of a module's whole gradient, between `backward` and the optimiser's step."""

    def autocast(self) -> AbstractContextManager[Any]: ...

    def total(self, value: Tensor) -> Tensor:
        """Sum over processes, without gradient."""

    def barrier(self) -> None: ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep of the runtime itself."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, be it by a runtime of another kind."""


class SingleProcess:
    """One CPU process, float32; the same bytes every time with the same number of threads."""

    device = torch.device("cpu")
    rank = 0
    world_size = 1

    def __init__(self) -> None:
        torch.set_deterministic_debug_mode("error")
        # Filling every fresh tensor guards against reading memory that nobody wrote, and costs 11 %.
        torch.utils.deterministic.fill_uninitialized_memory = False

    def prepare(self, module: nn.Module, optimiser: Optimizer) -> tuple[nn.Module, Optimizer]:
        return module, optimiser

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, module: nn.Module, optimiser: Optimizer, max_norm: float) -> None:
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def total(self, value: Tensor) -> Tensor:
        return value.detach()

    def barrier(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        return None


class FabricRuntime:
    """A GPU, or several processes on any device, by Lightning Fabric."""

    def __init__(self, params: ComputeParams, *, accelerator: str, processes: int) -> None:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision, Precision

        asked = params.precision
        if asked == "auto":
            bf16 = accelerator == "cuda" and torch.cuda.is_bf16_supported()
            asked = "bf16" if bf16 else "32"
        self._scaler = torch.amp.GradScaler(accelerator, enabled=asked == "fp16")
        precision = Precision()
        if asked == "bf16":
            precision = MixedPrecision("bf16-mixed", accelerator)
        elif asked == "fp16":
            precision = MixedPrecision("16-mixed", accelerator, self._scaler)
        self._fabric = Fabric(
            accelerator=accelerator,
            devices=processes,
            num_nodes=params.nodes,
            strategy="ddp" if processes * params.nodes > 1 else "auto",
            plugins=precision,
        )
        self._fabric.launch()
        self.device = self._fabric.device
        self.rank = self._fabric.global_rank
        self.world_size = self._fabric.world_size

    def prepare(self, module: nn.Module, optimiser: Optimizer) -> tuple[nn.Module, Optimizer]:
        if self.world_size > 1 and self.device.type == "cuda":
            share_batch_statistics(module)
        return self._fabric.setup(module, optimiser)

    def backward(self, loss: Tensor) -> None:
        self._fabric.backward(loss)

    def clip(self, module: nn.Module, optimiser: Optimizer, max_norm: float) -> None:
        # The scaler knows optimisers as they were before `prepare`. Fabric's own clipping refuses
        # fused ones, and gradients that overflowed, of which the scaler leaves out the step.
        self._scaler.unscale_(getattr(optimiser, "optimizer", optimiser))
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)

    def autocast(self) -> AbstractContextManager[Any]:
        return self._fabric.autocast()

    def total(self, value: Tensor) -> Tensor:
        summed = self._fabric.all_reduce(value.detach(), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def barrier(self) -> None:
        self._fabric.barrier()

    def state(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        if state:
            self._scaler.load_state_dict(state)


BatchNorm = nn.modules.batchnorm._BatchNorm
"""Of every kind: one that shares its statistics among GPUs is no BatchNorm2d any more."""


def share_batch_statistics(module: nn.Module) -> None:
    """Let the batch norms inside a module use the statistics of all processes.

    Those that are frozen stay as they are. Parameters, and names in the state, stay the same.
    """
    from timm.layers import convert_sync_batchnorm

    for name, child in module.named_children():
        if not isinstance(child, BatchNorm):
            share_batch_statistics(child)
        elif any(parameter.requires_grad for parameter in child.parameters()):
            # timm's, since torch's own would lose the activation inside timm's norms.
            module.add_module(name, convert_sync_batchnorm(child))


def start_runtime(params: ComputeParams) -> Runtime:
    """Return the runtime that `compute` asks for; under torchrun or SLURM, join the others.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if params.device == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device: 'cuda' asked for, but torch sees no GPU; use 'auto'")
    use_gpu = params.device != "cpu" and torch.cuda.is_available()
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", params.devices))
    if not use_gpu and launched * params.nodes == 1 and params.precision in ("auto", "32"):
        return SingleProcess()
    return FabricRuntime(params, accelerator="cuda" if use_gpu else "cpu", processes=launched)


def mean_over_processes(runtime: Runtime, total: Tensor, count: Tensor) -> Tensor:
    """Return total / count over the whole global batch, scaled so that averaged gradients are right.

    Gradients are averaged over processes, each of which holds another number of labelled pixels: the
    mean of the means would not be the mean. An empty batch gives 0, not NaN (spnet §9.5).
    """
    return total * runtime.world_size / runtime.total(count).clamp(min=1)


# --- optimisers ----------------------------------------------------------------------------------


def build_optimiser(params: OptimiserParams, groups: Iterable[Any]) -> Optimizer:
    """Return the optimiser; `groups` are parameters, or torch parameter groups with `lr_factor`."""
    groups = [g if isinstance(g, dict) else {"params": [g]} for g in groups]
    for group in groups:
        group["lr"] = params.lr * group.pop("lr_factor", 1.0)
    shared: dict[str, Any] = {"lr": params.lr, "weight_decay": params.weight_decay}
    match params.name:
        case "sgd":
            optimiser: Optimizer = torch.optim.SGD(groups, momentum=params.momentum, **shared)
        case "adam":
            optimiser = torch.optim.Adam(groups, fused=True, **shared)
        case "adamw":
            optimiser = torch.optim.AdamW(groups, fused=True, **shared)
    decay = params.decay if isinstance(params, SteppedOptimiserParams) else None
    for group in optimiser.param_groups:
        group["initial_lr"], group["power"] = group["lr"], params.power
        group["decay"] = (decay.start, decay.every, decay.factor) if decay else None
    return optimiser


def poly_lr(lr: float, step: int, total_steps: int, *, power: float = 0.9) -> float:
    """Return lr (1 - t/T)^power (zs3net §2, spnet §5)."""
    return lr * (1 - step / total_steps) ** power


def step_decay(step: int, decay: tuple[int, int, float] | None) -> float:
    """Return what the learning rate is multiplied by at a step (cagnet §5).

    That is 1 before `start`, then factor^(floor((step - start) / every) + 1).
    """
    if decay is None or step < decay[0]:
        return 1.0
    start, every, factor = decay
    return factor ** ((step - start) // every + 1)


# --- the loop ------------------------------------------------------------------------------------


@dataclass
class TrainState:
    """All that a run needs to go on: modules, optimisers, and how many steps are done."""

    modules: dict[str, nn.Module]
    optimisers: dict[str, Optimizer]
    step: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state, and how often."""

    folder: Path
    seconds: float

    @property
    def file(self) -> Path:
        return self.folder / "state.pt"


def train(
    state: TrainState,
    step: Callable[[Batch], Losses],
    batches: Callable[[int], Iterator[Batch]],
    *,
    steps: int,
    seed: int,
    name: str,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: "Curves | None" = None,
) -> None:
    """Run `steps` optimisation steps, resuming from `checkpoint` if it holds a state.

    `step` does forward, backward and the optimisers' steps, and returns the losses to log;
    `batches(t)` yields the batches from step t on. Learning rates follow each group's poly schedule.

    Raises:
        InputError: a loss is not finite, or a weight when they are to be saved and at the end; the
            last good checkpoint is kept.
    """
    if checkpoint is not None:
        _resume(state, checkpoint, curves, runtime)
    saved_at, saved_step = time.monotonic(), state.step
    steps_left = range(state.step, steps)
    shown = progress(steps_left, name=name, initial=state.step, total=steps, quiet=runtime.rank > 0)
    for index, batch in zip(shown, batches(state.step), strict=False):
        _reseed(_mix(seed, index, runtime.rank))
        for optimiser in state.optimisers.values():
            for group in optimiser.param_groups:
                rate = poly_lr(group["initial_lr"], index, steps, power=group["power"])
                group["lr"] = rate * step_decay(index, group["decay"])
        losses = {key: float(value) for key, value in step(batch).items()}
        _refuse_divergence(losses, name=name, step=index)
        state.step = index + 1
        if curves is not None and runtime.rank == 0:
            curves.add(index, losses)
        # Only one process saves, by its own clock: the others must not wait for it here.
        due = time.monotonic() - saved_at >= checkpoint.seconds if checkpoint else False
        if checkpoint is not None and due and runtime.rank == 0:
            _refuse_broken_weights(state, name=name)
            _save(state, checkpoint, curves, runtime)
            saved_at, saved_step = time.monotonic(), state.step
    if state.step < steps:
        raise RuntimeError(f"{name}: batches ended at step {state.step} of {steps}")
    _refuse_broken_weights(state, name=name)
    # What a stage makes of these weights outlives a kill, and so must they.
    if checkpoint is not None and saved_step < steps and runtime.rank == 0:
        _save(state, checkpoint, curves, runtime)


def progress(items: Any, *, name: str, quiet: bool = False, **options: Any) -> Any:
    """Show progress over `items`: a bar on a terminal, a line every ten seconds elsewhere."""
    pace = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(items, desc=name, mininterval=pace, disable=quiet, dynamic_ncols=True, **options)


def _reseed(seed: int) -> None:
    """Seed the generators in use. torch.manual_seed also queues the seed, and a traceback with it,
    for every kind of device that this process never touches: a millisecond, and memory, per step."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _mix(*keys: int) -> int:
    """Hash small integers into one 63-bit seed."""
    import numpy as np

    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _refuse_divergence(losses: Mapping[str, float], *, name: str, step: int) -> None:
    for key, value in losses.items():
        if not math.isfinite(value):
            raise InputError(
                f"{name}: loss '{key}' is {value} at step {step}; lower its learning rate "
                "(the last checkpoint before this step is kept)"
            )


def _refuse_broken_weights(state: TrainState, *, name: str) -> None:
    """A loss may be finite where its gradient is not: the step after it breaks the weights."""
    for module in state.modules.values():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(
                    f"{name}: '{key}' is not finite after {state.step} steps; lower its learning "
                    "rate (the last checkpoint before that is kept)"
                )


def _save(
    state: TrainState, checkpoint: Checkpoint, curves: "Curves | None", runtime: Runtime
) -> None:
    content = {
        "modules": {name: module.state_dict() for name, module in state.modules.items()},
        "optimisers": {name: o.state_dict() for name, o in state.optimisers.items()},
        "step": state.step,
        "runtime": runtime.state(),
        "curves": curves.state() if curves is not None else None,
    }
    with publish(checkpoint.file) as temporary:
        torch.save(content, temporary)


def _resume(
    state: TrainState, checkpoint: Checkpoint, curves: "Curves | None", runtime: Runtime
) -> None:
    if not checkpoint.file.exists():
        return
    content = torch.load(checkpoint.file, weights_only=True, map_location="cpu")
    for name, module in state.modules.items():
        module.load_state_dict(content["modules"][name])
    for name, optimiser in state.optimisers.items():
        optimiser.load_state_dict(content["optimisers"][name])
    state.step = content["step"]
    runtime.restore(content["runtime"])
    if curves is not None and content["curves"] is not None:
        curves.restore(content["curves"])
    log.info("resuming at step %d from %s", state.step, checkpoint.file)


# --- curves --------------------------------------------------------------------------------------


class Curves:
    """Training curves, averaged over windows of steps, written by dvclive for `dvc plots`."""

    def __init__(self, folder: Path, *, every: int) -> None:
        self._points: list[tuple[int, str, float]] = []
        self._window: dict[str, list[float]] = {}
        self._last_step = 0
        self._folder = folder
        self._every = every

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add one step's values; a value that a step lacks is averaged over the steps that have it."""
        for key, value in values.items():
            self._window.setdefault(key, []).append(value)
        self._last_step = step + 1
        if self._last_step % self._every == 0:
            self._close_window()

    def _close_window(self) -> None:
        for key, values in self._window.items():
            self._points.append((self._last_step, key, sum(values) / len(values)))
        self._window = {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"points": self._points, "window": self._window, "last_step": self._last_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._points, self._window = list(state["points"]), dict(state["window"])
        self._last_step = state["last_step"]

    def write(self) -> None:
        """Publish the curves as a dvclive folder: plots/metrics/<name>.tsv and metrics.json."""
        from dvclive import Live

        self._close_window()
        with publish(self._folder) as temporary:
            options: dict[str, Any] = {"dvcyaml": None, "save_dvc_exp": False, "report": None}
            with Live(str(temporary), monitor_system=False, **options) as live:
                for step, key, value in self._points:
                    live.step = step
                    live.log_metric(key, round(value, 6))
                live.make_summary()
