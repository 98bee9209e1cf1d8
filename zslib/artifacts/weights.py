"""Named arrays in one safetensors file: network weights, class vectors, calibration tables.

The header carries exactly one metadata key (several would be written in hash order, and the bytes
would differ from run to run): sorted JSON with the schema, what the file was made from, and a
checksum of the payload, which safetensors itself does not have.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.errors import ArtifactError

_KEY = "zslib"


def save_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], *, schema: Schema, meta: Mapping[str, Any]
) -> None:
    """Publish `tensors` at `path`; `meta` is any JSON value that says where they come from."""
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    header = {"schema": schema.name, "xxh3_128": _checksum(arrays, meta), "meta": dict(meta)}
    with publish(path) as temporary:
        temporary.write_bytes(save(arrays, {_KEY: json.dumps(header, sort_keys=True)}))


def load_tensors(path: Path, *, schema: Schema) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors of a file written by `save_tensors`, and its `meta`.

    Raises:
        ArtifactError: the file is missing, truncated, altered, or not of this schema.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(json.loads((file.metadata() or {}).get(_KEY, "{}")))
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); {schema.remedy}") from error
    check_schema(path, found=header.get("schema"), wanted=schema)
    if header.get("xxh3_128") != _checksum(arrays, header.get("meta", {})):
        raise ArtifactError(f"{path}: content does not match its checksum; {schema.remedy}")
    return arrays, header["meta"]


def check_schema(path: Path, *, found: object, wanted: Schema) -> None:
    """Raise ArtifactError unless the file's schema (name/version) is the one asked for."""
    if found != wanted.name:
        raise ArtifactError(f"{path}: holds {found!r}, not {wanted.name!r}; {wanted.remedy}")


def _checksum(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    digest = xxhash.xxh3_128(json.dumps(meta, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
