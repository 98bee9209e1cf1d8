"""COCO-Stuff, ADE20k, Cityscapes and CaGNet's Pascal-Context on tiny folders in their official layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from tools.compose_params import compose
from zslib.artifacts.maps import open_labels
from zslib.benchmark import Split
from zslib.cli import main
from zslib.datasets.context import CONTEXT_33, CONTEXT_CLASSES
from zslib.datasets.doctor import diagnose
from zslib.datasets.indexing import build_index
from zslib.datasets.labels import write_labels
from zslib.datasets.layouts import open_dataset
from zslib.errors import InputError
from zslib.params.benchmark import DatasetParams, Layout

HEIGHT, WIDTH = 4, 6
CLASSES: dict[Layout, int] = {"cocostuff": 182, "ade20k": 151, "cityscapes": 19}


def draw(path: Path, value: int, *, mode: str = "L") -> None:
    """Write a photograph or a label map of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, value, value)
    Image.new(mode, (WIDTH, HEIGHT), colour).save(path)


def draw_coco(root: Path) -> None:
    for role, name, value in [("train", "9", 20), ("train", "25", 181), ("val", "139", 255)]:
        stem = f"{name:0>12}"
        draw(root / f"{role}2017" / f"{stem}.jpg", 100, mode="RGB")
        draw(root / "stuffthingmaps" / f"{role}2017" / f"{stem}.png", value)


def draw_ade(root: Path) -> None:
    for role, name, value in [
        ("training", "train_00000001", 1),
        ("validation", "val_00000001", 150),
    ]:
        draw(root / "images" / role / f"ADE_{name}.jpg", 100, mode="RGB")
        draw(root / "annotations" / role / f"ADE_{name}.png", value)


def draw_cityscapes(root: Path) -> None:
    for city, frame, value in [("munster", "000000_000019", 0), ("lindau", "000001_000019", 18)]:
        name = f"{city}_{frame}"
        photograph = root / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png"
        draw(photograph, 100, mode="RGB")
        fine = root / "gtFine" / "val" / city
        draw(fine / f"{name}_gtFine_labelTrainIds.png", value)
        draw(fine / f"{name}_gtFine_labelIds.png", 33)
        (fine / f"{name}_gtFine_polygons.json").write_text("{}")


DRAWN: dict[Layout, Callable[[Path], None]] = {
    "cocostuff": draw_coco,
    "ade20k": draw_ade,
    "cityscapes": draw_cityscapes,
}


@pytest.fixture(params=DRAWN)
def drawn(request: pytest.FixtureRequest, tmp_path: Path) -> DatasetParams:
    DRAWN[request.param](tmp_path / "data")
    return DatasetParams(layout=request.param, root=str(tmp_path / "data"))


def drawn_coco(tmp_path: Path) -> DatasetParams:
    draw_coco(tmp_path / "data")
    return DatasetParams(layout="cocostuff", root=str(tmp_path / "data"))


def problems(params: DatasetParams) -> dict[str, str]:
    """File name -> what is wrong with it."""
    found = diagnose(params, num_classes=CLASSES[params.layout])
    assert all(problem.remedy for problem in found.problems)
    return {Path(problem.path).name: problem.what for problem in found.problems}


# --- adapters ------------------------------------------------------------------------------------


def test_a_sound_dataset_has_no_problems_and_becomes_an_index(drawn: DatasetParams) -> None:
    assert problems(drawn) == {}
    index = build_index(open_dataset(drawn), num_classes=CLASSES[drawn.layout])
    assert index.val_masks.ids() == index.images.ids("val")
    assert index.images.ids("val")
    for name in index.val_masks.ids():
        assert index.val_masks.label_map(name).shape == (HEIGHT, WIDTH)


def test_coco_pairs_are_of_one_stem(tmp_path: Path) -> None:
    dataset = open_dataset(drawn_coco(tmp_path))
    assert dataset.ids("train") == ("000000000009", "000000000025")
    assert dataset.ids("val") == ("000000000139",)
    assert dataset.image_path("000000000139").parent.name == "val2017"
    assert (dataset.label_map("000000000025") == 181).all()


def test_coco_may_lie_in_images_and_annotations(tmp_path: Path) -> None:
    params = drawn_coco(tmp_path)
    root = Path(params.root)
    (root / "stuffthingmaps").rename(root / "annotations")
    for folder in ("train2017", "val2017"):
        (root / "images").mkdir(exist_ok=True)
        (root / folder).rename(root / "images" / folder)
    assert problems(params) == {}


def test_targets_leave_training_images_alone(tmp_path: Path) -> None:
    draw_ade(tmp_path / "ADEChallengeData2016")
    dataset = open_dataset(DatasetParams(layout="ade20k", root=str(tmp_path)))
    assert dataset.ids("train") == ()
    assert dataset.ids("val") == ("ADE_val_00000001",)
    assert (dataset.label_map("ADE_val_00000001") == 150).all()


def test_cityscapes_reads_training_ids_of_every_city(tmp_path: Path) -> None:
    draw_cityscapes(tmp_path)
    dataset = open_dataset(DatasetParams(layout="cityscapes", root=str(tmp_path)))
    assert dataset.ids("val") == ("lindau_000001_000019", "munster_000000_000019")
    assert (dataset.label_map("lindau_000001_000019") == 18).all()


def test_cagnet_section_1_context_has_33_classes_of_the_459(tmp_path: Path) -> None:
    names = [*CONTEXT_CLASSES[:0:-1], "accordion"]
    (tmp_path / "trainval").mkdir()
    (tmp_path / "labels.txt").write_text(
        "".join(f"{i}: {name}\n" for i, name in enumerate(names, start=1))
    )
    for role in ("train", "val"):
        draw(tmp_path / "JPEGImages" / f"{role}.jpg", 100, mode="RGB")
        stored = np.full((HEIGHT, WIDTH), names.index("ceiling") + 1, np.uint16)
        stored[0], stored[1] = names.index("wood") + 1, names.index("cow") + 1
        savemat(tmp_path / "trainval" / f"{role}.mat", {"LabelMap": stored})
        (tmp_path / "ImageSets").mkdir(exist_ok=True)
        (tmp_path / "ImageSets" / f"{role}.txt").write_text(role)
    params = DatasetParams(layout="context33", root=str(tmp_path))
    assert diagnose(params, num_classes=len(CONTEXT_33)).problems == ()
    rows = open_dataset(params).label_map("train")[:, 0]
    assert rows.tolist() == [0, 10, 33, 33], "none of the 33, cow, ceiling"


# --- doctor --------------------------------------------------------------------------------------


def test_what_lacks_the_other_half_of_its_pair_is_told(drawn: DatasetParams) -> None:
    dataset = open_dataset(drawn)
    name = dataset.ids("val")[0]
    image, label_map = dataset.image_path(name), dataset.label_path(name)
    draw(renamed(image, name, f"{name}1"), 100, mode="RGB")
    draw(renamed(label_map, name, f"{name}2"), 0)
    missing = [renamed(label_map, name, f"{name}1"), renamed(image, name, f"{name}2")]
    assert problems(drawn) == {path.name: "is missing" for path in missing}


def renamed(path: Path, old: str, new: str) -> Path:
    """The file of another image in the same folder."""
    return path.with_name(path.name.replace(old, new))


def test_ids_outside_of_the_benchmark_are_told(drawn: DatasetParams) -> None:
    dataset = open_dataset(drawn)
    path = dataset.label_path(dataset.ids("val")[0])
    draw(path, 200)
    assert problems(drawn) == {
        path.name: f"holds label values 200, outside 0..{CLASSES[drawn.layout] - 1} and not 255"
    }


def test_a_label_map_of_another_size_is_told(drawn: DatasetParams) -> None:
    dataset = open_dataset(drawn)
    path = dataset.label_path(dataset.ids("val")[0])
    Image.new("L", (3, 3), 0).save(path)
    assert "is 3x3 pixels, its image" in problems(drawn)[path.name]


def test_a_missing_folder_is_told_with_what_to_do(drawn: DatasetParams) -> None:
    dataset = open_dataset(drawn)
    for name in dataset.ids("val"):
        dataset.label_path(name).unlink()
    ending = {"cocostuff": ".png", "ade20k": ".png", "cityscapes": "_gtFine_labelTrainIds.png"}
    with pytest.raises(InputError, match=rf"holds no .*\{{id\}}{ending[drawn.layout]}; check"):
        open_dataset(drawn)
    assert "holds no" in problems(drawn)["data"]


def test_an_image_is_not_for_training_and_validation(tmp_path: Path) -> None:
    params = drawn_coco(tmp_path)
    root = Path(params.root)
    draw(root / "val2017" / "000000000009.jpg", 100, mode="RGB")
    draw(root / "stuffthingmaps" / "val2017" / "000000000009.png", 0)
    assert problems(params) == {"data": "lists '000000000009', which is a training image too"}


@pytest.mark.parametrize(
    ("layout", "benchmark", "count"),
    [
        ("cocostuff", "cocostuff-simbaseline", "train: 2 images (published with 118287)"),
        ("ade20k", "ade20k", "val: 1 images (published with 2000)"),
    ],
)
def test_the_doctor_compares_counts_with_the_published_ones(
    layout: Layout, benchmark: str, count: str, tmp_path: Path
) -> None:
    DRAWN[layout](tmp_path / "data")
    compose(tmp_path / "params.yaml", f"benchmark={benchmark}", f"dataset.root={tmp_path}/data")
    told = CliRunner().invoke(main, ["doctor", "--params", str(tmp_path / "params.yaml")])
    assert told.exit_code == 0, told.output
    assert count in told.output


# --- seen labels ---------------------------------------------------------------------------------


def test_simbaseline_section_1_1_images_without_a_seen_pixel_are_left_out(tmp_path: Path) -> None:
    dataset = open_dataset(drawn_coco(tmp_path))
    build_index(dataset, num_classes=182).train_masks.save(tmp_path / "masks.json")
    names = [str(index) for index in range(182)]
    split = Split.from_ids("u1", names, unseen=[20], void=[11])
    kept = {}
    for rule in ("ignore", "drop_void"):
        out = tmp_path / f"{rule}.h5"
        write_labels(tmp_path / "masks.json", split, out, unseen_images=rule)
        kept[rule] = open_labels(out).ids
    assert kept == {
        "ignore": ("000000000009", "000000000025"),
        "drop_void": ("000000000025",),
    }
