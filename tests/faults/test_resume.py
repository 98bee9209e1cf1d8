"""Faults 8, 9, 10: the same bytes in any process, after any kill, and never from another run."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages.command import scratch
from tests import tiny
from zslib.backbones.trained import Backbone
from zslib.datasets.views import BatchOrder
from zslib.methods import supervised
from zslib.params.training import OptimiserParams
from zslib.training import Checkpoint, SingleProcess, TrainState, build_optimiser, train

# --- fault 8: the same bytes in a fresh process --------------------------------------------------

ARTIFACTS = (
    *("extracted.h5", "bank.h5", "tuning.h5", "labels.h5"),
    *("spnet/classifier.safetensors", "spnet/held_out/0.safetensors", "generator"),
    *("zs3net/classifier.safetensors", "zs3net/held_out/0.safetensors"),
)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, project: Path) -> list[Path]:
    folders = [tmp_path_factory.mktemp(f"hash{seed}") for seed in (1, 2)]
    running = []
    for seed, folder in enumerate(folders, start=1):
        changed = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.faults.write_everything", str(folder)]
        running.append(subprocess.Popen(command, env=os.environ | changed, cwd=folder))
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    return folders


@pytest.mark.parametrize("name", ARTIFACTS)
def test_fault_8_two_processes_write_the_same_bytes(two_processes: list[Path], name: str) -> None:
    one, two = ((folder / name).read_bytes() for folder in two_processes)
    assert one == two


# --- fault 9: killed and resumed -----------------------------------------------------------------


def noisy_run(
    folder: Path | None, *, dies_after: int | None = None, seconds: float = 0
) -> dict[str, Tensor]:
    """Train a small network with dropout, batch norm, momentum, on data in a random order."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )
    optimiser = build_optimiser(OptimiserParams(name="adamw", lr=0.01), model.parameters())
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    order = BatchOrder(20, 4, section="backbone", seed=0)
    done: list[int] = []

    def batches(start: int) -> Iterator[Tensor]:
        for keys in order.batches(start, 24):
            yield data[[position for _, position in keys]]

    def step(batch: Tensor) -> dict[str, Tensor]:
        if len(done) == dies_after:
            raise tiny.KilledError
        done.append(1)
        loss = (model(batch) + torch.rand(2)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach()}

    train(
        TrainState({"model": model}, {"adam": optimiser}),
        step,
        batches,
        steps=24,
        seed=0,
        name="test",
        runtime=SingleProcess(),
        checkpoint=Checkpoint(folder, seconds) if folder else None,
    )
    return model.state_dict()


@pytest.mark.parametrize("kills", [(12,), (1,), (23,), (5, 5, 5)])
def test_fault_9_resumed_training_gives_identical_weights(
    tmp_path: Path, kills: tuple[int, ...]
) -> None:
    expected = noisy_run(None)
    for dies_after in kills:
        with pytest.raises(tiny.KilledError):
            noisy_run(tmp_path, dies_after=dies_after)
        torch.rand(3)
    found = noisy_run(tmp_path)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("seconds", [0, 1e9])
def test_fault_9_a_finished_run_is_resumed_without_a_step(tmp_path: Path, seconds: float) -> None:
    """Else a stage killed after training would train once more, beside what it made of the first."""
    expected = noisy_run(tmp_path, seconds=seconds)
    found = noisy_run(tmp_path, dies_after=0)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_fault_9_a_killed_backbone_gives_identical_weights(tmp_path: Path) -> None:
    maps = tiny.block_maps(8, [0, 1, 2])
    images = tiny.write_images(tmp_path / "images", maps)

    def fit(folder: Path, **options: int) -> Backbone:
        return supervised.fit(
            images,
            maps,
            tiny.SPLIT,
            tiny.backbone(epochs=4, dropout=0.5),
            seed=0,
            compute=tiny.CPU,
            runtime=SingleProcess(),
            checkpoint=Checkpoint(folder, 0),
            curves=tiny.RecordedCurves(**options),
        )

    with pytest.raises(tiny.KilledError):
        fit(tmp_path / "killed", dies_after=5)
    assert (tmp_path / "killed" / "state.pt").exists()
    fit(tmp_path / "whole").save(tmp_path / "whole.safetensors")
    fit(tmp_path / "killed").save(tmp_path / "killed.safetensors")
    whole, killed = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("whole", "killed"))
    assert whole == killed


# --- fault 10: never from another run ------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    paths = [Path("images.json"), Path("labels.h5")]
    for path in paths:
        path.write_text("content")
    return paths


def folder_for(out: Path, inputs: list[Path], sections: list[object]) -> Path:
    """Return the scratch folder of a run that is killed."""
    folders = []

    def run() -> None:
        with scratch(out, inputs, sections) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            folders.append(folder)
            raise tiny.KilledError

    with pytest.raises(tiny.KilledError):
        run()
    return folders[0]


OUT = Path("artifacts/world/u4/backbone")
SECTIONS = [tiny.backbone(epochs=3), 0]


def test_fault_10_a_killed_run_finds_its_scratch_folder_again(inputs: list[Path]) -> None:
    first = folder_for(OUT, inputs, SECTIONS)
    (first / "state.pt").write_text("state")
    assert folder_for(OUT, inputs, [tiny.backbone(epochs=3), 0]) == first
    assert (first / "state.pt").read_text() == "state"


def test_fault_10_other_parameters_inputs_or_outputs_do_not(inputs: list[Path]) -> None:
    folders = {folder_for(OUT, inputs, SECTIONS)}
    folders.add(folder_for(OUT, inputs, [tiny.backbone(epochs=4), 0]))
    folders.add(folder_for(OUT, inputs, [tiny.backbone(epochs=3), 1]))
    folders.add(folder_for(OUT.with_name("other"), inputs, SECTIONS))
    inputs[1].write_text("contenT")
    folders.add(folder_for(OUT, inputs, SECTIONS))
    assert len(folders) == 5


def test_fault_10_what_moves_from_one_input_to_the_next_is_a_change(inputs: list[Path]) -> None:
    first = folder_for(OUT, inputs, SECTIONS)
    inputs[0].write_text("contentc")
    inputs[1].write_text("ontent")
    assert folder_for(OUT, inputs, SECTIONS) != first


@pytest.mark.parametrize(
    ("loaded_as", "name", "is_in_the_key"),
    [
        ("zslib.new", "zslib.new", True),
        ("stages.new", "stages.new", True),
        ("__main__", "stages.new", True),  # as `python -m` loads a stage
        ("zslib.params.new", "zslib.params.new", False),
        ("new", "new", False),
    ],
)
def test_fault_10_nor_does_other_code(
    inputs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    loaded_as: str,
    name: str,
    is_in_the_key: bool,
) -> None:
    source = Path("new.py")
    source.write_text("loss = 1")
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    monkeypatch.setitem(sys.modules, loaded_as, importlib.util.module_from_spec(spec))
    first = folder_for(OUT, inputs, SECTIONS)
    source.write_text("loss = 2")
    assert (folder_for(OUT, inputs, SECTIONS) != first) == is_in_the_key


@pytest.mark.parametrize("rank", [0, 1])
def test_what_other_parameters_left_goes_first_and_by_one_process(
    inputs: list[Path], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """It may be most of the disk: the new run could find no room beside it."""
    stale, elsewhere = folder_for(OUT, inputs, [1]), folder_for(OUT.with_name("b"), inputs, [1])
    monkeypatch.setenv("RANK", str(rank))
    folder_for(OUT, inputs, [2])
    assert stale.exists() == (rank == 1)
    assert elsewhere.exists()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_finished_run_removes_its_scratch_and_keeps_its_artifact(
    inputs: list[Path], tmp_path: Path, absolute: bool
) -> None:
    out = tmp_path / OUT if absolute else OUT
    stale = folder_for(out, inputs, [1])
    with scratch(out, inputs, [2]) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.pt").write_text("state")
        out.mkdir(parents=True, exist_ok=True)
        (out / "network").write_text("published")
    assert (out / "network").read_text() == "published"
    assert not folder.exists()
    assert not stale.exists(), "what other parameters left behind goes too"
    assert [p.name for p in out.iterdir()] == ["network"]
