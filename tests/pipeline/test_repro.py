"""Several stages at a time, in a project of four shell commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
# Each of the pair writes that it has begun, and waits for the other to have begun.
MEET = (
    "touch {me}.began && for _ in $(seq 600); do [ -e {other}.began ] && break; sleep 0.1; done; "
    "[ -e {other}.began ] && cp input.txt {me}"
)


class Shell:
    """A DVC project whose stages are shell commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "input.txt").write_text("1")
        self.call("git", "init", "--quiet")
        self.call(sys.executable, "-m", "dvc", "init", "--quiet")

    def write(self, **stages: tuple[str, list[str]]) -> None:
        """Write dvc.yaml from name -> (command, dependencies); each writes a file of its name."""
        content = {
            name: {"cmd": cmd, "deps": deps, "outs": [name]} for name, (cmd, deps) in stages.items()
        }
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": content}))

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(),
            text=True,
            capture_output=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tools.repro", *arguments]
        return subprocess.Popen(command, cwd=self.root, env=self.environment(), text=True)

    def repro(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "tools.repro", *arguments)

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(PROJECT), "DVC_NO_ANALYTICS": "1"}


def is_running(pid: int) -> bool:
    """Whether a process still does anything: one that ended and that nobody asked about does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_what_runs_behind_the_lists_of_code_is_known_once_they_are_written(shell: Shell) -> None:
    shell.write(code=("cut -c 1 input.txt > code", ["input.txt"]), last=("cp code last", ["code"]))
    assert shell.repro().returncode == 0
    (shell.root / "input.txt").write_text("1, remarked upon")
    done = shell.repro()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage 'code'" in done.stdout
    assert "'last'" not in done.stdout
    (shell.root / "input.txt").write_text("2")
    assert "Running stage 'last'" in shell.repro().stdout


def test_what_dvc_refuses_is_one_line(shell: Shell) -> None:
    shell.write(one=("cp input.txt one", ["input.txt"]))
    missing = shell.repro("another")
    assert missing.returncode == 2
    (line,) = missing.stderr.splitlines()
    assert line.startswith("error: ")
    assert "another" in line
    (shell.root / "dvc.yaml").write_text("stages: {one: {cmd: true, deps: [}}")
    broken = shell.repro()
    assert broken.returncode == 2
    (line,) = broken.stderr.splitlines()
    assert "dvc.yaml" in line


def test_stages_that_do_not_need_each_other_run_at_the_same_time(shell: Shell) -> None:
    shell.write(
        left=(MEET.format(me="left", other="right"), ["input.txt"]),
        right=(MEET.format(me="right", other="left"), ["input.txt"]),
        both=("cat left right > both", ["left", "right"]),
    )
    done = shell.repro("--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (shell.root / "both").read_text() == "11"
    plain = shell.call(sys.executable, "-m", "dvc", "repro")
    assert "Data and pipelines are up to date." in plain.stdout, "it leaves nothing to DVC"
    assert "Running stage" not in shell.repro().stdout


def test_only_what_changed_and_what_stands_behind_it_runs(shell: Shell) -> None:
    shell.write(
        a=("cp input.txt a", ["input.txt"]), b=("echo b > b", []), c=("cat a b > c", ["a", "b"])
    )
    assert shell.repro().returncode == 0
    (shell.root / "input.txt").write_text("2")
    ran = [line for line in shell.repro().stdout.splitlines() if "Running stage" in line]
    assert [line.split("'")[1] for line in ran] == ["a", "c"]
    assert (shell.root / "c").read_text() == "2b\n"


def test_targets_bring_what_they_depend_on_and_nothing_else(shell: Shell) -> None:
    shell.write(a=("echo a > a", []), b=("echo b > b", []), c=("cat a > c", ["a"]))
    assert shell.repro("c").returncode == 0
    assert (shell.root / "c").exists()
    assert not (shell.root / "b").exists()


def test_a_failure_starts_nothing_new_and_keeps_what_is_done(shell: Shell) -> None:
    shell.write(a=("echo a > a", []), b=("cat a; exit 3", ["a"]), c=("cat b > c", ["b"]))
    done = shell.repro("--jobs", "1")
    assert done.returncode == 1
    assert "b: failed (see above)" in done.stderr
    assert (shell.root / "a").exists()
    assert "'c'" not in done.stdout


def test_each_job_has_a_gpu_of_its_own(shell: Shell) -> None:
    tell = "echo $CUDA_VISIBLE_DEVICES > {me}.gpu; " + MEET.replace("input.txt", "{me}.gpu")
    shell.write(
        one=(tell.format(me="one", other="two"), []), two=(tell.format(me="two", other="one"), [])
    )
    assert shell.repro("--gpus", "4,7").returncode == 0
    assert {(shell.root / name).read_text().strip() for name in ("one", "two")} == {"4", "7"}


def test_told_to_end_it_ends_and_goes_on_later(shell: Shell) -> None:
    shell.write(a=("echo $$ > pid; [ -e again ] || exec sleep 600; echo a > a", []))
    process = shell.start()
    pid = shell.root / "pid"
    for _ in range(600):
        if pid.exists() and pid.read_text().strip():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not is_running(int(pid.read_text()))
    (shell.root / "again").touch()
    assert shell.repro().returncode == 0
    assert (shell.root / "a").read_text() == "a\n"
