"""How training images and label maps reach the processes that load them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.unit.tiny_clip import TRAINING
from zslib.artifacts.maps import (
    LabelMaps,
    MixedLabels,
    open_labels,
    open_pseudo_labels,
    write_pseudo_labels,
)
from zslib.datasets import memory
from zslib.datasets.decode import ImageFile, IndexedFile, checksum, read_image
from zslib.datasets.views import BatchOrder, TrainingViews, loader, read_view
from zslib.errors import ArtifactError
from zslib.features import Photographs, extract, plan_dense
from zslib.methods.sazs.items import Items, ItemViews
from zslib.params.training import AugmentationParams
from zslib.params.vision_language import PromptTraining
from zslib.training import SingleProcess
from zslib.vision_language.captions import CaptionBatches
from zslib.vision_language.pools import RegionViews

SIDE = 128
MAPS = tiny.block_maps(6, tiny.SPLIT.seen, side=SIDE)
AUGMENTATION = AugmentationParams(base_size=32, crop_size=32)
PROMPTS = PromptTraining(tokens=4, steps=2, batch_size=2, samples_per_class=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[IndexedFile]:
    paths = tiny.write_images(tmp_path_factory.mktemp("images"), MAPS)
    return [IndexedFile(path, checksum(path.read_bytes())) for path in paths]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> LabelMaps:
    return open_labels(tiny.write_labels(tmp_path_factory.mktemp("labels") / "labels.h5", MAPS))


# --- what crosses into another process -----------------------------------------------------------


def mixed(labels: LabelMaps, folder: Path) -> MixedLabels:
    pairs, sizes = ((m, m) for m in MAPS[:2]), [(SIDE, SIDE)] * 2
    write_pseudo_labels(folder / "pseudo.h5", labels.ids[:2], sizes, pairs, meta={})
    return MixedLabels.of(labels, open_pseudo_labels(folder / "pseudo.h5")[0])


def all_views(images: list[IndexedFile], labels: LabelMaps, folder: Path) -> dict[str, Any]:
    """Return every kind of thing that a loader's workers are given."""
    labelled = tiny.labelled_images(folder, images, MAPS)
    options: dict[str, Any] = {"seed": 0, "cache_images": False}
    return {
        "label maps": TrainingViews(images, labels, AUGMENTATION, **options),
        "labelled images": TrainingViews(images, labelled, AUGMENTATION, **options),
        "pseudo-labels": TrainingViews(images, mixed(labels, folder), AUGMENTATION, **options),
        "items": ItemViews(Items.of(labelled), AUGMENTATION, released=False, **options),
        "regions": RegionViews(images, labels, tiny.SPLIT.seen, PROMPTS, (32, 32), seed=0),
    }


def test_no_worker_is_sent_the_label_maps(
    images: list[IndexedFile], labels: LabelMaps, tmp_path: Path
) -> None:
    for name, views in all_views(images, labels, tmp_path).items():
        sent = pickle.dumps(views)
        assert len(sent) < sum(m.nbytes for m in MAPS) / 8, name
        for one, other in zip(pickle.loads(sent)[1, 3], views[1, 3], strict=True):  # noqa: S301
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)), name


def test_positions_count_from_the_end_too(labels: LabelMaps, tmp_path: Path) -> None:
    for maps in (labels, mixed(labels, tmp_path)):
        for position in range(len(maps)):
            assert np.array_equal(maps[position - len(maps)], maps[position])


def test_label_maps_in_memory_are_sent_whole() -> None:
    sizes = np.array([[1, 3]], np.int32)
    sent = pickle.dumps(LabelMaps(("a",), sizes, np.array([5, 6, 7], np.uint8), {}))
    assert pickle.loads(sent).of("a").tolist() == [[5, 6, 7]]  # noqa: S301


@pytest.mark.slow
def test_workers_yield_the_batches_of_one_process(
    images: list[IndexedFile], labels: LabelMaps
) -> None:
    views = TrainingViews(images, labels, AUGMENTATION, seed=0, cache_images=True)
    order = BatchOrder(len(images), 2, section="backbone", seed=0)
    alone, shared = (list(loader(views, order, 0, 6, workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_there_is_one_loader_and_a_hung_worker_ends_it(
    project: Path, images: list[IndexedFile], labels: LabelMaps
) -> None:
    callers = [p.name for p in (project / "zslib").rglob("*.py") if "DataLoader(" in p.read_text()]
    assert callers == ["views.py"]
    views = RegionViews(images, labels, tiny.SPLIT.seen, PROMPTS, (32, 32), seed=0)
    order = BatchOrder(len(views), 2, section="vision_language.prompts", seed=0)
    assert loader(views, order, 0, 2, workers=1).timeout > 0


# --- the cache of decoded images -----------------------------------------------------------------


def read_twice(
    images: list[IndexedFile], monkeypatch: pytest.MonkeyPatch, *, left: list[int]
) -> list[int]:
    """Return how many images each of two epochs decodes, while memory is left as told at each look."""
    told, counts = iter(left), [0]

    def counted(file: ImageFile) -> Any:
        counts[-1] += 1
        return read_image(file)

    monkeypatch.setattr("zslib.datasets.views._IMAGES_PER_LOOK", 1)
    monkeypatch.setattr("zslib.datasets.views.free_memory", lambda: next(told))
    monkeypatch.setattr("zslib.datasets.views.read_image", counted)
    views = TrainingViews(images, MAPS, AUGMENTATION, seed=0, cache_images=True)
    plain = TrainingViews(images, MAPS, AUGMENTATION, seed=0, cache_images=False)
    for epoch in (0, 1):
        counts.append(0)
        found = [views[epoch, position] for position in range(len(images))]
        counts.append(0)
        for position, view in enumerate(found):
            assert torch.equal(view[0], plain[epoch, position][0])
    return counts[1::2]


def test_images_are_kept_while_half_of_the_memory_stays_free(
    images: list[IndexedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = [100, 100, 90, 80, 70, 65, 60, 55]
    assert read_twice(images, monkeypatch, left=enough) == [6, 0]
    scarce = [100, 100, 90, 70, 50]  # two are kept, and nobody looks once it is full
    assert read_twice(images, monkeypatch, left=scarce) == [6, 4]


def test_what_is_left_is_the_least_of_machine_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    assert memory.free_memory() == 0, "no Linux"
    step, job = tmp_path / "cgroup/job/step", tmp_path / "cgroup/job"
    (tmp_path / "proc/self").mkdir(parents=True)
    step.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  900 kB\nMemAvailable:  500 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n")
    assert memory.free_memory() == 500 * 1024, "no group has a limit"
    (step / "memory.max").write_text("max\n")
    (job / "memory.max").write_text("300000\n")
    (job / "memory.current").write_text("250000\n")
    (job / "memory.stat").write_text("anon 180000\ninactive_file 60000\nactive_file 10000\n")
    assert memory.free_memory() == 120000


@pytest.mark.parametrize("current", [None, "", "unknown\n"])
def test_a_limit_without_what_is_used_of_it_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, current: str | None
) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemAvailable:  500 kB\n")
    (tmp_path / "self/cgroup").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("300000\n")
    if current is not None:
        (tmp_path / "memory.current").write_text(current)
    assert memory.free_memory() == 0


# --- what is read is what was indexed ------------------------------------------------------------


def extracted(file: ImageFile, folder: Path) -> None:
    photographs = Photographs([file], [(SIDE, SIDE)], [(SIDE, SIDE)])
    extract(
        lambda pictures: pictures.float(),
        photographs,
        {folder / "maps.h5": plan_dense(photographs, ["a"])},
        dimension=3,
        batch_size=1,
        runtime=SingleProcess(),
        scratch=folder / "scratch",
    )


def seen_in_training(file: ImageFile, folder: Path) -> None:
    views = TrainingViews([file], MAPS[:1], AUGMENTATION, seed=0, cache_images=True)
    assert views[0, 0]


def seen_as_regions(file: ImageFile, folder: Path) -> None:
    labels = open_labels(tiny.write_labels(folder / "labels.h5", MAPS[:1]))
    assert RegionViews([file], labels, tiny.SPLIT.seen, PROMPTS, (32, 32), seed=0)[0, 0]


READERS: dict[str, Callable[[ImageFile, Path], object]] = {
    "training": seen_in_training,
    "extraction": extracted,
    "prompts": seen_as_regions,
    "proposals and regions": lambda file, _: read_view(file, (SIDE, SIDE)),
    "captions": lambda file, _: CaptionBatches([file] * 8, [["a"]] * 8, TRAINING, seed=0),
}


@pytest.mark.parametrize("reader", READERS)
def test_another_photograph_than_the_indexed_one_is_refused(tmp_path: Path, reader: str) -> None:
    (path, other) = tiny.write_images(tmp_path / "images", MAPS[:2])
    file = IndexedFile(path, checksum(path.read_bytes()))
    READERS[reader](file, tmp_path / "before")
    path.write_bytes(other.read_bytes())
    with pytest.raises(ArtifactError, match=r"00\.png: changed since it was indexed"):
        READERS[reader](file, tmp_path / "after")
