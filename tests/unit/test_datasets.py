"""Adapters, index and doctor on tiny folders in each official layout (zs3net §1.2-§1.4)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from zslib.datasets.context import CONTEXT_CLASSES, label_lookup
from zslib.datasets.decode import read_image
from zslib.datasets.doctor import diagnose
from zslib.datasets.index import ImageIndex, MaskIndex
from zslib.datasets.indexing import DatasetIndex, build_index
from zslib.datasets.layouts import open_dataset
from zslib.errors import ArtifactError, ImageError, InputError
from zslib.params.benchmark import DatasetParams

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "voc12-mini"
HEIGHT, WIDTH = 12, 16


def draw_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(path.stem.encode().rjust(3)[-3:])
    Image.new("RGB", size, colour).save(path, "JPEG")


def draw_mask(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("P", (WIDTH, HEIGHT), label)
    mask.putpalette([channel % 256 for channel in range(768)])
    mask.putpixel((0, 0), 255)
    mask.save(path)


def write_list(path: Path, *ids: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in ids))


def draw_mat(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def voc_params(root: Path, lists: str = "train") -> DatasetParams:
    return DatasetParams(layout="voc12", root=str(root), lists=lists)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC2012: train a1 a2, val v1 v2; Aug adds b1; SBD has a2 (also VOC), s1, and v1 (VOC val)."""
    home = tmp_path / "voc" / "VOC2012"
    for label, name in enumerate(["a1", "a2", "b1", "v1", "v2"]):
        draw_image(home / "JPEGImages" / f"{name}.jpg")
        draw_mask(home / "SegmentationClassAug" / f"{name}.png", label + 10)
        if name != "b1":
            draw_mask(home / "SegmentationClass" / f"{name}.png", label)
    official = home / "ImageSets" / "Segmentation"
    write_list(official / "train.txt", "a2", "a1")
    write_list(official / "val.txt", "v1", "v2")
    write_list(official / "trainaug.txt", "a1", "a2", "b1")
    sbd = tmp_path / "voc" / "sbd"
    for name in ("a2", "s1", "v1"):
        draw_image(sbd / "img" / f"{name}.jpg")
        ids = np.full((HEIGHT, WIDTH), 20, np.uint8)
        draw_mat(sbd / "cls" / f"{name}.mat", GTcls={"Segmentation": ids, "Boundaries": ids})
    write_list(sbd / "train_noval.txt", "a2", "s1", "v1")
    return tmp_path / "voc"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Pascal-Context with labels.txt of 62 names, in another order than the classes."""
    root = tmp_path / "context"
    names = [*reversed(CONTEXT_CLASSES[1:]), "accordion", "zebra crossing"]
    spelt = {"pottedplant": "potted plant", "tvmonitor": "tv monitor"}
    lines = [f"{i}: {spelt.get(name, name)}" for i, name in enumerate(names, start=1)]
    write_list(root / "labels.txt", *lines)
    wood, aeroplane, accordion = 1, 59, 60
    for name in ("2008_1", "2008_2"):
        draw_image(root / "VOC2010" / "JPEGImages" / f"{name}.jpg")
        stored = np.full((HEIGHT, WIDTH), wood, np.uint16)
        stored[0], stored[1] = aeroplane, accordion
        draw_mat(root / "trainval" / f"{name}.mat", LabelMap=stored)
    write_list(root / "VOC2010" / "ImageSets" / "Main" / "train.txt", "2008_1")
    write_list(root / "VOC2010" / "ImageSets" / "Main" / "val.txt", "2008_2")
    return root


# --- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "train"),
    [("train", ("a1", "a2")), ("trainaug", ("a1", "a2", "b1")), ("sbd", ("a1", "a2", "s1"))],
)
def test_voc_list_conventions(voc: Path, lists: str, train: tuple[str, ...]) -> None:
    dataset = open_dataset(voc_params(voc, lists))
    assert dataset.ids("train") == train
    assert dataset.ids("val") == ("v1", "v2")
    for name in (*train, "v1", "v2"):
        assert dataset.image_path(name).is_file()
        assert dataset.label_path(name).is_file()


def test_voc_annotation_wins_over_sbd(voc: Path) -> None:
    dataset = open_dataset(voc_params(voc, "sbd"))
    assert dataset.label_map("a2")[5, 5] == 1, "in both: the VOC map"
    assert dataset.label_map("a2")[0, 0] == 255
    assert (dataset.label_map("s1") == 20).all(), "in SBD only"
    assert dataset.label_map("v1")[5, 5] == 3, "evaluation is on VOC val's own map"


def test_sbd_train_list_without_val_is_train_noval(voc: Path) -> None:
    (voc / "sbd" / "train_noval.txt").rename(voc / "sbd" / "train.txt")
    assert open_dataset(voc_params(voc, "sbd")).ids("train") == ("a1", "a2", "s1")


def test_trainaug_reads_its_own_masks(voc: Path) -> None:
    assert open_dataset(voc_params(voc, "trainaug")).label_map("a2")[5, 5] == 11
    assert open_dataset(voc_params(voc, "train")).label_map("a2")[5, 5] == 1


def test_root_may_be_any_of_the_three_folders(voc: Path, tmp_path: Path) -> None:
    wanted = ("a1", "a2")
    assert open_dataset(voc_params(voc / "VOC2012")).ids("train") == wanted
    (tmp_path / "kit" / "VOCdevkit").mkdir(parents=True)
    (voc / "VOC2012").rename(tmp_path / "kit" / "VOCdevkit" / "VOC2012")
    assert open_dataset(voc_params(tmp_path / "kit")).ids("train") == wanted


def test_context_matches_classes_by_name(context: Path) -> None:
    dataset = open_dataset(DatasetParams(layout="context", root=str(context)))
    assert (dataset.ids("train"), dataset.ids("val")) == (("2008_1",), ("2008_2",))
    label_map = dataset.label_map("2008_1")
    assert label_map.dtype == np.uint8
    assert (label_map[0] == 1).all(), "aeroplane"
    assert (label_map[1] == 0).all(), "not among the 59: background"
    assert (label_map[2:] == 59).all(), "wood"


def test_context_class_ids_are_those_of_the_specification() -> None:
    ids = {name: index for index, name in enumerate(CONTEXT_CLASSES)}
    assert len(ids) == 60
    stated = {"background": 0, "aeroplane": 1, "table": 11, "tvmonitor": 20, "bag": 21}
    stated |= {"cloth": 28, "fence": 32, "keyboard": 38, "curtain": 42, "bedclothes": 52}
    assert stated | {"wood": 59} == {name: ids[name] for name in [*stated, "wood"]}


def test_context_lookup_covers_every_class_once(context: Path) -> None:
    lookup = label_lookup(context / "labels.txt")
    assert lookup[0] == 0
    assert sorted(value for value in lookup if value) == list(range(1, 60))


def test_context_class_file_must_begin_with_background(context: Path) -> None:
    params = DatasetParams(layout="context", root=str(context))
    official = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
    names = [official.get(name, name) for name in CONTEXT_CLASSES]
    path = context / "classes-59.txt"
    write_list(path, *(f"{i}: {name}" for i, name in enumerate(names)))
    open_dataset(params)
    write_list(path, *(f"{i}: {name}" for i, name in enumerate(names[1:], start=1)))
    with pytest.raises(InputError, match=r"classes-59\.txt: its first class is 'aeroplane'"):
        open_dataset(params)
    write_list(path, "background", "bicycle", "aeroplane")
    with pytest.raises(InputError, match="'bicycle' stands where 'aeroplane' belongs"):
        open_dataset(params)


def test_context_labels_file_without_a_class_is_refused(context: Path) -> None:
    write_list(context / "labels.txt", *(f"1: {name}" for name in CONTEXT_CLASSES[1:-1]))
    with pytest.raises(InputError, match=r"labels\.txt: lacks the classes wood"):
        open_dataset(DatasetParams(layout="context", root=str(context)))


# --- doctor --------------------------------------------------------------------------------------


def problems(root: Path, lists: str = "train") -> dict[str, str]:
    """File name -> what is wrong with it."""
    found = diagnose(voc_params(root, lists), num_classes=21)
    assert all(problem.remedy for problem in found.problems)
    return {Path(problem.path).name: problem.what for problem in found.problems}


@pytest.mark.parametrize("lists", ["train", "trainaug", "sbd"])
def test_sound_dataset_has_no_problems(voc: Path, lists: str) -> None:
    assert problems(voc, lists) == {}


def test_doctor_reports_every_problem_by_file(voc: Path) -> None:
    home = voc / "VOC2012"
    ids = [f"x{i}" for i in range(6)]
    for name in ids:
        draw_image(home / "JPEGImages" / f"{name}.jpg")
        draw_mask(home / "SegmentationClass" / f"{name}.png", 1)
    write_list(home / "ImageSets" / "Segmentation" / "train.txt", "a1", "a2", "a2", "v1", *ids)
    images, masks = home / "JPEGImages", home / "SegmentationClass"
    (images / "x0.jpg").unlink()
    (masks / "x1.png").unlink()
    draw_image(images / "x2.jpg", size=(9, 12))
    draw_mask(masks / "x3.png", 21)
    Image.new("RGB", (WIDTH, HEIGHT)).save(masks / "x4.png")
    (images / "x5.jpg").write_bytes((images / "a1.jpg").read_bytes()[:-8])
    found = problems(voc)
    for file, what in {
        "train.txt": "lists 'a2' 2 times",
        "val.txt": "lists 'v1', which is a training image too",
        "x0.jpg": "is missing",
        "x1.png": "is missing",
        "x2.png": "is 16x12 pixels, its image",
        "x3.png": "holds label values 21",
        "x4.png": "an RGB picture with colours",
        "x5.jpg": "damaged",
    }.items():
        assert what in found.pop(file)
    assert found == {}


def test_doctor_reports_both_files_of_a_pair(voc: Path) -> None:
    (voc / "VOC2012" / "JPEGImages" / "a1.jpg").unlink()
    (voc / "VOC2012" / "SegmentationClass" / "a1.png").unlink()
    assert set(problems(voc)) == {"a1.jpg", "a1.png"}


def test_missing_list_does_not_hide_the_other_role(voc: Path) -> None:
    (voc / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    (voc / "VOC2012" / "JPEGImages" / "a1.jpg").unlink()
    found = problems(voc)
    assert set(found) == {"val.txt", "a1.jpg"}
    assert "missing" in found["val.txt"]


def test_empty_and_malformed_lists(voc: Path) -> None:
    official = voc / "VOC2012" / "ImageSets" / "Segmentation"
    (official / "train.txt").write_text("\n \n")
    write_list(official / "val.txt", "/JPEGImages/v1.jpg /SegmentationClass/v1.png")
    found = problems(voc)
    assert "the list is empty" in found["train.txt"]
    assert "is not an image id" in found["val.txt"]
    write_list(official / "val.txt", "v1\0")
    assert "is not an image id" in problems(voc)["val.txt"]


def test_missing_root_and_wrong_layout(voc: Path, tmp_path: Path) -> None:
    assert "no such folder" in problems(tmp_path / "nowhere")["nowhere"]
    assert "JPEGImages exists" in problems(voc / "sbd")["sbd"]


def test_summary_counts_images_void_and_absent_classes(voc: Path) -> None:
    train, val = diagnose(voc_params(voc), num_classes=5).summary
    assert (train.images, val.images) == (2, 2)
    assert train.absent_classes == (2, 3, 4)
    assert val.absent_classes == (0, 1, 2)
    assert train.void_share == pytest.approx(1 / (HEIGHT * WIDTH))
    assert str(train).startswith("train: 2 images, 0.52% of the pixels void")


def test_progress_counts_each_image(voc: Path) -> None:
    seen: list[tuple[int, int]] = []
    diagnose(voc_params(voc), num_classes=21, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# --- index ---------------------------------------------------------------------------------------


def index_of(root: Path, lists: str = "train", workers: int = 1) -> DatasetIndex:
    return build_index(open_dataset(voc_params(root, lists)), num_classes=21, workers=workers)


def test_index_survives_saving(voc: Path, tmp_path: Path) -> None:
    built = index_of(voc, "sbd")
    built.save(tmp_path)
    images = ImageIndex.load(tmp_path / "images.json")
    masks = MaskIndex.load(tmp_path / "train_masks.json")
    assert images == built.images
    assert masks == built.train_masks
    assert MaskIndex.load(tmp_path / "val_masks.json") == built.val_masks
    assert images.ids("train") == masks.ids() == ("a1", "a2", "s1")
    assert images.file("s1").path == voc.absolute() / "sbd" / "img" / "s1.jpg"
    assert images.image("s1").size == (WIDTH, HEIGHT)
    assert (masks.label_map("s1") == 20).all()


def test_context_index_decodes_without_the_names_file(context: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DatasetParams(layout="context", root=str(context)))
    build_index(dataset, num_classes=60).save(tmp_path)
    (context / "labels.txt").unlink()
    masks = MaskIndex.load(tmp_path / "train_masks.json")
    assert np.unique(masks.label_map("2008_1")).tolist() == [0, 1, 59]


def test_index_bytes_do_not_depend_on_workers_or_list_order(voc: Path, tmp_path: Path) -> None:
    index_of(voc).save(tmp_path / "one")
    write_list(voc / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt", "a1", "a2")
    index_of(voc, workers=2).save(tmp_path / "two")
    for name in ("images.json", "train_masks.json", "val_masks.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_place_changes_nothing_that_a_stage_depends_on(voc: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(voc, tmp_path / "elsewhere")
    index_of(voc).save(tmp_path / "one")
    index_of(elsewhere).save(tmp_path / "two")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"images.json", "train_masks.json", "val_masks.json", "root.json"}
    for name in names - {"root.json"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for folder, root in (("one", voc), ("two", elsewhere)):
        for name, load in (("images", ImageIndex.load), ("train_masks", MaskIndex.load)):
            loaded = load(tmp_path / folder / f"{name}.json")
            assert loaded == getattr(index_of(root), name)
            assert loaded.root == str(root)


def test_another_dataset_at_the_root_is_refused(voc: Path, tmp_path: Path) -> None:
    index_of(voc).save(tmp_path)
    images = ImageIndex.load(tmp_path / "images.json")
    draw_image(voc / "VOC2012" / "JPEGImages" / "a1.jpg", (HEIGHT, WIDTH))
    with pytest.raises(ArtifactError, match=r"a1\.jpg: changed since it was indexed"):
        read_image(images.file("a1"))


def test_photograph_index_knows_nothing_of_labels(voc: Path, tmp_path: Path) -> None:
    index_of(voc).save(tmp_path / "one")
    draw_mask(voc / "VOC2012" / "SegmentationClass" / "a1.png", 7)
    index_of(voc).save(tmp_path / "two")

    def same(name: str) -> bool:
        return (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    assert same("images.json")
    assert same("val_masks.json")
    assert not same("train_masks.json")


def test_index_refuses_a_dataset_with_problems(voc: Path) -> None:
    for name in ("a1", "a2", "v1", "v2"):
        (voc / "VOC2012" / "JPEGImages" / f"{name}.jpg").unlink()
    with pytest.raises(InputError, match=r"4 problem\(s\).*a1\.jpg.*zslib doctor") as refused:
        index_of(voc)
    assert "v2.jpg" not in str(refused.value)


def test_index_notices_a_mask_changed_later(voc: Path) -> None:
    masks = index_of(voc).train_masks
    draw_mask(voc / "VOC2012" / "SegmentationClass" / "a1.png", 7)
    with pytest.raises(ArtifactError, match=r"a1\.png: changed since it was indexed"):
        masks.label_map("a1")
    (voc / "VOC2012" / "SegmentationClass" / "a2.png").unlink()
    with pytest.raises(ImageError, match=r"a2\.png: is missing"):
        masks.label_map("a2")


def test_damaged_or_foreign_index_is_refused(voc: Path, tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    index_of(voc).save(tmp_path)
    text = path.read_text()
    document = json.loads(text)
    faults = {
        text[: len(text) // 2]: "cannot be read",
        text.replace('"width": 16', '"width": 17', 1): "checksum",
        json.dumps(document | {"schema": "index/1"}): "index/1",
        (tmp_path / "val_masks.json").read_text(): "MaskIndex",
        "[]": "cannot be read",
    }
    for content, reason in faults.items():
        path.write_text(content)
        with pytest.raises(ArtifactError, match="the stage that writes it: index") as refused:
            ImageIndex.load(path)
        assert reason in str(refused.value)
    path.write_text(text)
    (tmp_path / "root.json").unlink()
    with pytest.raises(ArtifactError, match=r"root\.json: cannot be read .*writes it: index"):
        ImageIndex.load(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="the stage that writes it: index"):
        ImageIndex.load(path)


def test_unknown_image_is_refused(voc: Path) -> None:
    with pytest.raises(ArtifactError, match="nobody: this image is not in the index"):
        index_of(voc).images.file("nobody")


# --- real photographs ----------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/voc12-mini is not here")
def test_real_voc_photographs() -> None:
    dataset = open_dataset(voc_params(REAL, "trainaug"))
    train, val = dataset.ids("train"), dataset.ids("val")
    assert (len(train), len(val)) == (3131, 445)
    for name in (*train[::800], *val[::150]):
        label_map = dataset.label_map(name)
        assert set(np.unique(label_map)) <= {*range(21), 255}
        with Image.open(dataset.image_path(name)) as image:
            assert label_map.shape == image.size[::-1]
