"""Windows that slide over an image, and what CLIP says through them (simbaseline §6; §12, check 10)."""

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.unit.tiny_clip import tiny_clip
from zslib.params.simbaseline import WindowParams, WindowScale
from zslib.vision_language.model import VisionLanguageModel, normalise
from zslib.vision_language.windows import averaged, corners, embed_windows, starts, stride_of

CLASS = WindowParams(scales=[WindowScale(short_side=32, tile=32)], batch_size=3)
DENSE = CLASS.model_copy(update={"tokens": "dense"})
SIDES = st.integers(1, 60)
TILES = st.integers(8, 40)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny_clip()


def picture(height: int, width: int) -> Tensor:
    rng = np.random.default_rng([height, width])
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))


# --- where they are ------------------------------------------------------------------------------


def test_check_10_tiles_of_224_on_an_image_of_512_by_683() -> None:
    assert stride_of(224) == 75
    assert (len(starts(512, 224)), len(starts(683, 224))) == (5, 8)
    found = corners((512, 683), 224)
    assert len(found) == 40
    assert (found[0], found[1], found[-1]) == ((0, 0), (0, 75), (512 - 224, 683 - 224))


@pytest.mark.parametrize(("tile", "stride"), [(225, 75), (256, 86), (512, 171)])
def test_a_window_overlaps_the_next_by_two_thirds_at_least(tile: int, stride: int) -> None:
    assert stride_of(tile) == stride


@given(length=st.integers(1, 900), tile=st.integers(8, 512))
def test_windows_cover_a_side_and_stay_in_it(length: int, tile: int) -> None:
    found = starts(length, tile)
    assert found[0] == 0
    assert found[-1] + tile == max(length, tile)
    assert all(0 < step <= stride_of(tile) for step in np.diff(found))
    assert len(found) == max(ceil((length - tile) / stride_of(tile)), 0) + 1


# --- what they say together ----------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(height=SIDES, width=SIDES, tile=TILES, grid=st.integers(1, 3), seed=st.integers(0, 9))
def test_every_pixel_has_a_distribution(
    height: int, width: int, tile: int, grid: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    windows = len(corners((height, width), tile))
    maps = torch.randn(windows, 4, grid, grid, generator=generator).softmax(1)
    found = averaged(maps, (height, width), tile)
    assert found.shape == (4, height, width)
    torch.testing.assert_close(found.sum(0), torch.ones(height, width))
    assert (found >= maps.min() - 1e-6).all()


def test_a_class_token_says_the_same_of_its_whole_window() -> None:
    distribution = torch.tensor([0.2, 0.7, 0.1])
    found = averaged(distribution.view(1, 3, 1, 1), (32, 32), 32)
    torch.testing.assert_close(found, distribution.view(3, 1, 1).expand(3, 32, 32))


def test_where_windows_overlap_their_mean_counts() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    found = averaged(torch.stack([first, second])[..., None, None], (30, 40), 30)
    assert corners((30, 40), 30) == [(0, 0), (0, 10)]
    parts = zip(
        found.split([10, 20, 10], dim=2), (first, (first + second) / 2, second), strict=True
    )
    for part, expected in parts:
        torch.testing.assert_close(part, expected.view(2, 1, 1).expand_as(part))


def test_patches_are_resized_to_the_window() -> None:
    maps = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(maps, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(averaged(maps, (32, 32), 32), large[0])


# --- what CLIP says of each ----------------------------------------------------------------------


def test_a_window_is_embedded_as_the_picture_that_it_shows(model: VisionLanguageModel) -> None:
    image = picture(40, 50)
    found = embed_windows(model, image, 32, CLASS)
    places = corners((40, 50), 32)
    assert found.shape == (len(places), model.dimension, 1, 1)
    for vector, (top, left) in zip(found, places, strict=True):
        cut = normalise(image[None, :, top : top + 32, left : left + 32].float())
        torch.testing.assert_close(vector[:, 0, 0], model.embed_images(cut)[0])


def test_a_small_image_is_filled_up_with_the_mean_colour(model: VisionLanguageModel) -> None:
    image = picture(20, 32)
    found = embed_windows(model, image, 32, CLASS)
    filled = torch.zeros(1, 3, 32, 32)
    filled[0, :, :20] = normalise(image.float())
    torch.testing.assert_close(found[:, :, 0, 0], model.embed_images(filled))


@pytest.mark.parametrize("tile", [32, 48])
def test_dense_tokens_are_all_patches_through_the_last_norm_and_the_projection(
    model: VisionLanguageModel, tile: int
) -> None:
    image, grid = picture(tile, tile), tile // 8
    found = embed_windows(model, image, tile, DENSE)
    assert found.shape == (1, model.dimension, grid, grid)
    vision, colours = model.clip.vision_model, normalise(image[None].float())
    states = vision(colours, interpolate_pos_encoding=True).last_hidden_state[0]
    for row in range(grid):
        for column in range(grid):
            state = vision.post_layernorm(states[1 + row * grid + column])
            vector = model.clip.visual_projection.weight @ state
            expected = vector / vector.norm()
            torch.testing.assert_close(found[0, :, row, column], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("params", [CLASS, DENSE])
def test_batches_change_nothing(model: VisionLanguageModel, params: WindowParams) -> None:
    whole = params.model_copy(update={"batch_size": 100})
    image = picture(50, 60)
    few, all_at_once = (embed_windows(model, image, 32, p) for p in (params, whole))
    torch.testing.assert_close(few, all_at_once)
