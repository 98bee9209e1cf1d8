"""How many images a benchmark has, how large they are, and how many classes each shows.

From the artifacts `index` and `seen_labels` where they are there, else from the lists of the dataset,
else from the published counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from zslib.errors import InputError
from zslib.params import Params
from zslib.params.benchmark import Role

PHOTOGRAPH = (500, 375)
"""(width, height) of a usual photograph of Pascal VOC; those of COCO have its proportions."""

CLASSES_PER_IMAGE = 2.47
"""Of Pascal VOC's augmented list (zs3net §10)."""

OF_VOC = ("voc12", "voc12-spnet", "voc12-simbaseline", "pascal5i")
"""The benchmarks of Pascal VOC; others in its layout hold who knows how many images."""

VOC: dict[Role, int] = {"train": 10_582, "val": 1_449}
"""Images of Pascal VOC (spnet §1.1); the list `sbd` has some fewer (zs3net §1.4)."""

DROPPED = {"u2": 746, "u4": 1_820, "u6": 3_248, "u8": 4_296, "u10": 5_174}
"""Training images with unseen classes, of VOC's 10,582 (zs3net §1.5)."""

_LOOKED_AT = 200
"""Label maps of which classes are counted, and photographs of which sizes are read."""


@dataclass(frozen=True)
class Survey:
    """The images of a benchmark, as far as sizes of artifacts depend on them."""

    train: Sequence[tuple[int, int]]
    """(width, height) of each training image."""
    val: Sequence[tuple[int, int]]
    classes_per_image: float
    labelled: Mapping[str, int] = field(default_factory=dict)
    """How many training images each split leaves; a split that is missing is taken to leave all."""
    segments: tuple[float, float] | None = None
    """Segments of a label map on the feature grid, and pairs of them that touch, on average; None where
    there are no label maps yet."""
    is_counted: bool = True
    """Whether this is of the dataset at hand, not of published counts."""
    leaves_images_out: bool = True
    """Whether self-training labels what a split leaves out, as by `drop`, and not every image."""

    def kept(self, split: str) -> Sequence[tuple[int, int]]:
        """Return the sizes of a split's labelled images (of so many of all, as they come)."""
        return self.train[: self.labelled.get(split, len(self.train))]

    def unlabelled(self, split: str) -> Sequence[tuple[int, int]]:
        """Return the sizes of those that self-training labels (`datasets.labels.unlabelled_ids`)."""
        left_out = self.train[len(self.kept(split)) :] if self.leaves_images_out else ()
        return left_out or self.train

    @classmethod
    def of(cls, params: Params, artifacts: Path) -> "Survey":
        """Survey the benchmark in force.

        Raises:
            InputError: there is no index, and no published count either; or a list or photograph of the
                dataset is not where its layout has it.
        """
        index = artifacts / "index" / "images.json"
        root = Path(params.dataset.root)
        if index.exists():
            found = cls._counted(params, artifacts, index)
        else:
            found = cls._listed(params) if root.exists() else cls._published(params)
        return replace(found, leaves_images_out=params.benchmark.unseen_images == "drop")

    @classmethod
    def _counted(cls, params: Params, artifacts: Path, index: Path) -> "Survey":
        from zslib.datasets.index import ImageIndex

        images = ImageIndex.load(index).images
        sizes = {r: [(i.width, i.height) for i in images if i.role == r] for r in ("train", "val")}
        files = {split: artifacts / split / "seen_labels.h5" for split in params.splits}
        labelled = {s: _count(path) for s, path in files.items() if path.exists()}
        maps = [one for path in files.values() if path.exists() for one in _first_maps(path)]
        if not maps:
            return cls(sizes["train"], sizes["val"], CLASSES_PER_IMAGE, labelled)
        classes = float(np.mean([_classes(one) for one in maps]))
        nodes, edges = np.mean([_segments(one, params) for one in maps], axis=0).tolist()
        return cls(sizes["train"], sizes["val"], classes, labelled, (nodes, edges))

    @classmethod
    def _listed(cls, params: Params) -> "Survey":
        from zslib.datasets.layouts import open_dataset

        dataset = open_dataset(params.dataset)
        paths = ([dataset.image_path(name) for name in dataset.ids(role)] for role in VOC)
        return cls._without_labels(params, *map(_sizes, paths))

    @classmethod
    def _published(cls, params: Params) -> "Survey":
        name, dataset = params.benchmark.name, params.dataset
        counts: dict[Role, int] = {}
        if dataset.layout == "voc12" and name in OF_VOC:
            counts.update(VOC)
        counts.update(dataset.published or {})
        if counts.keys() != VOC.keys():
            raise InputError(
                f"artifacts/{name}/index: missing, and nothing published tells how many images there "
                "are; run `dvc repro index` first"
            )
        train, val = ([PHOTOGRAPH] * counts[role] for role in VOC)
        return replace(cls._without_labels(params, train, val), is_counted=False)

    @classmethod
    def _without_labels(
        cls, params: Params, train: Sequence[tuple[int, int]], val: Sequence[tuple[int, int]]
    ) -> "Survey":
        """Of voc12, a split leaves out as large a share of the images as it does of VOC's."""
        labelled = {}
        if params.benchmark.name == "voc12" and params.benchmark.unseen_images == "drop":
            kept = {s: VOC["train"] - DROPPED[s] for s in params.splits if s in DROPPED}
            labelled = {s: len(train) * n // VOC["train"] for s, n in kept.items()}
        return cls(train, val, CLASSES_PER_IMAGE, labelled)


def _sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Return (width, height) of each photograph; beyond the first, theirs over again."""
    found = [_size(path) for path in paths[:_LOOKED_AT]]
    return [found[i % len(found)] for i in range(len(paths))]


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error}); `zslib doctor` tells all that is wrong with the dataset"
        ) from error


def _count(path: Path) -> int:
    from zslib.artifacts.store import map_array

    return len(map_array(path, "sizes"))


def _first_maps(path: Path) -> list[np.ndarray]:
    from zslib.artifacts.store import map_array

    sizes = map_array(path, "sizes")[:_LOOKED_AT].astype(np.int64)
    stops = np.cumsum(sizes.prod(axis=1))
    flat = map_array(path, "pixels")[: int(stops[-1]) if len(stops) else 0]
    return [m.reshape(size) for m, size in zip(np.split(flat, stops[:-1]), sizes, strict=True)]


def _classes(label_map: np.ndarray) -> int:
    """Return how many classes a label map shows."""
    from zslib.benchmark import IGNORE_INDEX

    return len(np.setdiff1d(label_map, [IGNORE_INDEX]))


def _segments(label_map: np.ndarray, params: Params) -> tuple[int, int]:
    """Return how many segments a label map has on the feature grid, and how many pairs touch."""
    from zslib.graphs import component_graph
    from zslib.grids import LABEL_RULES
    from zslib.plan.sizes import feature_grids

    height, width = label_map.shape
    short, stride = params.features.short_side, params.backbone.model.feature_stride
    (grid,) = feature_grids([(width, height)], short_side=short, stride=stride)
    small = LABEL_RULES[params.features.label_rule](label_map, grid)
    graph = component_graph(small, void=False)
    return len(graph), len(graph.edges)
