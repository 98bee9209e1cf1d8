"""Splits, and the label maps that training may see (zs3net §1.5, spnet §1.5, oracle S8)."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests import tiny
from zslib.artifacts.maps import LABELS, open_labels
from zslib.benchmark import Split
from zslib.datasets.labels import unlabelled_ids, write_labels
from zslib.errors import InputError

VOC = ("background", *(f"class{i}" for i in range(1, 21)))
SPNET_VOC = Split.named("spnet", VOC, unseen=VOC[16:], void=["background"])
HOLD_OUT = SPNET_VOC.hide((13, 14, 15))

maps = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([*range(21), 255])
)


def mapped(split: Split, raw: int) -> int:
    return int(split.seen_labels(np.array([[raw]], np.uint8))[0, 0])


@pytest.mark.parametrize(
    ("raw", "position"), [(0, None), (1, 0), (12, 11), (13, 12), (15, 14), (16, None), (20, None)]
)
def test_spnet_s8_final_training_map(raw: int, position: int | None) -> None:
    """Raw ids are kept; the spec's number is the position in the classifier's order."""
    assert mapped(SPNET_VOC, raw) == (255 if position is None else raw)
    assert (SPNET_VOC.seen.index(raw) if raw in SPNET_VOC.seen else None) == position


def test_spnet_s8_void_stays_void() -> None:
    assert mapped(SPNET_VOC, 255) == 255


@pytest.mark.parametrize("raw", [0, 13, 14, 15, 16, 20, 255])
def test_spnet_s8_hold_out_hides_validation_classes(raw: int) -> None:
    assert mapped(HOLD_OUT, raw) == 255
    assert HOLD_OUT.seen == tuple(range(1, 13))
    assert HOLD_OUT.unseen == (13, 14, 15)
    assert set(HOLD_OUT.void) == {0, *range(16, 21)}


def test_spnet_s8_generalised_test_map() -> None:
    order = SPNET_VOC.seen + SPNET_VOC.unseen
    assert [order.index(raw) for raw in range(16, 21)] == [15, 16, 17, 18, 19]
    raw = np.array([[0, 1, 16, 20, 255]], np.uint8)
    assert SPNET_VOC.scored_labels(raw).tolist() == [[255, 1, 16, 20, 255]]


def test_spnet_s8_zero_label_test_map() -> None:
    assert [SPNET_VOC.unseen.index(raw) for raw in range(16, 21)] == [0, 1, 2, 3, 4]


@settings(deadline=None)
@given(maps)
def test_seen_labels_hold_seen_classes_and_void_only(raw: np.ndarray) -> None:
    labels = SPNET_VOC.seen_labels(raw)
    assert set(np.unique(labels)) <= {*SPNET_VOC.seen, 255}
    kept = labels != 255
    np.testing.assert_array_equal(labels[kept], raw[kept])
    np.testing.assert_array_equal(kept, np.isin(raw, SPNET_VOC.seen))
    assert SPNET_VOC.shows_unseen(raw) == bool(np.isin(raw, SPNET_VOC.unseen).any())


def test_a_split_comes_back_from_its_description() -> None:
    for split in (SPNET_VOC, HOLD_OUT):
        assert Split.described(json.loads(json.dumps(split.describe()))) == split


def test_seen_unseen_and_void_share_out_all_classes() -> None:
    for split in (SPNET_VOC, HOLD_OUT, tiny.SPLIT):
        ids = [*split.seen, *split.unseen, *split.void]
        assert sorted(ids) == list(range(len(split.classes)))


# --- the artifact --------------------------------------------------------------------------------

RAW = [
    np.array([[0, 1], [2, 255]], np.uint8),
    np.array([[4, 4], [1, 255]], np.uint8),  # unseen
    np.array([[0, 8, 1], [0, 0, 0]], np.uint8),  # one unseen pixel
    np.full((2, 2), 255, np.uint8),
]


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return tiny.write_masks(tmp_path / "masks", RAW, num_classes=9)


def test_drop_leaves_out_every_image_with_an_unseen_pixel(masks: Path, tmp_path: Path) -> None:
    write_labels(masks, tiny.SPLIT, tmp_path / "labels.h5", unseen_images="drop")
    labels = open_labels(tmp_path / "labels.h5")
    assert labels.ids == ("image00", "image03")
    assert labels.meta["dropped_images"] == 2
    np.testing.assert_array_equal(labels[0], RAW[0])


def test_ignore_keeps_every_image_with_unseen_pixels_void(masks: Path, tmp_path: Path) -> None:
    write_labels(masks, tiny.SPLIT, tmp_path / "labels.h5", unseen_images="ignore")
    labels = open_labels(tmp_path / "labels.h5")
    assert labels.ids == tiny.image_ids(4)
    assert labels[1].tolist() == [[255, 255], [1, 255]]
    assert labels[2].tolist() == [[0, 255, 1], [0, 0, 0]]
    assert Split.described(labels.meta) == tiny.SPLIT


def test_a_void_class_is_void_also_where_no_class_is_unseen(masks: Path, tmp_path: Path) -> None:
    everything = Split.from_ids("all", tiny.CLASSES, [], [0])
    write_labels(masks, everything, tmp_path / "labels.h5", unseen_images="ignore")
    labels = open_labels(tmp_path / "labels.h5")
    assert labels[0].tolist() == [[255, 1], [2, 255]]
    np.testing.assert_array_equal(labels[1], RAW[1])


@pytest.mark.parametrize("rule", ["drop", "ignore", "drop_void"])
def test_the_file_is_the_one_of_all_maps_at_once(masks: Path, tmp_path: Path, rule: str) -> None:
    write_labels(masks, tiny.SPLIT, tmp_path / "labels.h5", unseen_images=rule)
    labels = open_labels(tmp_path / "labels.h5")
    described = {name: value for name, value in labels.meta.items() if name != "ids"}
    kept = [RAW[tiny.image_ids(4).index(image_id)] for image_id in labels.ids]
    at_once = [tiny.SPLIT.seen_labels(label_map) for label_map in kept]
    tiny.write_label_maps(tmp_path / "all.h5", labels.ids, at_once, schema=LABELS, meta=described)
    assert (tmp_path / "labels.h5").read_bytes() == (tmp_path / "all.h5").read_bytes()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("drop", ("image01", "image02")),
        ("ignore", tiny.image_ids(4)),
        # image03 has no seen pixel and is left out; image01 and image02 still have void unseen ones.
        ("drop_void", tiny.image_ids(4)),
    ],
)
def test_which_images_self_training_labels_is_decided_by_the_rule(
    masks: Path, tmp_path: Path, rule: str, expected: tuple[str, ...]
) -> None:
    write_labels(masks, tiny.SPLIT, tmp_path / "labels.h5", unseen_images=rule)
    labels = open_labels(tmp_path / "labels.h5")
    assert labels.meta["unseen_images"] == rule
    assert (len(labels) < 4) == (rule != "ignore")
    assert unlabelled_ids(labels, tiny.image_ids(4)) == expected


def test_where_no_image_shows_an_unseen_class_all_are_for_self_training(tmp_path: Path) -> None:
    masks = tiny.write_masks(tmp_path, [RAW[0]] * 3, num_classes=9)
    write_labels(masks, tiny.SPLIT, tmp_path / "labels.h5", unseen_images="drop")
    labels = open_labels(tmp_path / "labels.h5")
    assert unlabelled_ids(labels, tiny.image_ids(3)) == tiny.image_ids(3)


def test_ten_times_the_images_take_no_more_memory(tmp_path: Path) -> None:
    label_maps = tiny.label_maps(40, tiny.SPLIT.seen, seed=0, side=256)

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        masks = tiny.write_masks(folder, label_maps[:count], num_classes=9)
        tracemalloc.start()
        write_labels(masks, tiny.SPLIT, folder / "labels.h5", unseen_images="drop_void")
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    peak(1)  # what is imported and kept the first time
    assert peak(40) - peak(4) < 2 * label_maps[0].nbytes


def test_no_image_left_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    masks = tiny.write_masks(tmp_path, [RAW[1], RAW[2]], num_classes=9)
    with pytest.raises(InputError, match=r"split 'tiny'.*unseen_images to 'ignore'"):
        write_labels(masks, tiny.SPLIT, tmp_path / "labels.h5", unseen_images="drop")
    assert not (tmp_path / "labels.h5").exists()
