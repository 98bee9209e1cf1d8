"""Regions: boxes, fill, resizing, and the cache of embeddings (simbaseline §3; §12, checks 6 and 7)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.unit.tiny_clip import tiny_clip
from zslib.artifacts.proposals import Proposals, ProposalWriter
from zslib.artifacts.regions import Regions
from zslib.errors import ArtifactError
from zslib.params.vision_language import RegionParams
from zslib.training import SingleProcess
from zslib.vision_language.crops import boxes_of, crop_and_resize, expand
from zslib.vision_language.model import MEAN, VisionLanguageModel, normalise
from zslib.vision_language.regions import cut_out, embed_regions

PARAMS = RegionParams(batch_size=5)
BOX = torch.tensor([[3, 2, 7, 5]])


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny_clip()


def rectangle(height: int, width: int, rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


# --- boxes: check 6 ------------------------------------------------------------------------------


def test_a_box_is_tight_and_half_open():
    mask = rectangle(6, 8, slice(2, 5), slice(3, 7))
    boxes, valid = boxes_of(mask[None])
    assert boxes.tolist() == BOX.tolist()
    assert valid.tolist() == [True]


@pytest.mark.parametrize(
    ("box", "expected"), [((3, 2, 7, 5), (2, 1, 8, 5)), ((0, 0, 5, 3), (0, 0, 6, 3))]
)
def test_a_box_grows_about_its_centre_and_stays_in_the_image(box, expected):
    assert expand(torch.tensor([box]), 1.5, (6, 8))[0].tolist() == list(expected)


def test_an_empty_mask_has_no_box_and_is_no_error():
    masks = torch.stack([torch.zeros(6, 8, dtype=torch.bool), rectangle(6, 8, slice(6), slice(8))])
    boxes, valid = boxes_of(masks)
    assert valid.tolist() == [False, True]
    assert boxes[1].tolist() == [0, 0, 8, 6]


# --- resizing: check 7, with erratum E3 ----------------------------------------------------------


@pytest.mark.parametrize(
    ("resize", "values", "expected"),
    [
        ("bicubic", [0, 0, 255, 0], [-23.90625, 151.40625]),
        ("bicubic_aa", [0, 0, 255, 0], [30.557852, 116.962807]),
        ("bicubic", [0, 0, 0, 255, 255, 0, 0, 0], [-23.90625, -23.90625]),
    ],
)
def test_the_kernel_is_the_one_that_is_named(resize, values, expected):
    row = torch.tensor(values).float().view(1, 1, 1, -1)
    box = torch.tensor([[0, 0, len(values), 1]])
    found = crop_and_resize(row, box, (1, 2), resize=resize)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


@given(
    st.integers(0, 30), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20),
    st.sampled_from(["bicubic", "bicubic_aa"]),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_all_at_once_is_as_one_by_one(x, y, width, height, resize):
    images = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 4 - 2
    boxes = torch.tensor([[x, y, x + width, y + height], [0, 0, 50, 40]])
    found = crop_and_resize(images, boxes, (16, 12), resize=resize)
    for image, (x1, y1, x2, y2), crop in zip(images, boxes.tolist(), found, strict=True):
        alone = F.interpolate(
            image[None, :, y1:y2, x1:x2],
            (16, 12),
            mode="bicubic",
            antialias=resize == "bicubic_aa",
        )
        torch.testing.assert_close(crop, alone[0], rtol=1e-4, atol=1e-4)


# --- cutting out ---------------------------------------------------------------------------------


def test_the_mean_colour_normalises_to_zero_and_black_does_not():
    mean = torch.tensor(MEAN).view(3, 1, 1) * 255
    expected = torch.tensor([122.7709, 116.7460, 104.0937])
    torch.testing.assert_close(mean.flatten(), expected, rtol=0, atol=1e-4)
    assert normalise(mean).abs().max() < 1e-6
    black = normalise(torch.zeros(3, 1, 1)).flatten()
    torch.testing.assert_close(
        black, torch.tensor([-1.792263, -1.752097, -1.480220]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("fill", "expected"), [("mean", 0.0), ("zero", -1.792263), ("none", 1.930336)]
)
def test_outside_the_mask_there_is_the_fill(fill, expected):
    picture = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    # A frame: the box is the whole image, its middle is outside.
    soft = torch.ones(1, 8, 8)
    soft[0, 1:7, 1:7] = 0
    crops, _ = cut_out(picture, soft, 8, PARAMS.model_copy(update={"fill": fill}))
    assert crops[0, 0, 4, 4].item() == pytest.approx(expected, abs=1e-5)
    assert crops[0, 0, 0, 0].item() == pytest.approx(normalise(picture.float())[0, 0, 0].item())


def test_exactly_one_half_is_not_foreground():
    soft = torch.stack([torch.full((8, 8), 0.5), torch.full((8, 8), 0.501)])
    crops, valid = cut_out(torch.zeros(3, 8, 8, dtype=torch.uint8), soft, 4, PARAMS)
    assert valid.tolist() == [False, True]
    assert crops.shape == (1, 3, 4, 4)


# --- the cache -----------------------------------------------------------------------------------

VIEWS = [(32, 32), (32, 48), (32, 32), (32, 48)]


def write_proposals(folder: Path) -> tuple[Proposals, list[Path]]:
    """Three blobs and an empty mask per image; the third image has nothing but empty masks."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    writer = ProposalWriter(
        folder / "proposals.h5",
        VIEWS,
        [(32, 64) if view[1] == 48 else view for view in VIEWS],
        queries=4,
        no_object=torch.zeros(6),
        scratch=folder / "scratch",
    )
    images = []
    for number, (height, width) in enumerate(VIEWS):
        logits = torch.full((4, 8, 16 if width == 48 else 8), -6.0)
        for query in range(0 if number == 2 else 3):
            top, left = rng.integers(0, 4, 2)
            logits[query, top : top + 3, left : left + 4] = 6.0
        writer.add(logits, torch.full((4, 6), float(number)))
        images.append(folder / f"{number}.png")
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images[-1])
    ids = [f"image{number}" for number in range(len(VIEWS))]
    writer.publish(ids, meta={"split": "tiny", "classes": ["a", "b"], "unseen": [1], "void": []})
    return Proposals.open(folder / "proposals.h5"), images


def embed(model: VisionLanguageModel, folder: Path, out: Path, params: RegionParams) -> Regions:
    proposals, images = write_proposals(folder)
    embed_regions(
        model, proposals, images, out, params, runtime=SingleProcess(), scratch=out.parent / "work"
    )
    return Regions.open(out, proposals=proposals.key)


def released_loop(model: VisionLanguageModel, image: Path, soft: Tensor) -> Tensor:
    """One crop at a time, as the released code has it."""
    picture = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1).float()
    mean, std = torch.tensor(MEAN).view(3, 1, 1) * 255, 255 / normalise_slope()
    crops = []
    for mask in soft > 0.5:
        if not mask.any():
            continue
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        window = np.s_[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        filled = picture[window] * mask[window] + mean * ~mask[window]
        side = (model.image_size, model.image_size)
        crops.append(F.interpolate(((filled - mean) / std)[None], side, mode="bicubic"))
    return model.embed_images(torch.cat(crops))


def normalise_slope() -> Tensor:
    return 255 * (normalise(torch.ones(3, 1, 1)) - normalise(torch.zeros(3, 1, 1)))


def test_the_cache_holds_what_the_released_loop_computes(model, tmp_path):
    regions = embed(model, tmp_path / "in", tmp_path / "regions.h5", PARAMS)
    proposals, images = write_proposals(tmp_path / "again")
    for position in (0, 1, 3):
        embeddings, valid = regions[position]
        assert valid.tolist() == [True, True, True, False]
        alone = released_loop(model, images[position], proposals[position].soft_masks())
        torch.testing.assert_close(embeddings[:3], alone, rtol=0, atol=2e-3)
        assert not embeddings[3].any()


def test_an_image_without_any_region_is_kept(model, tmp_path):
    embeddings, valid = embed(model, tmp_path / "in", tmp_path / "regions.h5", PARAMS)[2]
    assert not valid.any()
    assert not embeddings.any()


def test_bytes_do_not_depend_on_the_run(model, tmp_path):
    for name in "ab":
        embed(model, tmp_path / name, tmp_path / name / "regions.h5", PARAMS)
    first, second = ((tmp_path / name / "regions.h5").read_bytes() for name in "ab")
    assert first == second


def test_a_killed_run_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    monkeypatch.setattr("zslib.artifacts.resumable.SECONDS_BETWEEN_FLUSHES", -1.0)
    whole = embed(model, tmp_path / "in", tmp_path / "whole/regions.h5", PARAMS)
    proposals, images = write_proposals(tmp_path / "again")
    seen: list[int] = []

    def run(*, dies_after: int) -> None:
        def counted(picture, *rest):
            seen.append(1)
            if len(seen) > dies_after:
                raise KeyboardInterrupt
            return cut_out(picture, *rest)

        monkeypatch.setattr("zslib.vision_language.regions.cut_out", counted)
        out, work = tmp_path / "regions.h5", tmp_path / "work"
        small = PARAMS.model_copy(update={"batch_size": 1})
        embed_regions(model, proposals, images, out, small, runtime=SingleProcess(), scratch=work)

    with pytest.raises(KeyboardInterrupt):
        run(dies_after=2)
    run(dies_after=100)
    assert len(seen) == 5  # the third image was begun twice, and no other one
    resumed = Regions.open(tmp_path / "regions.h5")
    np.testing.assert_array_equal(resumed.valid, whole.valid)
    np.testing.assert_allclose(
        np.asarray(resumed.embeddings, np.float32), whole.embeddings, atol=2e-3
    )


def test_regions_of_other_proposals_are_refused(model, tmp_path):
    embed(model, tmp_path / "in", tmp_path / "regions.h5", PARAMS)
    with pytest.raises(ArtifactError, match="other proposals"):
        Regions.open(tmp_path / "regions.h5", proposals="another key")


def test_the_key_says_how_regions_were_made(model, tmp_path):
    meta = embed(model, tmp_path / "in", tmp_path / "regions.h5", PARAMS).meta
    assert meta["model"] == model.key
    wanted = {"threshold": 0.5, "expansion": 1.0, "fill": "mean", "resize": "bicubic"}
    assert wanted.items() <= dict(meta).items()
    assert "batch_size" not in meta
