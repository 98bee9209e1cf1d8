"""Files from others, read without running any code that they may hold."""

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zslib.datasets.decode import read_bytes
from zslib.errors import InputError


@dataclass(frozen=True)
class ReleasedFile:
    """Named tensors of one file, in the order in which the network's layers were defined."""

    path: Path
    tensors: Mapping[str, Tensor]

    def below(self, prefix: str) -> "ReleasedFile":
        """Return the tensors whose names begin with `prefix`, without it.

        Raises:
            InputError: there is none.
        """
        inside = {
            n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)
        }
        if not inside:
            raise InputError(
                f"{self.path}: no tensor begins with '{prefix}' (the first is "
                f"'{next(iter(self.tensors))}'); import it as what it is"
            )
        return replace(self, tensors=inside)


def read_checkpoint(path: Path, *, entry: str | None = None) -> ReleasedFile:
    """Read a file of torch.save; no other code than torch's own runs.

    A file may hold the tensors themselves, or several entries (an epoch, an optimiser) of which one
    does. A prefix that all names share goes: `module.` of a parallel wrapper (the seven characters of
    zs3net §2), `scale.` of SPNet's files (cagnet §10.B6).

    Args:
        path: the file.
        entry: which entry to take, where several hold tensors.

    Raises:
        InputError: the file cannot be read safely, or it is not clear where its tensors are.
    """
    path = Path(path)
    content = _load(path)
    tables = {"": content} if _is_table(content) else _entries(content)
    if entry is not None:
        tables = {name: table for name, table in tables.items() if name == entry}
    if len(tables) != 1:
        names = ", ".join(f"'{name}'" for name in _entries(content)) or "none"
        raise InputError(
            f"{path}: not one entry holds the tensors of a network (those that do: {names}); "
            "choose with --entry"
        )
    (tensors,) = tables.values()
    prefix = _shared_prefix(list(tensors))
    return ReleasedFile(path, {name.removeprefix(prefix): t for name, t in tensors.items()})


def read_table(path: Path) -> Float[np.ndarray, "c d"]:
    """Read class vectors, one row per class: .npy, or a .pkl that holds one array (cagnet §1).

    Raises:
        InputError: the file cannot be read without running code, or holds no table of numbers.
    """
    path = Path(path)
    _refuse_absent(path)
    data = io.BytesIO(read_bytes(path))
    try:
        if path.suffix == ".npy":
            table = np.load(data, allow_pickle=False)
        else:
            table = _ArrayUnpickler(data, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path}: {_one_line(error)}; {_VECTORS}") from error
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind != "f":
        raise InputError(f"{path}: holds no table of numbers, one row per class; {_VECTORS}")
    return table.astype(np.float32)


_VECTORS = "give an array saved by numpy, or a pickle of one"


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a numpy array is made of, and nothing that could run code."""

    ADMITTED = re.compile(
        r"numpy\.(_core|core)\.multiarray\._reconstruct|numpy\.(_core|core)\.numeric\._frombuffer"
        r"|numpy\.(ndarray|dtype)"
    )

    def find_class(self, module: str, name: str) -> Any:
        if not self.ADMITTED.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it holds {module}.{name}, not only an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _refuse_absent(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: {reason}; give the file that was released") from error


def _load(path: Path) -> Any:
    _refuse_absent(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what a damaged byte, or a refused global, leads it to
        raise InputError(
            f"{path}: cannot be read as tensors alone ({_one_line(error)}); save its state dict "
            "anew with the code that made it"
        ) from error


def _entries(content: Any) -> dict[str, Mapping[str, Tensor]]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if _is_table(value)}


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in value.items())
    )


def _shared_prefix(names: list[str]) -> str:
    """Return the longest dotted prefix that all names share and none consists of."""
    first, *others = ([*name.split(".")[:-1]] for name in names)
    shared = 0
    while shared < len(first) and all(o[shared : shared + 1] == [first[shared]] for o in others):
        shared += 1
    return "".join(f"{part}." for part in first[:shared])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
