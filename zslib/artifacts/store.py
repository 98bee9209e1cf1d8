"""Big arrays in one HDF5 file: contiguous, unchunked, unfiltered, so that a reader can memory-map them.

One file is one artifact: a few arrays, made in a fixed order without timestamps (the same content
gives the same bytes), a schema, a JSON description of the source, a checksum per array, and
`complete`, written last. Sizes are known before the content (labels tell how many rows there will
be), so a file is allocated first and then filled through memory maps, by one process or by many.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import xxhash

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import check_schema
from zslib.errors import ArtifactError

Mode = Literal["r", "r+"]
State = Literal["lost", "unfinished", "finished"]

Room = tuple[tuple[int, ...], np.dtype]
"""Shape and type of an array that is filled later."""

_META = "meta"


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, schema: Schema, meta: Mapping[str, Any]
) -> None:
    """Publish small arrays (everything at hand) as one verified HDF5 file."""
    with publish(path) as temporary:
        allocate(temporary, arrays)
        finish(temporary, schema=schema, meta=meta)


def allocate(path: Path, arrays: Mapping[str, np.ndarray | Room]) -> None:
    """Create `path` with the arrays that are at hand, and room on disk for the others.

    Raises:
        OSError: ENOSPC, with the number of bytes needed: a full disk is noticed here, not later.
    """
    shapes = {n: (a.shape, a.dtype) if isinstance(a, np.ndarray) else a for n, a in arrays.items()}
    _reserve(path, sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()))
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, (shape, dtype) in shapes.items():
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_layout(h5py.h5d.CONTIGUOUS)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            layout.set_obj_track_times(False)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, layout)
    _reserve(path, path.stat().st_size)
    for name, array in arrays.items():
        if isinstance(array, np.ndarray):
            map_array(path, name, mode="r+")[...] = array


def _reserve(path: Path, size: int) -> None:
    # Not to append: where a file system cannot reserve, libc writes in its stead, and wants to read.
    with path.open("r+b" if path.exists() else "w+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as error:
            raise OSError(error.errno, f"{size / 2**20:.0f} MiB needed") from error


def finish(path: Path, *, schema: Schema, meta: Mapping[str, Any]) -> None:
    """Write the checksums, the description, and last of all `complete`."""
    # A file that is open for writing when its process dies cannot be opened again: be quick.
    with h5py.File(path, "r") as file:
        sums = {name: _checksum(_mapped(path, file[name], mode="r")) for name in file}
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        # Neither in an attribute nor as text: HDF5 keeps those where no checksum of its own guards
        # them, and can read for ever in what a flipped bit makes of them.
        file.create_dataset(_META, data=text, track_times=False)
        for name, digest in (sums | {_META: _checksum(text)}).items():
            file[name].attrs["xxh3_128"] = np.bytes_(digest)
        file.attrs["schema"] = np.bytes_(schema.name)
        file.flush()
        file.attrs["complete"] = True


def state(path: Path) -> State:
    """Tell how far a file of `allocate` is; lost is one that is not there, or was killed in `finish`."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("complete", False):
                return "finished"
            return "lost" if _META in file else "unfinished"
    except (OSError, RuntimeError):
        return "lost"


def map_array(path: Path, name: str, *, mode: Mode = "r") -> np.ndarray:
    """Memory-map one array of a file that `allocate` made, without checking anything."""
    with h5py.File(path, "r") as file:
        return _mapped(path, file[name], mode=mode)


def open_arrays(path: Path, *, schema: Schema) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Memory-map every array of a finished file, and return its description.

    Raises:
        ArtifactError: the file is missing, truncated, altered, unfinished, or not of this schema.
    """
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("schema", b"nothing")
            found = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
            check_schema(path, found=found, wanted=schema)
            if not file.attrs.get("complete", False):
                raise ArtifactError(f"{path}: was never completed; {schema.remedy}")
            arrays = {name: _mapped(path, file[name], mode="r") for name in file}
            sums = {name: file[name].attrs["xxh3_128"].decode() for name in file}
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); {schema.remedy}") from error
    for name, array in arrays.items():
        if _checksum(array) != sums[name]:
            raise ArtifactError(
                f"{path}: array '{name}' does not match its checksum; {schema.remedy}"
            )
    meta = json.loads(bytes(arrays.pop(_META)))
    return arrays, meta


def _mapped(path: Path, dataset: h5py.Dataset, *, mode: Mode) -> np.ndarray:
    if dataset.size == 0:
        return np.empty(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    return np.memmap(path, dataset.dtype, mode=mode, offset=offset, shape=dataset.shape)


def _checksum(array: np.ndarray) -> str:
    digest = xxhash.xxh3_128()
    flat = np.asarray(array).reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)
    step = 1 << 26
    for start in range(0, flat.size, step):
        digest.update(flat[start : start + step].data)
    return digest.hexdigest()
