"""Making the index of a dataset: every file is examined first, and nothing is indexed that is wrong."""

from dataclasses import dataclass
from pathlib import Path

from zslib.datasets.doctor import CheckedPair, Problem, Progress, examine
from zslib.datasets.index import ImageEntry, ImageIndex, MaskEntry, MaskIndex
from zslib.datasets.layouts import Dataset
from zslib.datasets.lists import Role
from zslib.errors import InputError


@dataclass(frozen=True)
class DatasetIndex:
    """The three documents of the index stage."""

    images: ImageIndex
    train_masks: MaskIndex
    val_masks: MaskIndex

    def save(self, folder: Path) -> None:
        """Publish images.json, train_masks.json, val_masks.json and root.json in `folder`."""
        self.images.save(folder / "images.json")
        self.train_masks.save(folder / "train_masks.json")
        self.val_masks.save(folder / "val_masks.json")


def build_index(
    dataset: Dataset, *, num_classes: int, workers: int = 1, progress: Progress | None = None
) -> DatasetIndex:
    """Examine every file of a dataset and return its index.

    Raises:
        InputError: anything is wrong with the dataset; names the first problems and their number.
    """
    found = examine(dataset, num_classes=num_classes, workers=workers, progress=progress)
    if found.problems:
        raise InputError(_refusal(dataset.root, found.problems))
    pairs = sorted(found.pairs, key=lambda pair: (pair.role, pair.id))
    root = dataset.root
    images = ImageIndex(root=str(root), images=tuple(_image_entry(pair, root) for pair in pairs))

    def masks(role: Role) -> MaskIndex:
        entries = tuple(_mask_entry(pair, root) for pair in pairs if pair.role == role)
        return MaskIndex(
            root=str(root),
            role=role,
            num_classes=num_classes,
            lookup=dataset.label_lookup,
            masks=entries,
        )

    return DatasetIndex(images, masks("train"), masks("val"))


def _image_entry(pair: CheckedPair, root: Path) -> ImageEntry:
    assert pair.size is not None, "a pair without problems has a size"
    width, height = pair.size
    return ImageEntry(
        id=pair.id,
        role=pair.role,
        path=pair.image_path.relative_to(root).as_posix(),
        width=width,
        height=height,
        xxh3=pair.image_xxh3,
    )


def _mask_entry(pair: CheckedPair, root: Path) -> MaskEntry:
    path = pair.label_path.relative_to(root).as_posix()
    return MaskEntry(id=pair.id, path=path, xxh3=pair.label_xxh3)


def _refusal(root: Path, problems: tuple[Problem, ...]) -> str:
    first = " | ".join(str(problem) for problem in problems[:3])
    return (
        f"{root}: {len(problems)} problem(s) in this dataset: {first}; "
        f"run `zslib doctor` for the full list"
    )
