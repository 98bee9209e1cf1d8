"""Training views and the order in which they come (zs3net §1.7)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from zslib.datasets.views import (
    BatchOrder,
    TrainingViews,
    loader,
    size_with_short_side,
    training_view,
)
from zslib.errors import InputError
from zslib.params.training import AugmentationParams

PLAIN = AugmentationParams(base_size=16, crop_size=16, scale=(1.0, 1.0), blur=0.0)


def striped(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image whose red channel tells the label of each pixel: a stripe per column block."""
    labels = np.broadcast_to(np.arange(width) * 4 // width, (height, width)).astype(np.uint8)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 50 + labels * 50
    return image, np.ascontiguousarray(labels)


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((500, 375), 312, (416, 312)),
        ((375, 500), 312, (312, 416)),
        ((500, 333), 100, (150, 100)),
        ((10, 10), 7, (7, 7)),
    ],
)
def test_short_side_is_met_and_the_long_side_floored(
    size: tuple[int, int], short: int, expected: tuple[int, int]
) -> None:
    assert size_with_short_side(size, short) == expected


def numbered(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image whose red and green tell where a pixel is, 16 to a pixel, and labels that do."""
    rows, columns = np.indices((height, width), dtype=np.uint8)
    image = np.stack([16 * columns, 16 * rows, np.full_like(rows, 200)], axis=2)
    return image, rows * np.uint8(width) + columns


@settings(deadline=None, max_examples=50)
@given(st.integers(4, 15), st.integers(4, 15), st.integers(0, 999))
def test_a_view_keeps_pixels_and_labels_together(height: int, width: int, seed: int) -> None:
    image, labels = numbered(height, width)
    params = AugmentationParams(base_size=16, crop_size=16, scale=(0.5, 2.0), blur=0.0)
    view, view_labels = training_view(image, labels, params, np.random.default_rng(seed))
    assert view.shape == (16, 16, 3)
    assert view_labels.shape == (16, 16)
    inside = view_labels != 255
    assert (view[~inside] == 0).all(), "padding is black"
    assert (view[inside, 2] == 200).all(), "and nothing but padding is void"
    row, column = np.divmod(view_labels[inside].astype(int), width)
    assert np.abs(view[inside, 0] / 16 - column).max() < 0.75, "a label is of its pixel's column"
    assert np.abs(view[inside, 1] / 16 - row).max() < 0.75, "and of its row"


def test_crops_begin_anywhere() -> None:
    image, labels = numbered(15, 15)
    params = AugmentationParams(base_size=15, crop_size=12, scale=(1.0, 1.0), blur=0.0)
    views = [training_view(image, labels, params, np.random.default_rng(s))[1] for s in range(200)]
    corners = {divmod(int(view[:, [0, -1]].min()), 15) for view in views}
    assert corners == {(top, left) for top in range(4) for left in range(4)}


def test_images_are_resized_bilinearly() -> None:
    image, labels = numbered(8, 8)
    params = AugmentationParams(base_size=8, crop_size=16, scale=(2.0, 2.0), blur=0.0)
    view, _ = training_view(image, labels, params, np.random.default_rng(0))
    places = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    np.testing.assert_allclose(view[:, 0, 1], 16 * places, atol=1)


def test_small_images_are_padded_right_and_below() -> None:
    image, labels = striped(8, 8)
    params = AugmentationParams(base_size=16, crop_size=32, scale=(1.0, 1.0), blur=0.0)
    _, view = training_view(image, labels, params, np.random.default_rng(0))
    assert (view[:16, :16] != 255).all()
    assert (view[16:] == 255).all()
    assert (view[:, 16:] == 255).all()


def test_half_of_the_views_are_flipped() -> None:
    image, labels = striped(16, 16)
    views = [training_view(image, labels, PLAIN, np.random.default_rng(s))[1] for s in range(200)]
    flipped = sum(bool((view == labels[:, ::-1]).all()) for view in views)
    kept = sum(bool((view == labels).all()) for view in views)
    assert flipped + kept == 200
    assert 70 < flipped < 130


def test_scales_reach_both_ends_of_their_range() -> None:
    image = np.full((16, 16, 3), 200, np.uint8)
    params = AugmentationParams(base_size=8, crop_size=32, scale=(0.5, 2.0), blur=0.0)
    sides = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        _, view = training_view(image, np.zeros((16, 16), np.uint8), params, rng)
        sides.add(int((view[0] != 255).sum()))
    assert sides == set(range(4, 17))


def test_blur_changes_pixels_and_never_labels() -> None:
    image, labels = striped(16, 16)
    image[:, 5] = 255
    blurred = PLAIN.model_copy(update={"blur": 1.0})
    changed = 0
    for seed in range(10):
        plain_view = training_view(image, labels, PLAIN, np.random.default_rng(seed))
        blurred_view = training_view(image, labels, blurred, np.random.default_rng(seed))
        np.testing.assert_array_equal(plain_view[1], blurred_view[1])
        changed += bool((plain_view[0] != blurred_view[0]).any())
    assert changed >= 5


# --- order ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 30), st.integers(1, 4), st.integers(0, 99))
def test_an_epoch_shows_no_image_twice_and_leaves_out_less_than_a_batch(
    images: int, batch_size: int, seed: int
) -> None:
    order = BatchOrder(images, batch_size, section="backbone", seed=seed)
    epoch = list(order.batches(0, order.steps_per_epoch))
    keys = [key for batch in epoch for key in batch]
    assert len(set(keys)) == len(keys) > images - batch_size
    assert {len(batch) for batch in epoch} == {batch_size}
    assert {key[0] for key in keys} == {0}


def test_epochs_differ_and_seeds_differ() -> None:
    first, second = (
        list(BatchOrder(20, 4, section="backbone", seed=0).batches(s, s + 5)) for s in (0, 5)
    )
    assert [p for b in first for _, p in b] != [p for b in second for _, p in b]
    assert first != list(BatchOrder(20, 4, section="backbone", seed=1).batches(0, 5))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 17))
def test_batches_from_the_middle_are_those_of_the_whole_run(start: int) -> None:
    order = BatchOrder(11, 2, section="backbone", seed=3)
    assert list(order.batches(start, 17)) == list(order.batches(0, 17))[start:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_global_batch(world_size: int) -> None:
    whole = list(BatchOrder(20, 5, section="backbone", seed=1).batches(0, 6))
    shares = [
        list(
            BatchOrder(20, 5, section="backbone", seed=1, rank=r, world_size=world_size).batches(
                0, 6
            )
        )
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        parts = [key for share in shares for key in share[step]]
        assert sorted(parts) == sorted(batch)


@pytest.fixture
def views(tmp_path: Path) -> TrainingViews:
    maps = tiny.block_maps(6, [0, 1, 2])
    params = AugmentationParams(base_size=32, crop_size=32)
    images = tiny.write_images(tmp_path / "images", maps)
    return TrainingViews(images, maps, params, seed=0, cache_images=False)


def test_a_view_is_a_function_of_seed_epoch_and_image(views: TrainingViews) -> None:
    image, labels = views[0, 3]
    again_image, again_labels = views[0, 3]
    assert torch.equal(image, again_image)
    assert torch.equal(labels, again_labels)
    assert not torch.equal(image, views[1, 3][0])
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
    assert (labels.shape, labels.dtype) == ((32, 32), torch.uint8)


def test_the_image_cache_changes_no_view(views: TrainingViews) -> None:
    cached = TrainingViews(
        views._images, views._label_maps, views._params, seed=0, cache_images=True
    )
    for key in [(0, 1), (1, 1), (0, 1)]:
        assert torch.equal(cached[key][0], views[key][0])


def test_the_loader_yields_the_batches_of_the_order(views: TrainingViews) -> None:
    order = BatchOrder(6, 2, section="backbone", seed=0)
    batches = list(loader(views, order, 1, 4, workers=0))
    assert len(batches) == 3
    for (images, labels), keys in zip(batches, order.batches(1, 4), strict=True):
        assert torch.equal(images, torch.stack([views[key][0] for key in keys]))
        assert torch.equal(labels, torch.stack([views[key][1] for key in keys]))


def test_more_than_there_are_is_no_batch() -> None:
    assert BatchOrder(3, 3, section="backbone", seed=0).steps_per_epoch == 1
    refused = r"my\.section\.batch_size: 4 is more than the 3 pairs there are; lower it"
    with pytest.raises(InputError, match=refused):
        BatchOrder(3, 4, section="my.section", of="pairs", seed=0)


def test_a_batch_has_an_image_for_every_process() -> None:
    assert [*BatchOrder(6, 3, section="backbone", seed=0, rank=2, world_size=3).batches(0, 1)] != [
        []
    ]
    with pytest.raises(
        InputError, match=r"backbone\.batch_size: 2 .* cannot be shared by 3 process"
    ):
        BatchOrder(6, 2, section="backbone", seed=0, rank=2, world_size=3)
