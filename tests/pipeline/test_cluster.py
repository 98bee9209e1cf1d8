"""docs/cluster.md: its commands exist and compose; its scripts do what they say, with SLURM's variables
and an `srun` that starts two processes on this machine."""

import importlib
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.pipeline.trivial import Project
from tools.compose_params import compose
from zslib.cli import main
from zslib.params import load_params

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "cluster.md"
SCRIPTS = sorted((PROJECT / "docs" / "slurm").iterdir())

JOB = """
import torch
from stages.command import parallel_stage, stage

@KIND
def main(section, *, out):
    from zslib.training import start_runtime
    runtime = start_runtime(section("compute"))
    met = runtime.total(torch.ones(1)).item()
    if runtime.rank == 0:
        out.write_text(f"{met:.0f} of {runtime.world_size}")
    runtime.barrier()

if __name__ == "__main__":
    main()
"""
SRUN = """#!/bin/bash
export SLURM_STEP_NUM_TASKS=2
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || exit 1; done
"""


def commands() -> Iterator[list[str]]:
    """Every command of the page's code blocks, and of the scripts, as words."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    for text in [*blocks, *(script.read_text() for script in SCRIPTS)]:
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line.split("|")[0].replace("$(", " "), comments=True):
                yield words


COMMANDS = list(commands())


def overrides() -> Iterator[list[str]]:
    """What the commands give to Hydra."""
    for words in COMMANDS:
        if words[:2] == ["make", "params"]:
            yield words[2].removeprefix("ARGS=").split()
        elif words[:3] == ["dvc", "exp", "run"] and "$seed" not in words[-2]:
            yield [word for word in words[3:] if "=" in word]
        elif any(word.endswith("seeds.sbatch") for word in words):
            yield words[3:]


def test_every_script_is_told_of_and_every_one_told_of_exists() -> None:
    told = set(re.findall(r"[\w-]+\.sbatch", PAGE.read_text()))
    assert told == {script.name for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_make_targets_and_subcommands_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = {words[1] for words in COMMANDS if words[0] == "make"}
    assert targets == {"params", "repro"}
    assert all(re.search(rf"^{target}:.*##", makefile, re.M) for target in targets)
    known = {words[1]: words[2:] for words in COMMANDS if words[0] == "zslib"}
    for name, options in known.items():
        assert {o for p in main.commands[name].params for o in p.opts} >= set(options)


def test_stages_and_their_options_exist() -> None:
    (launched,) = (words for words in COMMANDS if words[0] == "torchrun")
    name = launched[launched.index("-m") + 1]
    options = {o for p in importlib.import_module(name).main.params for o in p.opts}
    assert {word for word in launched[launched.index(name) :] if word.startswith("--")} <= options
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    targets = {word for words in COMMANDS for word in words if "@" in word and "$" not in word}
    assert (
        {target.split("@")[0] for target in targets} == {"seen_labels", "backbone"} <= set(stages)
    )


def test_the_table_says_how_each_stage_runs() -> None:
    told = re.findall(r"^\| (.*process.*) \| (`.*`) \|$", PAGE.read_text(), re.M)
    found: dict[str, set[str]] = {}
    for how, names in told:
        found.setdefault(how.split(":")[0], set()).update(re.findall(r"`(\w+)`", names))
    alone, started = stages_that_say("^@stage$"), stages_that_say("start_runtime|^@end_to_end$")
    assert found == {
        "a process for each GPU": stages_that_say("^@parallel_stage$"),
        "one process, on a GPU": alone & started,
        "one process, on the CPU": alone - started,
    }


def stages_that_say(pattern: str) -> set[str]:
    """Return the modules of `stages` whose text has a pattern."""
    files = (PROJECT / "stages").glob("*.py")
    return {file.stem for file in files if re.search(pattern, file.read_text(), re.M)}


@pytest.mark.parametrize("changes", list(overrides()), ids=" ".join)
def test_overrides_compose_to_valid_parameters(changes: list[str], tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", *changes)
    load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", sorted(stages_that_say("^@end_to_end$")))
def test_end_to_end_stages_refuse_fp16_before_they_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.command._die_with_parent", lambda: None)
    compose(tmp_path / "params.yaml", "compute.precision=fp16")
    main = importlib.import_module(f"stages.{name}").main
    needed = (option.opts[0] for option in main.params if option.required)
    words = [word for option in needed for word in (option, str(PAGE))]
    result = CliRunner().invoke(main, [*words, "--out", "out"])
    assert result.exit_code == 2
    assert "error: compute.precision: 'fp16' needs scaled gradients" in result.stderr


# --- the scripts, run ----------------------------------------------------------------------------


def project_of(root: Path, stages: dict, params: dict) -> Project:
    """A committed project with an environment to activate, and with `srun`."""
    made = Project.create(root, stages=stages, params=params)
    made.write(".venv/bin/activate", 'export PATH="$PWD/bin:$PATH"\n')
    made.write("bin/srun", SRUN)
    (root / "bin" / "srun").chmod(0o755)
    made.write(".gitignore", "scratch/\n.venv/\n")
    made.write("job.py", JOB.replace("KIND", "parallel_stage"))
    made.commit()
    return made


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of one stage whose processes count each other; two of them on the CPU."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    compose(tmp_path / "params.yaml", "compute.device=cpu", "compute.devices=2")
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    stages = {
        "code": {"cmd": "cp job.py list", "deps": ["job.py"], "outs": ["list"]},
        "count": {"cmd": "exec python job.py --out met", "deps": ["list"], "outs": ["met"]},
    }
    return project_of(tmp_path / "project", stages, params)


def in_job(monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    """Set what SLURM sets in a job of one machine."""
    names = {"NTASKS": tasks, "NTASKS_PER_NODE": tasks, "NNODES": 1, "NODEID": 0, "PROCID": 0}
    names |= {"JOB_ID": 4711, "LOCALID": 0, "CPUS_PER_TASK": 8}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def script(name: str) -> str:
    return str(PROJECT / "docs" / "slurm" / name)


def test_processes_of_srun_find_each_other_and_dvc_knows_their_artifact(
    job: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, tasks=2)
    job.call("bash", script("stage.sbatch"), "count")
    assert (job.root / "met").read_text() == "2 of 2"
    assert "up to date" in job.call("dvc", "status")


@pytest.mark.parametrize(
    "launched", [{"WORLD_SIZE": "2", "RANK": "1"}, {"SLURM_STEP_NUM_TASKS": "2"}], ids="-".join
)
def test_one_of_several_processes_is_refused_by_a_stage_of_one(
    job: Project, monkeypatch: pytest.MonkeyPatch, launched: dict[str, str]
) -> None:
    """Each of them would do all the work, with its own randomness, and write the same file."""
    job.write("alone.py", JOB.replace("KIND", "stage"))
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "alone.py", "--out", "met"]
    done = subprocess.run(command, cwd=job.root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: met: is made by one process, and 2 were started; start it without torchrun, or "
        "with --ntasks=1 (docs/cluster.md says which stages share their work)"
    ]
    assert not (job.root / "met").exists()


def test_a_stage_of_one_process_finds_one_device(job: Project) -> None:
    job.write("alone.py", JOB.replace("KIND", "stage"))
    job.call("python", "alone.py", "--out", "met")
    assert (job.root / "met").read_text() == "1 of 1"


def test_without_srun_a_stage_starts_its_processes_where_the_job_is_called_interactive(
    job: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, tasks=1)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    job.call("python", "job.py", "--out", "met")
    assert (job.root / "met").read_text() == "2 of 2"


def test_repro_gives_each_of_four_workers_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, tasks=1)
    project = Project(tmp_path)
    project.write(
        "bin/make", '#!/bin/bash\nprintf "%s\\n" "$SLURM_JOB_NAME $OMP_NUM_THREADS" "$@"\n'
    )
    (tmp_path / "bin" / "make").chmod(0o755)
    done = project.call("bash", "-c", f'PATH="$PWD/bin:$PATH" bash "{script("repro.sbatch")}" maps')
    assert done.splitlines() == ["interactive 2", "repro", "JOBS=4", "ARGS=--gpus 0,1,2,3 maps"]


def test_seeds_come_back_as_experiments_with_their_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, tasks=1)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    stages = {"draw": {"cmd": "echo ${seed} ${lr} > drawn", "params": ["lr"], "outs": ["drawn"]}}
    project = project_of(tmp_path / "project", stages, {"seed": 0, "lr": 1})
    project.call("bash", script("seeds.sbatch"), "lr=5")
    assert project.call("dvc", "exp", "list", "--name-only").split() == ["seed1"]
    project.call("dvc", "exp", "apply", "seed1")
    assert (project.root / "drawn").read_text() == "1 5\n"
