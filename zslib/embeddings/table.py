"""One vector per class: the artifact `vectors`, and the recipes that make class embeddings of it.

A file holds the raw rows of one source (word2vec, fastText, ...), never normalised: every method
picks its own recipe at load. ZS3Net takes one source raw or divided by its largest row norm
(zs3net §3); SPNet takes two, each to unit norm, side by side, to unit norm again (spnet §6); JoEm's
second setting the same two, each divided by its own largest row norm (joem §6).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.errors import InputError

VECTORS = Schema("vectors/1", "vectors or embeddings")

Normalisation = Literal["none", "max", "max_each", "unit", "unit_joint"]


@dataclass(frozen=True, eq=False)
class ClassVectors:
    """The raw vectors of one source, one row per class in the benchmark's order.

    `rows` is (C, d) float32; `source` is the name used in messages; `made_from` (any JSON value)
    says which file or which training they come from.

    Raises:
        InputError: a row is not finite, is zero, or equals another; the message names the class.
    """

    source: str
    classes: tuple[str, ...]
    rows: np.ndarray
    made_from: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_rows(self.rows, classes=self.classes, source=self.source)


def save_class_vectors(path: Path, vectors: ClassVectors) -> None:
    """Publish one source as a safetensors file; the same vectors give the same bytes."""
    meta = {
        "source": vectors.source,
        "classes": list(vectors.classes),
        "made_from": dict(vectors.made_from),
    }
    save_tensors(path, {"rows": vectors.rows.astype(np.float32)}, schema=VECTORS, meta=meta)


def load_class_vectors(path: Path) -> ClassVectors:
    """Open and verify a file of `save_class_vectors`. Raises ArtifactError."""
    tensors, meta = load_tensors(path, schema=VECTORS)
    return ClassVectors(meta["source"], tuple(meta["classes"]), tensors["rows"], meta["made_from"])


def class_embeddings(
    sources: Sequence[ClassVectors], normalise: Normalisation = "none"
) -> np.ndarray:
    """Return the class embeddings (C, sum of d) float32 of one or more sources, side by side.

    - `none`: the raw rows.
    - `max`: everything divided by the largest row norm, one scalar (zs3net §3, VOC).
    - `max_each`: every source divided by the largest norm of its own rows (joem §6).
    - `unit`: every source row to unit norm, concatenated in the given order, the result to unit
      norm (spnet §6): the cosine of two classes is then the mean of their cosines per source.
    - `unit_joint`: the raw rows side by side to unit norm, so that the source of longer rows weighs
      more (cagnet §7, released for Pascal-Context).

    Raises:
        InputError: no source; the sources do not list the same classes in the same order; two
            classes cannot be told apart after normalisation.
    """
    _check_same_classes(sources)
    rows = [source.rows.astype(np.float64) for source in sources]
    embeddings = _RECIPES[normalise](rows).astype(np.float32)
    label = " + ".join(source.source for source in sources) + f" ({normalise})"
    check_rows(embeddings, classes=sources[0].classes, source=label)
    return embeddings


def check_rows(rows: np.ndarray, *, classes: Sequence[str], source: str) -> None:
    """Raise InputError unless every class has its own finite, non-zero row of `rows` (C, d)."""
    if rows.ndim != 2 or len(rows) != len(classes):
        raise InputError(f"{source}: {rows.shape} vectors for {len(classes)} classes")
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise InputError(f"{source}: class '{twice}' is listed twice; remove one")
    for name, row in zip(classes, rows, strict=True):
        if not np.isfinite(row).all():
            raise InputError(f"{source}: the vector of class '{name}' is not finite; {_REMEDY}")
        if not row.any():
            raise InputError(f"{source}: the vector of class '{name}' is zero; {_REMEDY}")
    if pair := _equal_pair(rows):
        first, second = (classes[position] for position in pair)
        raise InputError(
            f"{source}: classes '{first}' and '{second}' have the same vector; {_REMEDY}"
        )


_REMEDY = "give the class another word under `aliases`, or take another source"


def _check_same_classes(sources: Sequence[ClassVectors]) -> None:
    if not sources:
        raise InputError("class embeddings: no source of class vectors; name at least one")
    first = sources[0]
    for other in sources[1:]:
        if other.classes == first.classes:
            continue
        pairs = enumerate(zip(first.classes, other.classes, strict=False))
        differing = [f"class {i} is '{a}' and '{b}'" for i, (a, b) in pairs if a != b]
        what = [*differing, f"{len(first.classes)} and {len(other.classes)} classes"][0]
        raise InputError(
            f"{first.source} and {other.source}: the class lists differ ({what}); "
            "take sources made for the same benchmark"
        )


def _side_by_side(rows: list[np.ndarray]) -> np.ndarray:
    return np.hstack(rows)


def _over_largest_norm(rows: list[np.ndarray]) -> np.ndarray:
    table = np.hstack(rows)
    return table / np.linalg.norm(table, axis=1).max()


def _each_over_its_largest_norm(rows: list[np.ndarray]) -> np.ndarray:
    return np.hstack([_over_largest_norm([source]) for source in rows])


def _unit_each_and_joint(rows: list[np.ndarray]) -> np.ndarray:
    return _unit_rows(np.hstack([_unit_rows(r) for r in rows]))


def _unit_joint(rows: list[np.ndarray]) -> np.ndarray:
    return _unit_rows(np.hstack(rows))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


_RECIPES = {
    "none": _side_by_side,
    "max": _over_largest_norm,
    "max_each": _each_over_its_largest_norm,
    "unit": _unit_each_and_joint,
    "unit_joint": _unit_joint,
}


def _equal_pair(rows: np.ndarray) -> tuple[int, int] | None:
    """Return two positions whose rows agree to float32 precision, if there are any."""
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    squared = norms[:, None] ** 2 + norms[None] ** 2 - 2 * exact @ exact.T
    equal = np.triu(squared <= 1e-12 * np.maximum.outer(norms, norms) ** 2, k=1)
    return tuple(np.argwhere(equal)[0].tolist()) if equal.any() else None
