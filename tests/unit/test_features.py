"""Geometry of the feature cache, sampling of rows, and extraction (zs3net §4.3, §10, oracle 7)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from tests import tiny
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.backbones.network import Normalise
from zslib.datasets.views import size_with_short_side
from zslib.features import (
    Photographs,
    Plan,
    extract,
    plan_bank,
    plan_dense,
    sample_ids,
    sample_rows,
    sample_unlabelled,
)
from zslib.grids import corner_nearest, feature_grid, floor_nearest
from zslib.params.backbone import FeatureParams
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
    assert feature_grid((height, width), 4) == grid


@pytest.mark.parametrize(("size", "cells"), [(312, 78), (513, 129), (375, 94), (500, 125)])
def test_zs3net_section_10_feature_grid(size: int, cells: int) -> None:
    assert feature_grid((size, size), 4) == (cells, cells)


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


def test_a_sample_of_ids_is_seeded_in_order_at_most_all_and_part_of_a_larger_one() -> None:
    ids = tiny.image_ids(20)
    sample = sample_ids(ids, 5, seed=1)
    assert len(sample) == 5
    assert list(sample) == sorted(sample)
    assert sample == sample_ids(ids, 5, seed=1)
    assert sample != sample_ids(ids, 5, seed=2)
    assert set(sample) < set(sample_ids(ids, 9, seed=1))
    assert sample_ids(ids, 50, seed=1) == ids


@pytest.mark.parametrize(("train_maps", "count"), [(4, 2), (8, 4), (1, 1), (16, 8), (99, 8)])
def test_unlabelled_images_are_the_same_share_of_theirs_as_labelled_ones(
    train_maps: int, count: int
) -> None:
    """Of 24 images a split drops every third: the proportion stays that of all (zs3net §6)."""
    train = tiny.image_ids(24)
    dropped = train[::3]
    labelled = tuple(name for name in train if name not in dropped)
    sample = sample_unlabelled(dropped, labelled, train_maps, seed=1)
    assert len(sample) == count
    assert sample == sample_ids(dropped, count, seed=1)
    assert sample_unlabelled(dropped, labelled, None, seed=1) == dropped


def test_unlabelled_images_with_seen_labels_are_those_of_which_maps_are_kept() -> None:
    """None was left out, or a few without a seen pixel were (simbaseline §1.1)."""
    train = tiny.image_ids(24)
    maps = sample_ids(train, 6, seed=1)
    assert sample_unlabelled(train, train, 6, seed=1) == maps
    labelled = train[2:]
    maps = sample_ids(labelled, 6, seed=1)
    (extra,) = set(sample := sample_unlabelled(train, labelled, 6, seed=1)) - set(maps)
    assert extra in train[:2]
    assert sample == tuple(sorted((extra, *maps)))


# --- extraction ----------------------------------------------------------------------------------

PARAMS = FeatureParams(short_side=8, rows_per_class=3)
SIZES = ((8, 8), (12, 8), (16, 12), (8, 8), (9, 8))
"""(width, height)"""


def mean_colours(images: Tensor) -> Tensor:
    """A network of stride 4: the mean colour of each 4 x 4 block, and the count of pixels in it."""
    return torch.nn.functional.avg_pool2d(images.float(), 4, ceil_mode=True) / 255


IDS = tiny.image_ids(len(SIZES))
KEPT = (IDS[0], IDS[3], IDS[4])
DESCRIBED = {"ids": list(IDS), "labels": tiny.SPLIT.describe()}


@pytest.fixture(scope="module")
def label_maps() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.choice([0, 1, 255], (h, w)).astype(np.uint8) for w, h in SIZES]


@pytest.fixture(scope="module")
def photographs(
    tmp_path_factory: pytest.TempPathFactory, label_maps: list[np.ndarray]
) -> Photographs:
    paths = tiny.write_images(tmp_path_factory.mktemp("images"), label_maps)
    return Photographs.of(paths, SIZES, short_side=PARAMS.short_side, stride=4)


def run(
    photographs: Photographs,
    plans: dict[Path, Plan],
    *,
    batch_size: int = 2,
    network: Callable[[Tensor], Tensor] = mean_colours,
    runtime: SingleProcess | None = None,
) -> None:
    out = next(iter(plans))
    extract(
        network,
        photographs,
        plans,
        dimension=3,
        batch_size=batch_size,
        runtime=runtime or SingleProcess(),
        scratch=out.parent / f"scratch-{out.name}",
    )


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory,
    photographs: Photographs,
    label_maps: list[np.ndarray],
) -> tuple[DenseMaps, PixelBank, DenseMaps]:
    """All maps, a bank, and some of the maps: three files of one pass."""
    folder = tmp_path_factory.mktemp("extracted")
    plans = {
        folder / "dense.h5": plan_dense(photographs, IDS),
        folder / "bank.h5": plan_bank(photographs, label_maps, PARAMS, seed=4, meta=DESCRIBED),
        folder / "some.h5": plan_dense(
            photographs, IDS, kept=KEPT, meta={"tuning": [KEPT[2], KEPT[0]]}
        ),
    }
    run(photographs, plans)
    return (
        DenseMaps.open(folder / "dense.h5"),
        PixelBank.open(folder / "bank.h5"),
        DenseMaps.open(folder / "some.h5"),
    )


Extracted = tuple[DenseMaps, PixelBank, DenseMaps]


def test_dense_maps_are_the_network_on_each_view(
    extracted: Extracted, photographs: Photographs
) -> None:
    from PIL import Image

    dense, _, _ = extracted
    assert dense.grids.tolist() == [list(feature_grid((h, w), 4)) for h, w in dense.meta["views"]]
    for path, view, found in zip(photographs.paths, dense.meta["views"], dense, strict=True):
        image = Image.open(path).resize((view[1], view[0]), Image.Resampling.BILINEAR)
        expected = mean_colours(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]
        torch.testing.assert_close(found, expected.permute(1, 2, 0).half())


def test_bank_rows_are_cells_of_the_dense_maps_with_their_labels(
    extracted: Extracted, label_maps: list[np.ndarray]
) -> None:
    dense, bank, _ = extracted
    for index, (found, label_map) in enumerate(zip(dense, label_maps, strict=True)):
        grid = floor_nearest(label_map, tuple(found.shape[:2]))
        rng = np.random.default_rng([4, index])
        cells, _ = sample_rows(grid, PARAMS.rows_per_class, rng)
        rows = slice(*bank.offsets[index : index + 2])
        np.testing.assert_array_equal(bank.labels[rows], grid.reshape(-1)[cells])
        np.testing.assert_array_equal(bank.features[rows], found.flatten(0, 1).numpy()[cells])
    assert bank.offsets[-1] == len(bank.labels) > 0


def test_maps_of_some_images_are_those_of_all(extracted: Extracted) -> None:
    dense, _, some = extracted
    assert some.ids == KEPT
    for image_id, found, expected in zip(KEPT, some, dense.only(KEPT), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        torch.testing.assert_close(found, dense[IDS.index(image_id)], rtol=0, atol=0)


def test_the_tuning_maps_come_in_the_order_they_are_named(extracted: Extracted) -> None:
    dense, _, some = extracted
    assert some.tuning.ids == (KEPT[2], KEPT[0])
    torch.testing.assert_close(some.tuning[0], dense[4], rtol=0, atol=0)


def test_an_image_of_void_has_no_rows(
    tmp_path: Path, photographs: Photographs, label_maps: list[np.ndarray]
) -> None:
    maps = [np.full_like(label_maps[0], 255), *label_maps[1:]]
    plan = plan_bank(photographs, maps, PARAMS, seed=4, meta=DESCRIBED)
    run(photographs, {tmp_path / "bank.h5": plan})
    assert PixelBank.open(tmp_path / "bank.h5").offsets[:2].tolist() == [0, 0]


def test_the_batch_size_does_not_change_the_bytes(tmp_path: Path, photographs: Photographs) -> None:
    for batch_size in (1, 3):
        out = tmp_path / f"{batch_size}.h5"
        run(photographs, {out: plan_dense(photographs, IDS)}, batch_size=batch_size)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()


class OneOfMany(SingleProcess):
    """One of some processes, which are threads here."""

    def __init__(self, rank: int, barrier: Barrier) -> None:
        super().__init__()
        self.rank, self.world_size, self._barrier = rank, barrier.parties, barrier

    def barrier(self) -> None:
        self._barrier.wait()


def test_what_some_processes_left_undone_another_number_of_them_does(
    tmp_path: Path,
    photographs: Photographs,
    label_maps: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zslib.artifacts.resumable.SECONDS_BETWEEN_FLUSHES", -1.0)
    barrier, seen = Barrier(2), []

    def plans(folder: Path) -> dict[Path, Plan]:
        bank = plan_bank(photographs, label_maps, PARAMS, seed=4, meta=DESCRIBED)
        return {folder / "dense.h5": plan_dense(photographs, IDS), folder / "bank.h5": bank}

    def dying(images: Tensor) -> Tensor:
        if len(seen) == 2:
            barrier.abort()
            raise tiny.KilledError
        return counting(images)

    def counting(images: Tensor) -> Tensor:
        seen.extend(images)
        return mean_colours(images)

    def process(rank: int) -> None:
        with pytest.raises((tiny.KilledError, BrokenBarrierError)):
            run(
                photographs,
                plans(tmp_path / "shared"),
                batch_size=1,
                network=dying,
                runtime=OneOfMany(rank, barrier),
            )

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(process, range(2)))
    assert 2 <= len(seen) < len(SIZES)
    run(photographs, plans(tmp_path / "shared"), network=counting, batch_size=1)
    assert len(seen) == len(SIZES), "an image was seen twice"
    run(photographs, plans(tmp_path / "alone"))
    for name in ("dense.h5", "bank.h5"):
        shared, alone = (tmp_path / folder / name for folder in ("shared", "alone"))
        assert shared.read_bytes() == alone.read_bytes()


def test_normalise_matches_the_written_rule() -> None:
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = Normalise(mean, std)(image)
    for channel in range(3):
        expected = (image[:, channel].float() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel], expected, atol=1e-5, rtol=1e-5)
