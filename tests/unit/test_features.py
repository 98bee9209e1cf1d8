"""Geometry of the feature cache, sampling of rows, and extraction (zs3net §4.3, §10, oracle 7)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from tests import tiny
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.backbones.deeplab import Normalise
from zslib.datasets.views import size_with_short_side
from zslib.features import extract, plan_bank, plan_dense, sample_rows, tuning_sample
from zslib.grids import corner_nearest, feature_grid, floor_nearest
from zslib.params import FeatureParams
from zslib.sampling import ClassRows, NaturalRows
from zslib.training import SingleProcess

label_arrays = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([0, 1, 2, 255]),
)
relaxed = settings(deadline=None, max_examples=50)


# --- geometry ------------------------------------------------------------------------------------


def chosen_pixels(size: int, cells: int) -> list[int]:
    """Which pixels of a line `floor_nearest` takes."""
    low, high = np.divmod(np.arange(size), 256)
    column = [floor_nearest(part.astype(np.uint8)[:, None], (cells, 1)) for part in (low, high)]
    return (column[0].astype(int) * 256 + column[1])[:, 0].tolist()


def test_zs3net_oracle_7_floor_nearest_312_to_78() -> None:
    assert chosen_pixels(312, 78) == list(range(0, 312, 4))


def test_zs3net_oracle_7_floor_nearest_513_to_129() -> None:
    chosen = chosen_pixels(513, 129)
    assert chosen[:6] == [0, 3, 7, 11, 15, 19]
    assert chosen[-3:] == [501, 505, 509]


def test_spnet_s6_floor_nearest_321_to_41() -> None:
    chosen = chosen_pixels(321, 41)
    assert chosen[:6] == [0, 7, 15, 23, 31, 39]
    assert chosen[-1] == 313


@pytest.mark.parametrize(
    ("short", "view", "grid"), [(312, (416, 312), (78, 104)), (513, (684, 513), (129, 171))]
)
def test_zs3net_oracle_7_view_and_grid_of_500x375(
    short: int, view: tuple[int, int], grid: tuple[int, int]
) -> None:
    width, height = size_with_short_side((500, 375), short)
    assert (width, height) == view
    assert feature_grid((height, width)) == grid


@pytest.mark.parametrize(("size", "cells"), [(312, 78), (513, 129), (375, 94), (500, 125)])
def test_zs3net_section_10_feature_grid(size: int, cells: int) -> None:
    assert feature_grid((size, size)) == (cells, cells)


@relaxed
@given(label_arrays, st.integers(1, 12), st.integers(1, 12))
def test_floor_nearest_equals_a_naive_loop(label_map: np.ndarray, height: int, width: int) -> None:
    expected = np.empty((height, width), np.uint8)
    for i in range(height):
        for j in range(width):
            source = i * label_map.shape[0] // height, j * label_map.shape[1] // width
            expected[i, j] = label_map[source]
    np.testing.assert_array_equal(floor_nearest(label_map, (height, width)), expected)


@relaxed
@given(st.integers(2, 12), st.integers(2, 40))
def test_corner_nearest_takes_the_pixel_under_each_cell_of_aligned_upsampling(
    cells: int, size: int
) -> None:
    line = np.arange(size, dtype=np.uint8)[:, None]
    chosen = corner_nearest(line, (cells, 1))[:, 0]
    assert (chosen[0], chosen[-1]) == (0, size - 1)
    positions = np.arange(cells) * (size - 1) / (cells - 1)
    assert (np.abs(chosen - positions) <= 0.5 + 1e-9).all()


# --- sampling ------------------------------------------------------------------------------------


@relaxed
@given(label_arrays, st.integers(1, 20), st.integers(0, 99))
def test_sampled_rows_are_distinct_bounded_labelled_and_stand_for_every_cell(
    labels: np.ndarray, per_class: int, seed: int
) -> None:
    cells, shares = sample_rows(labels, per_class, np.random.default_rng(seed))
    flat = labels.reshape(-1)
    assert len(cells) == len(shares)
    assert (np.diff(cells) > 0).all(), "in order, none twice"
    assert not (flat[cells] == 255).any()
    for label in np.unique(flat[flat != 255]):
        of_class = flat[cells] == label
        assert of_class.sum() == min(per_class, (flat == label).sum())
        assert shares[of_class].sum() == pytest.approx((flat == label).sum(), rel=1e-6)


def bank_with(pixels: np.ndarray, labels: np.ndarray) -> PixelBank:
    features = np.zeros((len(labels), 2), np.float16)
    offsets = np.array([0, len(labels)])
    return PixelBank(features, labels, pixels, offsets, ("a",), tiny.SPLIT)


def test_natural_rows_come_as_often_as_the_pixels_they_stand_for() -> None:
    pixels = np.array([1, 8, 0.5, 3, 100, 4], np.float32)
    allowed = np.array([True, True, True, True, False, True])
    rows = NaturalRows(bank_with(pixels, np.zeros(6, np.uint8)), allowed)
    drawn = np.bincount(rows.draw(200_000, np.random.default_rng(0)), minlength=6)
    expected = np.where(allowed, pixels, 0) / pixels[allowed].sum()
    np.testing.assert_allclose(drawn / 200_000, expected, atol=0.005)
    assert drawn[4] == 0


@relaxed
@given(
    arrays(np.uint8, st.integers(1, 30), elements=st.integers(0, 5)),
    st.integers(0, 2**30),
    st.sampled_from([(0, 1, 2, 3, 4, 5), (1, 4), (5,)]),
)
def test_class_rows_have_the_class_that_was_asked_for_and_are_allowed(
    labels: np.ndarray, mask: int, classes: tuple[int, ...]
) -> None:
    allowed = (mask >> np.arange(len(labels))) % 2 == 1
    allowed[0] = True
    rows = ClassRows(bank_with(np.ones(len(labels), np.float32), labels), allowed, classes)
    assert set(rows.classes) == set(labels[allowed].tolist()) & set(classes)
    for label in rows.classes:
        drawn = rows.draw(label, 60, np.random.default_rng(0))
        assert (labels[drawn] == label).all()
        assert allowed[drawn].all()


def test_class_rows_reach_every_row_of_a_class() -> None:
    labels = np.array([2, 0, 2, 1, 2], np.uint8)
    rows = ClassRows(bank_with(np.ones(5, np.float32), labels), np.ones(5, bool), (0, 1, 2))
    assert set(rows.draw(2, 200, np.random.default_rng(0)).tolist()) == {0, 2, 4}


def test_tuning_sample_is_seeded_in_order_and_at_most_all() -> None:
    ids = tiny.image_ids(20)
    sample = tuning_sample(ids, 5, seed=1)
    assert len(sample) == 5
    assert list(sample) == sorted(sample)
    assert sample == tuning_sample(ids, 5, seed=1)
    assert sample != tuning_sample(ids, 5, seed=2)
    assert tuning_sample(ids, 50, seed=1) == ids


# --- extraction ----------------------------------------------------------------------------------

PARAMS = FeatureParams(short_side=8, rows_per_class=3)
SIZES = ((8, 8), (12, 8), (16, 12), (8, 8), (9, 8))
"""(width, height)"""


def mean_colours(images: Tensor) -> Tensor:
    """A network of stride 4: the mean colour of each 4 x 4 block, and the count of pixels in it."""
    return torch.nn.functional.avg_pool2d(images.float(), 4, ceil_mode=True) / 255


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    maps = [rng.choice([0, 1, 255], (h, w)).astype(np.uint8) for w, h in SIZES]
    return tiny.write_images(tmp_path_factory.mktemp("images"), maps), maps


def run(plan: object, out: Path, *, batch_size: int = 2) -> None:
    extract(
        mean_colours,
        plan,
        out,
        dimension=3,
        batch_size=batch_size,
        runtime=SingleProcess(),
        scratch=out.parent / f"scratch-{out.name}",
    )


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, photographs: tuple[list[Path], list[np.ndarray]]
) -> tuple[DenseMaps, PixelBank]:
    folder = tmp_path_factory.mktemp("extracted")
    images, maps = photographs
    ids = list(tiny.image_ids(len(SIZES)))
    run(plan_dense(images, SIZES, PARAMS, meta={"ids": ids}), folder / "dense.h5")
    meta = {"ids": ids, "labels": tiny.SPLIT.describe()}
    plan = plan_bank(images, SIZES, maps, PARAMS, seed=4, meta=meta)
    run(plan, folder / "bank.h5")
    return DenseMaps.open(folder / "dense.h5"), PixelBank.open(folder / "bank.h5")


def test_dense_maps_are_the_network_on_each_view(
    extracted: tuple[DenseMaps, PixelBank], photographs: tuple[list[Path], list[np.ndarray]]
) -> None:
    from PIL import Image

    dense, _ = extracted
    assert dense.grids.tolist() == [list(feature_grid((v[0], v[1]))) for v in dense.meta["views"]]
    for path, view, found in zip(photographs[0], dense.meta["views"], dense, strict=True):
        image = Image.open(path).resize((view[1], view[0]), Image.Resampling.BILINEAR)
        expected = mean_colours(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]
        torch.testing.assert_close(found, expected.permute(1, 2, 0).half())


def test_bank_rows_are_cells_of_the_dense_maps_with_their_labels(
    extracted: tuple[DenseMaps, PixelBank], photographs: tuple[list[Path], list[np.ndarray]]
) -> None:
    dense, bank = extracted
    for index, (found, label_map) in enumerate(zip(dense, photographs[1], strict=True)):
        grid = floor_nearest(label_map, tuple(found.shape[:2]))
        rng = np.random.default_rng([4, index])
        cells, _ = sample_rows(grid, PARAMS.rows_per_class, rng)
        rows = slice(*bank.offsets[index : index + 2])
        np.testing.assert_array_equal(bank.labels[rows], grid.reshape(-1)[cells])
        np.testing.assert_array_equal(bank.features[rows], found.flatten(0, 1).numpy()[cells])
    assert bank.offsets[-1] == len(bank.labels) > 0


def test_an_image_of_void_has_no_rows(
    tmp_path: Path, photographs: tuple[list[Path], list[np.ndarray]]
) -> None:
    images, maps = photographs
    maps = [np.full_like(maps[0], 255), *maps[1:]]
    meta = {"ids": list(tiny.image_ids(5)), "labels": tiny.SPLIT.describe()}
    run(plan_bank(images, SIZES, maps, PARAMS, seed=4, meta=meta), tmp_path / "bank.h5")
    assert PixelBank.open(tmp_path / "bank.h5").offsets[:2].tolist() == [0, 0]


def test_the_batch_size_does_not_change_the_bytes(
    tmp_path: Path, photographs: tuple[list[Path], list[np.ndarray]]
) -> None:
    for batch_size in (1, 3):
        plan = plan_dense(photographs[0], SIZES, PARAMS, meta={"ids": []})
        run(plan, tmp_path / f"{batch_size}.h5", batch_size=batch_size)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()


def test_normalise_matches_the_written_rule() -> None:
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = Normalise(mean, std)(image)
    for channel in range(3):
        expected = (image[:, channel].float() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel], expected, atol=1e-5, rtol=1e-5)
