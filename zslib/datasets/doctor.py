"""What is missing or wrong in a dataset folder, said before any work starts.

Each file is read and decoded once. `diagnose` (behind `zslib doctor`) reports everything it finds;
the index stage runs the same examination, and refuses to write an index unless it finds nothing.
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.decode import checksum, decode_image, decode_label_map, read_bytes
from zslib.datasets.layouts import Dataset, open_dataset
from zslib.datasets.lists import ROLES, Role, read_ids
from zslib.errors import InputError
from zslib.params.benchmark import DatasetParams

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which file, what, and what to do."""

    path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"

    @classmethod
    def of(cls, error: InputError) -> "Problem":
        """Take an error message of the form `path: what; remedy` apart."""
        path, _, rest = str(error).partition(": ")
        what, _, remedy = rest.rpartition("; ")
        return cls(path, what, remedy)


@dataclass(frozen=True)
class CheckedPair:
    """A photograph and its label map after examination; sizes and checksums as far as known."""

    id: str
    role: Role
    image_path: Path
    label_path: Path
    size: tuple[int, int] | None
    """Width, height."""
    image_xxh3: str
    label_xxh3: str
    pixels: dict[int, int]
    """Class id (255: void) -> number of pixels."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class RoleSummary:
    """What the images of one role hold, over all label maps that could be read."""

    role: Role
    images: int
    void_share: float
    """Void pixels / all pixels."""
    absent_classes: tuple[int, ...]
    """Class ids without a single pixel."""

    def __str__(self) -> str:
        absent = ", ".join(str(c) for c in self.absent_classes) or "none"
        return (
            f"{self.role}: {self.images} images, {self.void_share:.2%} of the pixels void, "
            f"classes never present: {absent}"
        )


@dataclass(frozen=True)
class Diagnosis:
    """Everything an examination found out."""

    pairs: tuple[CheckedPair, ...]
    problems: tuple[Problem, ...]
    summary: tuple[RoleSummary, ...]


def diagnose(
    params: DatasetParams, *, num_classes: int, workers: int = 1, progress: Progress | None = None
) -> Diagnosis:
    """Examine the dataset that `params` describes; never raises for what is wrong with it."""
    try:
        dataset = open_dataset(params)
    except InputError as error:
        return Diagnosis((), (Problem.of(error),), ())
    return examine(dataset, num_classes=num_classes, workers=workers, progress=progress)


def examine(
    dataset: Dataset, *, num_classes: int, workers: int = 1, progress: Progress | None = None
) -> Diagnosis:
    """Check the lists, then read and decode each listed file once, in `workers` processes."""
    problems = [p for role in ROLES for p in _list_problems(dataset, role)]
    jobs = [job for role in ROLES for job in _jobs(dataset, role, num_classes)]
    problems += _overlap_problems(dataset, jobs)
    pairs = []
    for pair in _run(jobs, workers):
        pairs.append(pair)
        problems += pair.problems
        if progress:
            progress(len(pairs), len(jobs))
    summary = tuple(_summarise(role, pairs, num_classes) for role in ROLES)
    return Diagnosis(tuple(pairs), tuple(problems), summary)


# --- lists ---------------------------------------------------------------------------------------


def _list_problems(dataset: Dataset, role: Role) -> Iterator[Problem]:
    for path in dataset.list_files(role):
        try:
            counts = Counter(read_ids(path))
        except InputError as error:
            yield Problem.of(error)
            continue
        for name, count in counts.items():
            if count > 1:
                what = f"lists '{name}' {count} times"
                yield Problem(str(path), what, "keep one of the lines")


def _overlap_problems(dataset: Dataset, jobs: list["_Job"]) -> Iterator[Problem]:
    train, val = ({job.id for job in jobs if job.role == role} for role in ROLES)
    for name in sorted(train & val):
        path = next(iter(dataset.list_files("val")), dataset.root)
        what = f"lists '{name}', which is a training image too"
        yield Problem(str(path), what, "remove it from one of the two")


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    id: str
    role: Role
    image_path: Path
    label_path: Path
    num_classes: int
    lookup: tuple[int, ...] | None


def _jobs(dataset: Dataset, role: Role, num_classes: int) -> list[_Job]:
    try:
        return [
            _Job(
                name,
                role,
                dataset.image_path(name),
                dataset.label_path(name),
                num_classes,
                dataset.label_lookup,
            )
            for name in dataset.ids(role)
        ]
    except InputError:  # a list is missing or empty: reported by _list_problems
        return []


def _run(jobs: list[_Job], workers: int) -> Iterator[CheckedPair]:
    """Yield the result of each job, in order."""
    if workers <= 1:
        yield from map(_check_pair, jobs)
        return
    # spawn: a forked child could inherit locks held by threads of numerical libraries.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_check_pair, jobs, chunksize=32)


def _check_pair(job: _Job) -> CheckedPair:
    problems: list[Problem] = []
    size, image_xxh3 = None, ""
    try:
        data = read_bytes(job.image_path)
        image_xxh3 = checksum(data)
        size = decode_image(data, job.image_path).size
    except InputError as error:
        problems.append(Problem.of(error))
    label_map, label_xxh3 = None, ""
    try:
        data = read_bytes(job.label_path)
        label_xxh3 = checksum(data)
        label_map = decode_label_map(data, job.label_path, job.num_classes, lookup=job.lookup)
    except InputError as error:
        problems.append(Problem.of(error))
    if size and label_map is not None and label_map.shape != size[::-1]:
        problems.append(_size_mismatch(job, size, label_map))
    return CheckedPair(
        job.id,
        job.role,
        job.image_path,
        job.label_path,
        size,
        image_xxh3,
        label_xxh3,
        _pixel_counts(label_map),
        tuple(problems),
    )


def _size_mismatch(job: _Job, size: tuple[int, int], label_map: np.ndarray) -> Problem:
    height, width = label_map.shape
    what = f"is {width}x{height} pixels, its image {job.image_path} is {size[0]}x{size[1]}"
    return Problem(str(job.label_path), what, "get the label map that belongs to the image")


def _pixel_counts(label_map: np.ndarray | None) -> dict[int, int]:
    if label_map is None:
        return {}
    counts = np.bincount(label_map.reshape(-1))
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def _summarise(role: Role, pairs: list[CheckedPair], num_classes: int) -> RoleSummary:
    pixels: Counter[int] = Counter()
    for pair in pairs:
        if pair.role == role:
            pixels.update(pair.pixels)
    total = pixels.total()
    return RoleSummary(
        role=role,
        images=sum(pair.role == role for pair in pairs),
        void_share=pixels[IGNORE_INDEX] / total if total else 0.0,
        absent_classes=tuple(c for c in range(num_classes) if not pixels[c]),
    )
