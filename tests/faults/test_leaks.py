"""Fault 13: the leak audit passes what the project does, and catches what it must never do."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import loadmat, savemat

from zslib.audit import audit_split, exchange_unseen, link_dataset, mask_readers
from zslib.benchmark import Split
from zslib.datasets.context import CONTEXT_CLASSES
from zslib.datasets.index import MaskIndex
from zslib.datasets.labels import write_labels
from zslib.datasets.layouts import open_dataset
from zslib.errors import InputError
from zslib.params import Params, load_params
from zslib.params.benchmark import DatasetParams, UnseenImages

PROJECT = Path(__file__).resolve().parents[2]
CLASSES = ["sky", "grass", "horse", "zebra", "tram", "bus"]
UNSEEN = ["zebra", "tram"]


def draw(path: Path, content: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(content).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight training images, four of which show one unseen class each; two for validation."""
    home, rng = tmp_path / "data", np.random.default_rng(0)
    ids = {"train": [f"t{i}" for i in range(8)], "val": ["v0", "v1"]}
    for position, name in enumerate(ids["train"] + ids["val"]):
        draw(home / f"JPEGImages/{name}.jpg", rng.integers(0, 255, (9, 11, 3), np.uint8))
        present = [0, 1, 2, 5] if position % 2 else [0, 1, 3 + position // 2 % 2]
        mask = rng.choice(np.array(present, np.uint8), (9, 11))
        draw(home / f"SegmentationClass/{name}.png", mask)
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for role, names in ids.items():
        (lists / f"{role}.txt").write_text("\n".join(names))
    return home


def params_for(root: Path, *, unseen: list[str], unseen_images: str) -> Params:
    params = load_params(PROJECT / "params.yaml")
    benchmark = params.benchmark.model_copy(
        update={
            "classes": CLASSES,
            "void": ["sky"],
            "unseen": {"u": unseen},
            "unseen_images": unseen_images,
        }
    )
    dataset = DatasetParams(layout="voc12", root=str(root), lists="train")
    return params.model_copy(update={"benchmark": benchmark, "dataset": dataset, "splits": ["u"]})


@pytest.mark.parametrize("unseen_images", ["drop", "ignore"])
def test_the_project_does_not_leak(root: Path, tmp_path: Path, unseen_images: str) -> None:
    params = params_for(root, unseen=UNSEEN, unseen_images=unseen_images)
    exchange = audit_split(params, "u", tmp_path / "audit")
    assert exchange.masks == 4
    assert exchange.pixels > 20
    assert not exchange.leaks


def keep_unseen(masks: Path, split: Split, out: Path, *, unseen_images: UnseenImages) -> None:
    """The plainest leak: labels as they are."""
    everything = Split.from_ids(split.name, split.classes, [], split.void)
    write_labels(masks, everything, out, unseen_images=unseen_images)


def forget_one_class(masks: Path, split: Split, out: Path, *, unseen_images: UnseenImages) -> None:
    """One unseen class is forgotten, and so trained on."""
    forgetful = Split.from_ids(split.name, split.classes, split.unseen[1:], split.void)
    write_labels(masks, forgetful, out, unseen_images=unseen_images)


def drop_by_class(masks: Path, split: Split, out: Path, *, unseen_images: UnseenImages) -> None:
    """Unseen pixels are void, but which images stay tells where one of the classes is."""
    index = MaskIndex.load(masks)
    kept = [m for m in index.masks if split.unseen[0] not in index.label_map(m.id)]
    document = out.with_suffix(".json")
    index.model_copy(update={"masks": tuple(kept)}).save(document)
    write_labels(document, split, out, unseen_images="ignore")


@pytest.mark.parametrize("unseen_images", ["drop", "ignore"])
@pytest.mark.parametrize("leaky", [keep_unseen, forget_one_class, drop_by_class])
def test_a_leak_is_caught(root: Path, tmp_path: Path, unseen_images: str, leaky: Any) -> None:
    params = params_for(root, unseen=UNSEEN, unseen_images=unseen_images)
    exchange = audit_split(params, "u", tmp_path / "audit", write_labels=leaky)
    assert exchange.leaks == ("LEAK: the seen labels changed",)
    assert "LEAK" in str(exchange)


def test_an_artifact_that_differs_from_the_code_is_told(root: Path, tmp_path: Path) -> None:
    params = params_for(root, unseen=UNSEEN, unseen_images="drop")
    in_place = tmp_path / "seen_labels.h5"
    in_place.write_bytes(b"another")
    exchange = audit_split(params, "u", tmp_path / "audit", in_place=in_place)
    assert "seen_labels.h5 is not what" in str(exchange)


def test_the_dataset_itself_is_left_alone(root: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    params = params_for(root, unseen=UNSEEN, unseen_images="drop")
    audit_split(params, "u", tmp_path / "audit")
    shutil.rmtree(tmp_path / "audit")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_one_unseen_class_cannot_be_exchanged(root: Path, tmp_path: Path) -> None:
    params = params_for(root, unseen=["zebra"], unseen_images="drop")
    with pytest.raises(InputError, match=r"benchmark\.unseen\.u has one class"):
        audit_split(params, "u", tmp_path / "audit")


@pytest.mark.parametrize("layout", ["voc12", "sbd", "context"])
def test_only_unseen_pixels_are_exchanged_in_each_format(
    layout: str, root: Path, tmp_path: Path
) -> None:
    params = DatasetParams(layout="voc12", root=str(root), lists="train")
    unseen = (3, 4)
    if layout == "sbd":
        params, unseen = as_sbd(root), (2, 5)
    if layout == "context":
        params, unseen = as_context(root), (6, 41)
    original = open_dataset(params)
    linked = params.model_copy(update={"root": str(tmp_path / "copy")})
    link_dataset(root, tmp_path / "copy")
    changed = open_dataset(linked)
    split = Split.from_ids("u", [str(c) for c in range(60)], unseen, [])
    masks, pixels = exchange_unseen(changed, split, seed=0)
    assert masks > 0
    seen_pixels = exchanged = 0
    for name in original.ids("train"):
        old, new = original.label_map(name), changed.label_map(name)
        hit = np.isin(old, unseen)
        np.testing.assert_array_equal(new[~hit], old[~hit])
        assert (new[hit] != old[hit]).all()
        assert np.isin(new[hit], unseen).all()
        exchanged, seen_pixels = exchanged + hit.sum(), seen_pixels + (~hit).sum()
    assert exchanged == pixels > 0
    assert seen_pixels > 0


def as_sbd(root: Path) -> DatasetParams:
    """Add an image that only SBD has."""
    draw(root / "sbd/img/s0.jpg", np.zeros((4, 5, 3), np.uint8))
    (root / "sbd" / "cls").mkdir()
    ids = np.arange(20, dtype=np.uint8).reshape(4, 5)
    content = {"Segmentation": ids, "Boundaries": np.zeros(1), "CategoriesPresent": np.arange(3)}
    savemat(root / "sbd" / "cls" / "s0.mat", {"GTcls": content})
    (root / "sbd" / "train.txt").write_text("s0\nt1\n")
    return DatasetParams(layout="voc12", root=str(root), lists="sbd")


def as_context(root: Path) -> DatasetParams:
    """Masks as MAT files, whose values are the official ones in another order."""
    names = [*reversed(CONTEXT_CLASSES[1:]), "accordion"]
    (root / "labels.txt").write_text("\n".join(f"{i}: {n}" for i, n in enumerate(names, 1)))
    (root / "trainval").mkdir()
    (root / "ImageSets" / "Main").mkdir()
    for role in ("train", "val"):
        shutil.copy(root / f"ImageSets/Segmentation/{role}.txt", root / f"ImageSets/{role}.txt")
    for path in (root / "JPEGImages").iterdir():
        values = np.random.default_rng(1).integers(0, 60, (9, 11), np.uint16)
        savemat(root / "trainval" / f"{path.stem}.mat", {"LabelMap": values})
    return DatasetParams(layout="context", root=str(root), lists="train")


def test_a_rewritten_mat_file_keeps_its_other_content(root: Path, tmp_path: Path) -> None:
    params = as_sbd(root).model_copy(update={"root": str(tmp_path / "copy")})
    link_dataset(root, tmp_path / "copy")
    exchange_unseen(open_dataset(params), Split.from_ids("u", ["x"] * 20, (2, 5), []), seed=0)
    content = loadmat(tmp_path / "copy" / "sbd" / "cls" / "s0.mat")["GTcls"]
    np.testing.assert_array_equal(content["CategoriesPresent"][0, 0], [[0, 1, 2]])


# --- by structure --------------------------------------------------------------------------------


def test_masks_reach_clean_classifiers_through_seen_labels_only() -> None:
    readers = mask_readers(PROJECT, "data/world")
    clean = [r for r in readers if r.clean]
    assert len(clean) >= 3
    assert "pipelines/sazs/episodes@u4" in {r.evaluation for r in clean}
    assert all({name.split("@")[0] for name in r.stages} == {"seen_labels"} for r in clean)
    assert not any(r.leaks for r in readers)


@pytest.mark.parametrize("leak", ["index/train_masks.json", "data/world"])
@pytest.mark.parametrize("row", ["--row plain m head/weights", "--scores scores.json"])
def test_a_clean_stage_that_reads_masks_is_caught(leak: str, row: str, tmp_path: Path) -> None:
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    train = {"cmd": "exec python -m stages.train", "deps": [leak], "outs": ["head"]}
    evaluate = {
        "cmd": f"exec python -m stages.evaluate {row} --labels val.h5 --out evaluation",
        "deps": ["head"],
        "metrics": ["scores.json"],
        "outs": ["evaluation"],
    }
    stages = {"stages": {"train": train, "evaluate": evaluate}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(stages))
    (found,) = mask_readers(tmp_path, "data/world")
    assert found.leaks == ("train",)
