"""Random reads from the pixel bank against the other ways to read rows of an HDF5 file.

All of it in the page cache: what is compared is the way of reading, not the disk.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from jaxtyping import Float16, Int64

from benchmarks.material import draw_bank
from benchmarks.measure import Goal, Result, time_side_by_side
from zslib.artifacts.features import PixelBank

Rows = Int64[np.ndarray, " k"]
Features = Float16[np.ndarray, "k d"]


def measure(
    *,
    images: int = 1200,
    rows_per_image: int = 256,
    dimension: int = 256,
    rows: int = 4096,
    repeats: int = 15,
) -> list[Result]:
    """Time reads of `rows` random rows; on average a VOC image has some 250 in its bank."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        path, groups = Path(name) / "bank.h5", Path(name) / "groups.h5"
        bank = draw_bank(path, images=images, rows_per_image=rows_per_image, dimension=dimension)
        write_groups(groups, bank)
        with h5py.File(path, "r") as contiguous, h5py.File(groups, "r") as per_image:
            contestants: dict[str, Callable[[Rows], object]] = {
                "PixelBank.gather, to float32": bank.gather,
                "np.memmap": lambda wanted: bank.features[wanted],
                "np.memmap, to float32": lambda wanted: bank.features[wanted].astype(np.float32),
                "h5py, fancy index": lambda wanted: fancy_index(contiguous["features"], wanted),
                "h5py, a group per image": lambda wanted: from_groups(per_image, wanted, bank),
            }

            def draw() -> Rows:
                return rng.integers(0, images * rows_per_image, rows)

            refuse_disagreement(contestants, draw())
            seconds = time_side_by_side(contestants, draw, repeats=repeats)
    sizes = {
        "bank rows": images * rows_per_image,
        "images": images,
        "dimension": dimension,
        "repeats": repeats,
    }
    return [
        Result(
            f"sampling: {rows} random rows of a pixel bank in the page cache",
            sizes,
            seconds,
            reference="np.memmap",
            amount=rows,
            unit="rows",
            goal=Goal(
                "PixelBank.gather, to float32", 2.0, "PixelBank.gather within 2x of np.memmap"
            ),
        )
    ]


def write_groups(path: Path, bank: PixelBank) -> None:
    """Write a bank as hloc writes local features: one group per image."""
    with h5py.File(path, "w") as file:
        for name, start, stop in zip(bank.ids, bank.offsets, bank.offsets[1:], strict=False):
            file.create_group(name).create_dataset("features", data=bank.features[start:stop])


def fancy_index(features: h5py.Dataset, rows: Rows) -> Features:
    """Read rows by h5py's fancy index, which asks for ascending numbers without duplicates."""
    wanted, places = np.unique(rows, return_inverse=True)
    return features[wanted][places]


def from_groups(file: h5py.File, rows: Rows, bank: PixelBank) -> Features:
    """Read rows from groups: each image that is asked for as a whole, once."""
    images = np.searchsorted(bank.offsets, rows, side="right") - 1
    order = np.argsort(images, kind="stable")
    touched, starts = np.unique(images[order], return_index=True)
    found = np.empty((len(rows), bank.dimension), np.float16)
    for image, places in zip(touched, np.split(order, starts[1:]), strict=True):
        features = file[bank.ids[image]]["features"][()]
        found[places] = features[rows[places] - bank.offsets[image]]
    return found


def refuse_disagreement(contestants: dict[str, Callable[[Rows], object]], rows: Rows) -> None:
    """Make sure that all contestants do the same work."""
    expected, *others = (np.asarray(read(rows), np.float32) for read in contestants.values())
    assert all(np.array_equal(expected, other) for other in others)
