"""Split files of PASCAL-5i and COCO-20i in the layout of HSNet (sazs §1.2).

ROOT/{trn,val}/fold{0..3}.txt    PASCAL: `<image id>__<class>` per line, classes 01..20
ROOT/{trn,val}/fold{0..3}.pkl    COCO: pickled {class 0..79: [train2014/COCO_..._000000000009.jpg, ...]}

Both number classes without the background; a pair has the benchmark's class id, one more in COCO's.
"""

import io
import pickle
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from zslib.datasets.decode import read_bytes
from zslib.datasets.lists import Role, read_lines
from zslib.errors import InputError
from zslib.params.sazs import SazsFolds

FOLDS = 4
EPISODE_SEED = 0
"""Of the published draw of COCO episodes."""

_FOLDERS: dict[Role, str] = {"train": "trn", "val": "val"}
_RECORD = re.compile(r"(\S+)__(\d\d)")


class Pair(NamedTuple):
    """An image, and a class of the benchmark that it shows."""

    image_id: str
    class_id: int


def read_pairs(params: SazsFolds, split: str, role: Role) -> tuple[Pair, ...]:
    """Return the pairs to train on for a fold, or those to evaluate, in the order of the files.

    PASCAL trains on the lists of the other three folds; COCO has files of its own for that.

    Raises:
        InputError: `split` is no fold; a file is missing or is not of that layout.
    """
    fold, folder = fold_of(split), Path(params.root) / _FOLDERS[role]
    if params.layout == "coco":
        return coco_pairs(folder / f"fold{fold}.pkl")
    folds = [fold] if role == "val" else [other for other in range(FOLDS) if other != fold]
    return tuple(pair for one in folds for pair in pascal_pairs(folder / f"fold{one}.txt"))


def fold_of(split: str) -> int:
    """Return the number of a split that is named fold0..fold3. Raises InputError."""
    found = re.fullmatch(rf"fold([0-{FOLDS - 1}])", split)
    if found is None:
        raise InputError(
            f"sazs.folds: there are split files for fold0..fold{FOLDS - 1}, not for '{split}'; "
            "set it to null, or `splits` to folds"
        )
    return int(found[1])


def pascal_pairs(path: Path) -> tuple[Pair, ...]:
    """Return the records of a text list; with or without a line's end after the last one.

    The released reader drops what follows the last line's end, so that a list without one loses its
    last record. Raises InputError.
    """
    lines = [line for line in read_lines(path, "a split file of HSNet") if line]
    records = [_RECORD.fullmatch(line) for line in lines]
    for line, record in zip(lines, records, strict=True):
        if record is None or not 1 <= int(record[2]) <= 20:
            raise InputError(
                f"{path}: '{line}' is not an image id, two underscores and a class from 01 to 20; "
                "get the official list again"
            )
    return tuple(Pair(record[1], int(record[2])) for record in records if record)


def coco_pairs(path: Path) -> tuple[Pair, ...]:
    """Return the pairs of a pickled dictionary, class after class. Raises InputError."""
    content = _unpickled(path)
    if not isinstance(content, dict) or not all(
        isinstance(c, int) and isinstance(files, list) and all(isinstance(f, str) for f in files)
        for c, files in content.items()
    ):
        raise InputError(f"{path}: is no dictionary of class ids and lists of files; {_AGAIN}")
    return tuple(
        Pair(PurePosixPath(file).stem, class_id + 1)
        for class_id in sorted(content)
        for file in content[class_id]
    )


def cycled(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return episodes by index modulo the number of pairs, as PASCAL's are (sazs §1.4); none of none."""
    return [pairs[index % len(pairs)] for index in range(count)] if pairs else []


def drawn(pairs: Sequence[Pair], classes: Sequence[int], count: int) -> list[Pair]:
    """Return episodes drawn as COCO's are: a class, then one of its images (sazs §1.4).

    The generator is numpy's legacy one, and each draw without replacement, which shuffles all there
    is to choose from: other calls would choose other episodes.

    Raises:
        InputError: a class has no pair.
    """
    images = {c: [pair for pair in pairs if pair.class_id == c] for c in classes}
    if empty := [c for c in classes if not images[c]]:
        raise InputError(f"sazs.episodes.draw: class {empty[0]} is in no image; use 'cycle'")
    generator, episodes = np.random.RandomState(EPISODE_SEED), []
    for _ in range(count):
        (chosen,) = generator.choice(len(classes), 1, replace=False)
        of_class = images[classes[chosen]]
        (image,) = generator.choice(len(of_class), 1, replace=False)
        episodes.append(of_class[image])
    return episodes


class _Restricted(pickle.Unpickler):
    """Makes numbers, texts, lists and dictionaries, and nothing that would need code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _unpickled(path: Path) -> object:
    data = read_bytes(path)
    try:
        return _Restricted(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(f"{error}".split())
        raise InputError(f"{path}: is no plain pickle ({reason}); {_AGAIN}") from error


_AGAIN = "get the official file again"
