"""Artifacts: one door in, verified on the way out, the same bytes for the same content."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests import tiny
from zslib.artifacts import publish
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LABELS, open_label_maps, write_label_maps
from zslib.artifacts.store import open_arrays, write_arrays
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.errors import ArtifactError

relaxed = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
some_arrays = st.dictionaries(
    st.sampled_from(["features", "labels", "offsets", "a", "weight.0"]),
    st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int32, np.int64]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(max_dims=3, min_side=0, max_side=5))
    ),
    min_size=1,
)
some_meta = st.dictionaries(
    st.text(max_size=5),
    st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=5), st.lists, max_leaves=3),
    max_size=3,
)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@relaxed
@given(some_arrays, some_meta)
def test_arrays_come_back_as_they_went(
    tmp_path: Path, content: dict[str, np.ndarray], meta: dict[str, object]
) -> None:
    write_arrays(tmp_path / "a.h5", content, schema=tiny.SCHEMA, meta=meta)
    found, found_meta = open_arrays(tmp_path / "a.h5", schema=tiny.SCHEMA)
    assert_equal(found, content)
    assert found_meta == meta


@relaxed
@given(some_arrays, some_meta)
def test_tensors_come_back_as_they_went(
    tmp_path: Path, content: dict[str, np.ndarray], meta: dict[str, object]
) -> None:
    save_tensors(tmp_path / "a.safetensors", content, schema=tiny.SCHEMA, meta=meta)
    found, found_meta = load_tensors(tmp_path / "a.safetensors", schema=tiny.SCHEMA)
    assert_equal(found, content)
    assert found_meta == meta


@pytest.mark.parametrize("write", [write_arrays, save_tensors])
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, write: object) -> None:
    content = {"b": np.arange(6.0), "a": np.arange(4, dtype=np.uint8).reshape(2, 2)}
    for name in ("one", "two"):
        write(tmp_path / name, content, schema=tiny.SCHEMA, meta={"y": 1, "x": [2]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_order_of_names_does_not_change_the_bytes_of_tensors(tmp_path: Path) -> None:
    a, b = np.zeros(3), np.ones(2)
    save_tensors(tmp_path / "one", {"a": a, "b": b}, schema=tiny.SCHEMA, meta={"x": 1, "y": 2})
    save_tensors(tmp_path / "two", {"b": b, "a": a}, schema=tiny.SCHEMA, meta={"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_opened_arrays_are_memory_maps_that_cannot_be_written(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", {"x": np.zeros(4)}, schema=tiny.SCHEMA, meta={})
    array = open_arrays(tmp_path / "a.h5", schema=tiny.SCHEMA)[0]["x"]
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


# --- publish -------------------------------------------------------------------------------------


def test_a_published_file_is_a_new_inode_and_leaves_links_to_the_old_one_alone(
    tmp_path: Path,
) -> None:
    target, cached = tmp_path / "a.json", tmp_path / "cache"
    target.write_text("old")
    cached.hardlink_to(target)
    with publish(target) as temporary:
        temporary.write_text("new")
    assert (target.read_text(), cached.read_text()) == ("new", "old")


def test_a_published_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with publish(tmp_path / "folder") as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / name).write_text(name)
    assert [p.name for p in (tmp_path / "folder" / "deep").iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("old", "new"), [("file", "folder"), ("folder", "file")])
def test_a_file_replaces_a_folder_and_a_folder_a_file(tmp_path: Path, old: str, new: str) -> None:
    for kind in (old, new):
        with publish(tmp_path / "artifact") as temporary:
            if kind == "folder":
                temporary.mkdir()
            (temporary / "content" if kind == "folder" else temporary).write_text(kind)
    found = tmp_path / "artifact"
    assert (found if new == "file" else found / "content").read_text() == new
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_the_old_artifact_and_nothing_else(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "artifact"
    target.write_text("old")

    def write(temporary: Path) -> None:
        if kind == "folder":
            temporary.mkdir()
            temporary = temporary / "content"
        temporary.write_text("half of the n")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"), publish(target) as temporary:
        write(temporary)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_publish_makes_the_folders_above(tmp_path: Path) -> None:
    with publish(tmp_path / "a" / "b" / "c.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


# --- label maps, bank, dense maps ----------------------------------------------------------------


@relaxed
@given(st.lists(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=6)), max_size=4))
def test_label_maps_of_any_sizes_come_back_by_position(
    tmp_path: Path, maps: list[np.ndarray]
) -> None:
    ids = [f"id{index}" for index in range(len(maps))]
    meta = {"classes": ["a", "b"], "split": "s"}
    sizes = [label_map.shape for label_map in maps]
    write_label_maps(tmp_path / "maps.h5", ids, sizes, maps, schema=LABELS, meta=meta)
    found = open_label_maps(tmp_path / "maps.h5", schema=LABELS)
    assert found.ids == tuple(ids)
    assert found.classes == ("a", "b")
    assert len(found) == len(maps)
    for position, (one, expected) in enumerate(zip(found, maps, strict=True)):
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(found[position], expected)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> PixelBank:
    path = tmp_path_factory.mktemp("bank") / "bank.h5"
    return PixelBank.open(tiny.write_bank(path, images=4, rows=10))


def test_bank_gathers_rows_in_the_order_asked_as_float32(bank: PixelBank) -> None:
    rows = np.array([7, 0, 39, 7], np.int64)
    gathered = bank.gather(rows)
    assert gathered.dtype == torch.float32
    np.testing.assert_array_equal(gathered.numpy(), np.asarray(bank.features)[rows])


def test_bank_knows_the_rows_of_images_and_of_classes(bank: PixelBank) -> None:
    outside = bank.rows_outside(["image01", "image03", "elsewhere"])
    np.testing.assert_array_equal(np.flatnonzero(outside), [*range(10), *range(20, 30)])
    expected = (bank.labels == 0) | (bank.labels == 3)
    np.testing.assert_array_equal(bank.rows_of_classes([0, 3]), expected)
    assert bank.rows_outside([]).all()
    assert bank.dimension == tiny.DIMENSION
    assert bank.split == tiny.SPLIT


def test_dense_maps_come_in_order_with_their_sizes(tmp_path: Path) -> None:
    labels = [np.full((2, 3), 1, np.uint8), np.full((4, 1), 2, np.uint8)]
    maps = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", labels))
    assert len(maps) == 2
    for index, (one, label_map) in enumerate(zip(maps, labels, strict=True)):
        expected = tiny.features(label_map, seed=5 + index)
        np.testing.assert_array_equal(one.numpy(), expected)


def test_a_bank_is_no_dense_map(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds 'bank/1', not 'dense/1'"):
        DenseMaps.open(tiny.write_bank(tmp_path / "bank.h5"))
