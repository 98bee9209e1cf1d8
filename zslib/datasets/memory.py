"""How much memory is left, on this machine and in the control groups that a cluster runs jobs in."""

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Return how many bytes may still be taken; 0 where the system does not tell (only Linux does)."""
    try:
        machine = _numbers(_PROC / "meminfo")["MemAvailable:"] * 1024
        return max(0, min([machine, *_left_in_groups()]))
    except (OSError, KeyError, IndexError, ValueError):
        return 0


def _left_in_groups() -> Iterator[int]:
    """Yield what is left in each group around this process that has a limit (cgroup v2)."""
    own = (line for line in _lines(_PROC / "self/cgroup") if line.startswith("0::"))
    for group in (_GROUPS / line.removeprefix("0::/") for line in own):
        for folder in (group, *group.parents):
            limit = _lines(folder / "memory.max")
            if limit and limit[0] != "max":
                # Files that were read are counted as used, and given up when memory is asked for.
                stat = _numbers(folder / "memory.stat")
                files = stat.get("inactive_file", 0) + stat.get("active_file", 0)
                yield int(limit[0]) - int(_lines(folder / "memory.current")[0]) + files


def _numbers(path: Path) -> dict[str, int]:
    """Return a file's lines of a name and a number."""
    words = (line.split() for line in _lines(path))
    return {name: int(number) for name, number, *_ in words}


def _lines(path: Path) -> list[str]:
    """Return a file's lines; none if there is no such file."""
    return path.read_text().splitlines() if path.exists() else []
