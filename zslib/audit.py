"""The leak audit (DESIGN §4): can the label of an unseen pixel reach a training stage?

By content: in a copy of the dataset every unseen pixel of the training masks gets another unseen
class at random; the seen labels made from it must be the same bytes. Then nothing downstream of
them can differ, whatever a method does. By structure: behind every classifier that is scored as
clean, the stage `seen_labels` is the only one that reads masks.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zslib.benchmark import Split
from zslib.datasets.indexing import DatasetIndex, build_index
from zslib.datasets.labels import write_labels
from zslib.datasets.layouts import Dataset, open_dataset
from zslib.errors import InputError
from zslib.params import Params
from zslib.params.benchmark import DatasetParams

# --- by content ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """What exchanging the unseen labels of one split did."""

    split: str
    masks: int
    """How many training masks show an unseen class."""
    pixels: int
    """How many unseen pixels got another class."""
    leaks: tuple[str, ...]
    """What changed and must not."""

    def __str__(self) -> str:
        verdict = "; ".join(self.leaks) or "images and seen labels unchanged"
        return (
            f"{self.split}: {self.pixels} unseen pixels in {self.masks} masks exchanged: {verdict}"
        )


def audit_split(
    params: Params,
    name: str,
    folder: Path,
    *,
    seed: int = 0,
    workers: int = 1,
    in_place: Path | None = None,
    write_labels: Callable[..., None] = write_labels,
) -> Exchange:
    """Exchange the unseen labels of one split, and make its seen labels with and without.

    Works in the folder `folder`; the dataset itself is only read. `in_place` is the artifact that
    training stages have read, if there is one; `write_labels` is what stage `seen_labels` calls.

    Raises:
        InputError: the dataset is not in order, or the split has fewer than two unseen classes.
    """
    split, rule = _split(params, name), params.benchmark.unseen_images
    exchanged = params.dataset.model_copy(update={"root": str(folder / "dataset")})
    link_dataset(Path(params.dataset.root), Path(exchanged.root))
    masks, pixels = exchange_unseen(open_dataset(exchanged), split, seed=seed)

    indices, labels = [], []
    for version, dataset in {"before": params.dataset, "after": exchanged}.items():
        indices.append(_index(dataset, folder / version, split, workers))
        out = folder / version / "seen_labels.h5"
        write_labels(folder / version / "train_masks.json", split, out, unseen_images=rule)
        labels.append(out.read_bytes())

    leaks = []
    if indices[0].images.images != indices[1].images.images:
        leaks.append("LEAK: the image index changed")
    if labels[0] != labels[1]:
        leaks.append("LEAK: the seen labels changed")
    if in_place and in_place.exists() and in_place.read_bytes() != labels[0]:
        leaks.append(f"{in_place} is not what the code makes of this dataset; run `dvc repro`")
    return Exchange(name, masks, pixels, tuple(leaks))


def link_dataset(root: Path, copy: Path) -> None:
    """Make a folder tree like `root` whose files are symbolic links to its files."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check dataset.root")
    shutil.copytree(root.absolute(), copy, copy_function=os.symlink)


def exchange_unseen(dataset: Dataset, split: Split, *, seed: int) -> tuple[int, int]:
    """Give every unseen pixel of the training masks another unseen class, in a linked dataset.

    Returns how many masks and how many pixels have changed. Masks keep their file format.
    """
    masks = pixels = 0
    for position, image_id in enumerate(dataset.ids("train")):
        label_map = dataset.label_map(image_id)
        unseen = np.isin(label_map, split.unseen)
        if not unseen.any():
            continue
        rng = np.random.default_rng([seed, position])
        order = np.searchsorted(split.unseen, label_map[unseen])
        steps = rng.integers(1, len(split.unseen), size=order.size)
        changed = label_map.copy()
        changed[unseen] = np.array(split.unseen, np.uint8)[(order + steps) % len(split.unseen)]
        _replace_mask(dataset.label_path(image_id), changed, unseen, dataset.label_lookup)
        masks, pixels = masks + 1, pixels + int(unseen.sum())
    return masks, pixels


def _split(params: Params, name: str) -> Split:
    benchmark = params.benchmark
    unseen = benchmark.unseen[name]
    if len(unseen) == 1:
        raise InputError(
            f"params.yaml: benchmark.unseen.{name} has one class, so there is no other to give its "
            f"pixels; audit a split with two or more"
        )
    return Split.named(name, benchmark.classes, unseen=unseen, void=benchmark.void)


def _index(dataset: DatasetParams, folder: Path, split: Split, workers: int) -> DatasetIndex:
    index = build_index(open_dataset(dataset), num_classes=len(split.classes), workers=workers)
    index.save(folder)
    return index


def _replace_mask(
    path: Path,
    label_map: UInt8[np.ndarray, "h w"],
    where: np.ndarray,
    lookup: tuple[int, ...] | None,
) -> None:
    """Write class ids into a mask file at some pixels, and its own content everywhere else."""
    original = path.resolve()
    path.unlink()
    if path.suffix == ".mat":
        _replace_mat(original, path, label_map, where, lookup)
        return
    with Image.open(original) as mask:
        values = np.array(mask)
        values[where] = label_map[where]
        mask.frombytes(values.tobytes())
        mask.save(path)


def _replace_mat(
    original: Path,
    path: Path,
    label_map: UInt8[np.ndarray, "h w"],
    where: np.ndarray,
    lookup: tuple[int, ...] | None,
) -> None:
    from scipy.io import loadmat, savemat

    content = {k: v for k, v in loadmat(original).items() if not k.startswith("__")}
    if lookup is None:
        values = content["GTcls"]["Segmentation"][0, 0]
        values[where] = label_map[where]
    else:
        stored = np.array([lookup.index(c) if c in lookup else 0 for c in range(256)])
        content["LabelMap"][where] = stored[label_map[where]]
    savemat(path, content)


# --- by structure --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readers:
    """Which stages read masks, directly, behind what one evaluation scores."""

    evaluation: str
    clean: bool
    stages: tuple[str, ...]
    leaks: tuple[str, ...]

    def __str__(self) -> str:
        kind = "clean" if self.clean else "official or ceiling"
        verdict = f"; LEAK: {', '.join(self.leaks)}" if self.leaks else ""
        return f"{self.evaluation} ({kind}): masks are read by {', '.join(self.stages)}{verdict}"


def mask_readers(project: Path, dataset_root: str) -> list[Readers]:
    """Return, per stage of the DVC project that writes scores, who reads masks behind what it scores.

    That is all it depends on but the validation labels. In the clean protocol the one reader is
    `seen_labels`. (The index stage reads masks to check them; what it passes on of them is in its
    files of masks.)
    """
    import networkx as nx
    from dvc.repo import Repo

    graph = Repo(str(project)).index.graph  # edges go from a stage to what it depends on
    writers = {out.def_path: stage for stage in graph for out in stage.outs}
    readers = []
    for stage in sorted(graph, key=lambda stage: (stage.path, stage.name)):
        if not any(out.metric for out in stage.outs):
            continue
        words = stage.cmd.split()
        truth = words[words.index("--labels") + 1]
        paths = {dep.def_path for dep in stage.deps} - {truth}
        scored = {writer for path in paths if (writer := _writer(writers, path))}
        behind = scored.union(*(nx.descendants(graph, writer) for writer in scored))
        names = {_address(s, project) for s in behind if _reads_masks(s, dataset_root)} - {"index"}
        clean = "--protocol official" not in stage.cmd and "supervised" not in words
        leaks = {name for name in names if clean and name.split("@")[0] != "seen_labels"}
        address = _address(stage, project)
        readers.append(Readers(address, clean, tuple(sorted(names)), tuple(sorted(leaks))))
    return readers


def _writer(writers: dict[str, Any], path: str) -> Any:
    """The stage that writes a file, alone or within a folder, if one does."""
    candidates = [Path(path), *Path(path).parents]
    return next((writers[str(p)] for p in candidates if str(p) in writers), None)


def _reads_masks(stage: Any, dataset_root: str) -> bool:
    paths = [dependency.def_path for dependency in stage.deps]
    return dataset_root in paths or any(path.endswith("_masks.json") for path in paths)


def _address(stage: Any, project: Path) -> str:
    """Return the stage's name, after its folder unless that is the project's own."""
    folder = Path(stage.path).resolve().parent.relative_to(project.resolve())
    return (folder / stage.name).as_posix()
