"""The vision-language model: tokenizer, towers, captions, its folder (simbaseline, notes 6 and 7)."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from tests import tiny
from tests.unit.tiny_clip import TEXTS, TRAINING, tiny_clip
from zslib.errors import ArtifactError, InputError
from zslib.params.vision_language import VisionLanguageParams
from zslib.training import Checkpoint, SingleProcess
from zslib.vision_language.captions import (
    CaptionBatches,
    contrastive,
    fit,
    pieces,
    random_crops,
    read_captions,
)
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.tokenizer import train_tokenizer

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 210)}


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny_clip()


# --- the tokenizer -------------------------------------------------------------------------------


def test_no_text_is_read_as_ending_in_its_middle(model):
    """Words and bytes that training never saw must not become the unknown token, which is the end."""
    tokenizer: CLIPTokenizer = model.tokenizer
    for text in ("xylophone", "7 % of ~it, jürgen!", "東京", "\u00a0 q"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id


def test_frequent_words_are_single_tokens_and_case_does_not_count():
    tokenizer = train_tokenizer(TEXTS * 5, vocabulary=700)
    assert tokenizer.tokenize("Polar  BEAR") == ["polar</w>", "bear</w>"]


def test_different_texts_have_different_vectors(model):
    """With the default end id all texts would be read out at the same place."""
    vectors = model.embed_texts(["a zebra", "a bus", "a polar bear on the grass"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert (vectors @ vectors.T - torch.eye(3)).max() < 0.999


def test_padding_changes_nothing(model):
    alone = model.embed_texts(["a zebra"])
    beside = model.embed_texts(["a zebra", "a polar bear stands by the water under the sky"])
    torch.testing.assert_close(alone[0], beside[0])


def test_images_of_other_sizes_are_read_too(model):
    vectors = model.embed_images(torch.randn(2, 3, 48, 32))
    assert vectors.shape == (2, model.dimension)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


# --- the folder ----------------------------------------------------------------------------------


def test_a_folder_gives_the_model_back(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = VisionLanguageModel.load(tmp_path / "model")
    assert loaded.key == model.key
    assert loaded.meta == model.meta
    texts = ["a zebra, on the road!"]
    torch.testing.assert_close(loaded.embed_texts(texts), model.embed_texts(texts))


def test_a_fresh_process_writes_the_same_bytes(model, tmp_path, project):
    model.save(tmp_path / "here")
    code = (
        "from pathlib import Path; from tests.unit.tiny_clip import tiny_clip; "
        f"tiny_clip().save(Path({str(tmp_path / 'there')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert "model.safetensors" in names
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "zslib.json"])
def test_a_damaged_folder_is_refused(model, tmp_path, name):
    folder = tmp_path / "model"
    model.save(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="vision_language"):
        VisionLanguageModel.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '"tokenizer_config.json"',
            '"tnkenizer_config.json"',
            "names 'tnkenizer_config.json', which",
        ),
        ('"files"', '"fimes"', "lacks the key 'files'"),
        ('"meta": {}', '"meta": 17', "cannot be read"),
        ('"vision_language/1"', '"vision_language/0"', "holds 'vision_language/0'"),
        ("{", "[", "cannot be read"),
    ],
)
def test_damage_of_the_description_is_told_of_the_description(model, tmp_path, old, new, said):
    folder = tmp_path / "model"
    model.save(folder)
    listing = folder / "zslib.json"
    text = listing.read_text()
    assert old in text
    listing.write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError, match=f"^{listing}: {said}"):
        VisionLanguageModel.load(folder)


def test_a_file_that_differs_is_told_with_the_list_of_checksums(model, tmp_path):
    model.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        ArtifactError, match=r"tokenizer\.json: does not match its checksum in zslib"
    ):
        VisionLanguageModel.load(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        VisionLanguageModel.load(tmp_path)


def test_a_local_folder_serves_as_a_name(model, tmp_path):
    model.clip.save_pretrained(tmp_path / "clip")
    model.tokenizer.save_pretrained(tmp_path / "clip")
    opened = VisionLanguageModel.named(str(tmp_path / "clip"))
    assert opened.key == model.key


def test_an_unknown_name_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"vision_language\.name: .*no-such-folder") as error:
        VisionLanguageModel.named(str(tmp_path / "no-such-folder"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["another kind", "damaged weights"])
def test_what_is_no_clip_is_one_line(
    fault: str, model: VisionLanguageModel, tmp_path: Path
) -> None:
    model.clip.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    if fault == "another kind":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    else:
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(
        InputError, match=r"vision_language\.name: .* (cannot be loaded|no CLIP)"
    ) as error:
        VisionLanguageModel.named(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_revision_of_the_hub_is_the_one_that_is_opened(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    """In a hub's cache as huggingface_hub lays it out, without a network."""
    store = tmp_path / "models--somebody--clip"
    for commit, scale in (("0" * 40, 1.0), ("1" * 40, 2.0)):
        with torch.no_grad():
            scaled = copy.deepcopy(model.clip)
            scaled.logit_scale.fill_(scale)
        scaled.save_pretrained(store / "snapshots" / commit)
        model.tokenizer.save_pretrained(store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("1" * 40)
    code = f"""
from zslib.vision_language.model import VisionLanguageModel
for name in ("somebody/clip", "somebody/clip@{"0" * 40}"):
    print(VisionLanguageModel.named(name).clip.logit_scale.item())
"""
    offline = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=offline, text=True, capture_output=True, check=True
    )
    assert done.stdout.split() == ["2.0", "1.0"]


@pytest.mark.parametrize("name", [None, "openai/clip"])
def test_a_model_is_either_named_or_trained(name, project):
    import yaml

    section = yaml.safe_load((project / "params.yaml").read_text())["vision_language"]
    section |= {"name": name, "training": None if name is None else section["training"]}
    with pytest.raises(ValueError, match="exactly one of 'name' and 'training'"):
        VisionLanguageParams.model_validate_json(json.dumps(section))


# --- training on captions ------------------------------------------------------------------------


def test_a_caption_counts_whole_and_in_pieces():
    caption = "a taxi with black squares and an orange crab appear on the road under the sky"
    assert pieces(caption) == [
        caption,
        "a taxi with black squares",
        "an orange crab appear",
        "on the road",
        "under the sky",
    ]


def test_with_one_text_per_picture_the_loss_is_that_of_clip():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    logits = torch.randn(5, 5)
    found = contrastive(logits, torch.eye(5, dtype=torch.bool))
    torch.testing.assert_close(found, image_text_contrastive_loss(logits.T))


def test_a_text_of_two_pictures_is_right_for_both():
    """Were it right for one alone, two equal logits would cost log 2."""
    logits = torch.tensor([[9.0], [9.0]])
    found = contrastive(logits, torch.ones(2, 1, dtype=torch.bool))
    assert found.item() == pytest.approx(np.log(2) / 2)


def test_a_crop_of_everything_is_everything_or_its_mirror():
    images = torch.rand(6, 3, 8, 8)
    crops = random_crops(images, 8, (4.0, 4.0), np.random.default_rng(0))
    for image, crop in zip(images, crops, strict=True):
        assert min((crop - image).abs().max(), (crop - image.flip(-1)).abs().max()) < 1e-5


def coloured_world(folder: Path, count: int = 24) -> tuple[list[Path], list[list[str]]]:
    """Plain noisy pictures, each called by its colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths, captions = np.random.default_rng(0), [], []
    for number in range(count):
        name = list(COLOURS)[number % 3]
        pixels = np.clip(COLOURS[name] + rng.integers(-20, 20, (32, 32, 3)), 0, 255)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
        captions.append([f"a {name} thing", f"the {name} one"])
    return paths, captions


def test_pictures_and_captions_find_each_other(tmp_path):
    paths, captions = coloured_world(tmp_path)
    curves = tiny.RecordedCurves()
    trained = fit(paths, captions, TRAINING, seed=0, runtime=SingleProcess(), curves=curves)
    losses = curves.series("loss")
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    pictures = next(CaptionBatches(paths[:9], captions[:9], TRAINING, seed=1).from_step(0)).pictures
    names = [f"a {name} thing" for name in COLOURS]
    cosines = trained.embed_images(pictures) @ trained.embed_texts(names).T
    seen = pictures.mean(dim=(2, 3)).argmax(1)
    assert (cosines.argmax(1) == seen).float().mean() > 0.9
    assert "unseen" in trained.meta["trained_on"]


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path):
    paths, captions = coloured_world(tmp_path / "images", 16)
    params = TRAINING.model_copy(update={"steps": 6})
    runtime = SingleProcess()
    whole = fit(paths, captions, params, seed=0, runtime=runtime)
    kept = Checkpoint(tmp_path / "run", 0.0)
    dying = tiny.RecordedCurves(dies_after=4)
    with pytest.raises(tiny.KilledError):
        fit(paths, captions, params, seed=0, runtime=runtime, checkpoint=kept, curves=dying)
    resumed = fit(paths, captions, params, seed=0, runtime=runtime, checkpoint=kept)
    assert resumed.key == whole.key


def test_too_few_pictures_are_named(tmp_path):
    paths, captions = coloured_world(tmp_path, 3)
    refused = r"vision_language\.training\.batch_size: 8 is more than the 3 images with captions"
    with pytest.raises(InputError, match=refused):
        fit(paths, captions, TRAINING, seed=0, runtime=SingleProcess())


def test_captions_are_read_by_image(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"id": "a", "captions": ["one", "two"]}\n{"id": "b", "captions": ["three"]}\n')
    assert read_captions(path) == {"a": ["one", "two"], "b": ["three"]}


@pytest.mark.parametrize("content", [None, "no json", '{"id": "a"}'])
def test_a_file_without_captions_is_named(tmp_path, content):
    path = tmp_path / "captions.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"captions\.jsonl: is no file of captions"):
        read_captions(path)
