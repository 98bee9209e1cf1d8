"""Text vectors: templates, their mean, learned prompts (simbaseline §4; §12, checks 6, 8 and 9)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from tests import tiny
from tests.unit.tiny_clip import tiny_clip
from zslib.artifacts.maps import open_labels
from zslib.datasets.views import BatchOrder
from zslib.errors import ArtifactError, InputError
from zslib.params.vision_language import PromptTraining
from zslib.training import Checkpoint, SingleProcess
from zslib.vision_language.model import VisionLanguageModel, normalise
from zslib.vision_language.pools import (
    RegionViews,
    draw_pool,
    fill_outside,
    random_part,
    region_box,
    region_view,
)
from zslib.vision_language.prompts import Prompts, fit, learning_rate, prompt_tokens
from zslib.vision_language.templates import IMAGENET, TEMPLATES, VILD, sentence
from zslib.vision_language.text import TemplateText, bare_names, write_word_vectors

NAMES = ("zebra", "polar bear", "red bus", "wall-concrete")
PARAMS = PromptTraining(samples_per_class=6, steps=30, batch_size=8, warmup_steps=2)
PUBLISHED = PromptTraining(samples_per_class=32, steps=16000, batch_size=32)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny_clip()


# --- templates -----------------------------------------------------------------------------------


def test_the_sets_are_the_published_ones():
    assert len(set(IMAGENET)) == len(IMAGENET) == 80
    assert len(set(VILD)) == len(VILD) == 14
    assert TEMPLATES["single"] == (IMAGENET[2],) == ("a sculpture of a {}.",)
    assert [template.endswith(".") for template in VILD] == [True] + [False] * 4 + [True] * 9


def test_names_are_stripped_and_otherwise_verbatim():
    assert sentence("a photo of a {}.", "wall-concrete ") == "a photo of a wall-concrete."


def test_unit_vectors_are_averaged_and_made_unit_again():
    rows = np.array([[[1, 0]], [[0, 1]], [[0.6, 0.8]]], np.float32)
    text = TemplateText(("a",), ("x", "y", "z"), rows, "key")
    np.testing.assert_allclose(rows.mean(0)[0], [0.533333, 0.6], atol=1e-6)
    np.testing.assert_allclose(text.mean(["x", "y", "z"])[0], [0.664364, 0.747409], atol=1e-6)


def test_a_cache_serves_any_set_of_its_templates(model, tmp_path):
    TemplateText.embed(model, NAMES, VILD).save(tmp_path / "text.safetensors")
    text = TemplateText.load(tmp_path / "text.safetensors", key=model.key)
    assert text.rows.shape == (14, 4, model.dimension)
    alone = model.embed_texts([sentence(VILD[4], name) for name in NAMES]).numpy()
    np.testing.assert_allclose(text.mean([VILD[4]]), alone, atol=1e-6)
    with pytest.raises(InputError, match="not cached"):
        text.mean(["a {} of another kind"])


def test_a_cache_of_another_model_is_refused(model, tmp_path):
    TemplateText.embed(model, NAMES, VILD[:1]).save(tmp_path / "text.safetensors")
    with pytest.raises(ArtifactError, match="another vision-language model"):
        TemplateText.load(tmp_path / "text.safetensors", key="another")


def test_text_vectors_are_word_vectors_like_any_other(model, tmp_path):
    vectors = TemplateText.embed(model, NAMES, VILD).class_vectors("vild")
    write_word_vectors(tmp_path / "vectors.bin", vectors)
    read = KeyedVectors.load_word2vec_format(str(tmp_path / "vectors.bin"), binary=True)
    assert read.index_to_key == ["zebra", "polar_bear", "red_bus", "wall-concrete"]
    np.testing.assert_array_equal(read["polar_bear"], vectors.rows[1])


def test_bare_names_are_read_in_no_template_and_keep_their_length(model):
    """sazs §2.1: the same directions as unit vectors have, and lengths of their own."""
    rows = bare_names(model, NAMES).rows
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(rows / norms, model.embed_texts(NAMES).numpy(), atol=1e-6)
    assert abs(norms - 1).min() > 0.01
    assert np.ptp(norms) > 0.01


# --- the layout of a learned prompt: check 8 -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "used", "end"), [("zebra", 20, 19), ("polar bear", 21, 20), ("red red bus", 22, 21)]
)
def test_a_prompt_is_start_context_name_stop_end_and_padding(model, name, used, end):
    ids, found = prompt_tokens(model.tokenizer, name, tokens=16, length=77)
    assert found == end
    assert ids[end] == model.tokenizer.eos_token_id
    assert ids[0] == model.tokenizer.bos_token_id
    assert len(ids) == 77
    assert ids[used:] == [0] * (77 - used)
    words = model.tokenizer(name, add_special_tokens=False)["input_ids"]
    assert ids[17 : 17 + len(words)] == words


def test_a_name_that_does_not_fit_is_refused(model):
    with pytest.raises(InputError, match="22 tokens long, the model takes 21"):
        prompt_tokens(model.tokenizer, "red red bus", tokens=16, length=21)


def test_a_context_of_words_is_as_those_words(model):
    prompts = Prompts(model, 3)
    words = model.tokenizer("a black bear", add_special_tokens=False)["input_ids"]
    assert len(words) == 3
    table = model.clip.text_model.embeddings.token_embedding.weight
    prompts.context.data = table[words].clone()
    found = prompts(prompts.ids(["zebra"]))
    torch.testing.assert_close(found, model.embed_texts(["a black bear zebra."]))


def test_gradients_reach_the_context_alone(model):
    prompts = Prompts(model, 4)
    prompts(prompts.ids(NAMES)).sum().backward()
    assert prompts.context.grad is not None
    assert prompts.context.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.clip.parameters())
    assert [name for name, _ in prompts.named_parameters()] == ["context"]


# --- the schedule: check 9 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1e-4), (99, 1e-4), (100, 0.01999807), (8000, 0.01)]
)
def test_the_cosine_begins_with_a_constant(step, expected):
    assert learning_rate(step, PUBLISHED) == pytest.approx(expected, abs=5e-9)


# --- the pool ------------------------------------------------------------------------------------


def maps_with(counts: dict[int, int]) -> list[np.ndarray]:
    return [
        np.full((4, 4), label, np.uint8) for label, count in counts.items() for _ in range(count)
    ]


def test_a_rare_class_gives_each_image_once_and_others_are_drawn_with_replacement():
    pool = draw_pool(maps_with({0: 5, 1: 32, 2: 60}), (0, 1), per_class=32, seed=0)
    rare = [sample.image for sample in pool if sample.label == 0]
    drawn = [sample.image for sample in pool if sample.label == 1]
    assert rare == [0, 1, 2, 3, 4]
    assert len(drawn) == 32
    assert len(set(drawn)) < 32
    assert {sample.label for sample in pool} == {0, 1}


def test_void_is_no_class_and_a_class_may_be_absent():
    assert draw_pool(maps_with({255: 3}), (0, 1), per_class=2, seed=0) == []


# --- views of true regions: check 6 --------------------------------------------------------------


def test_the_released_box_loses_what_touches_the_far_edge():
    full = np.ones((6, 8), bool)
    assert region_box(full, lose_edge=True) == (0, 0, 7, 5)
    assert region_box(full, lose_edge=False) == (0, 0, 8, 6)
    inner = np.zeros((6, 8), bool)
    inner[1:5, 2:7] = True
    assert region_box(inner, lose_edge=True) == region_box(inner, lose_edge=False) == (2, 1, 5, 4)


def test_filling_after_normalising_gives_another_colour():
    picture, inside = torch.zeros(3, 2, 2), torch.tensor([[True, False], [False, False]])
    raw, released = (fill_outside(picture, inside, stage=s) for s in ("raw", "normalised"))
    assert raw[:, 0, 1].tolist() == [0, 0, 0]
    expected = torch.tensor([0.481455, 0.457828, 0.408211])
    torch.testing.assert_close(released[:, 0, 1], expected, rtol=0, atol=1e-6)
    colour = torch.tensor([155.7508, 147.2520, 132.8004]).view(3, 1, 1)
    torch.testing.assert_close(normalise(colour).flatten(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(raw[:, 0, 0], normalise(picture)[:, 0, 0])
    torch.testing.assert_close(fill_outside(picture, inside, stage="none"), normalise(picture))


def test_parts_have_published_areas_and_shapes_and_lie_within():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y, width, height = random_part(100, 80, rng)
        assert 0 <= x <= 100 - width
        assert 0 <= y <= 80 - height
        assert 0.07 < width * height / 8000 <= 1
        assert 0.7 < width / height < 1.4


def test_a_view_out_of_its_region_is_none():
    image, mask = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), bool)
    mask[0, 0] = mask[39, 39] = True
    rng = np.random.default_rng(0)
    views = [region_view(image, mask, (16, 16), PARAMS, rng) for _ in range(20)]
    assert any(view is None for view in views)


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> tuple[list[Path], object]:
    """Images whose quarters show seen classes, in a colour each."""
    folder = tmp_path_factory.mktemp("seen")
    maps = tiny.block_maps(8, tiny.SPLIT.seen)
    return tiny.write_images(folder, maps), open_labels(
        tiny.write_labels(folder / "labels.h5", maps)
    )


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_a_view_depends_on_its_key_alone(seen, size):
    views = RegionViews(*seen, tiny.SPLIT.seen, PARAMS, size, seed=0)
    (first, label), (again, _), (later, _) = views[0, 3], views[0, 3], views[1, 3]
    assert first.shape == (3, *size)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert tiny.SPLIT.seen[label] == views.pool[3].label


# --- learning ------------------------------------------------------------------------------------


def learn(model, seen, params=PARAMS, **options) -> Prompts:
    names = [tiny.CLASSES[c] for c in tiny.SPLIT.seen]
    return fit(
        model, *seen, tiny.SPLIT.seen, names, params,
        seed=0, compute=tiny.CPU, runtime=SingleProcess(), **options,
    )  # fmt: skip


def test_prompts_learn_to_tell_seen_regions_apart(model, seen):
    curves, eager = tiny.RecordedCurves(), PARAMS.model_copy(update={"gradient_clip": 1.0})
    learn(model, seen, eager.model_copy(update={"steps": 60, "lr": 0.3}), curves=curves)
    losses = curves.series("loss")
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_a_step_is_no_longer_than_its_clipped_gradient_allows(model, seen):
    before = learn(model, seen, PARAMS.model_copy(update={"steps": 1, "warmup_lr": 1e-9}))
    after = learn(
        model, seen, PARAMS.model_copy(update={"steps": 1, "warmup_steps": 0, "weight_decay": 0.0})
    )
    assert 0 < (after.context - before.context).norm() <= 0.02 * 0.01 * 1.001


def test_section_4_a_context_begins_small(model):
    torch.manual_seed(0)
    assert Prompts(model, 400).context.std().item() == pytest.approx(0.02, rel=0.02)


def test_section_4_the_loss_is_of_a_hundred_times_the_cosine(model, seen):
    curves = tiny.RecordedCurves()
    learn(model, seen, PARAMS.model_copy(update={"steps": 1}), curves=curves)
    views = RegionViews(*seen, tiny.SPLIT.seen, PARAMS, (model.image_size,) * 2, seed=0)
    (first,) = BatchOrder(len(views), PARAMS.batch_size, section="backbone", seed=0).batches(0, 1)
    regions, labels = zip(*(views[key] for key in first), strict=True)
    torch.manual_seed(0)
    prompts = Prompts(model, PARAMS.tokens)
    names = prompts.ids([tiny.CLASSES[c] for c in tiny.SPLIT.seen])
    with torch.no_grad():
        cosines = model.embed_images(torch.stack(regions)) @ prompts(names).T
    expected = torch.nn.functional.cross_entropy(100 * cosines, torch.tensor(labels))
    assert curves.series("loss") == pytest.approx([expected.item()], rel=1e-4)


def test_section_4_decay_and_momentum_act_on_the_context(model, seen):
    """Two steps on next to no gradient: what moves is the decay, at the cosine's rates."""
    assert (PUBLISHED.lr, PUBLISHED.momentum, PUBLISHED.weight_decay) == (0.02, 0.9, 0.0005)
    recipe = {"gradient_clip": 1e-9, "lr": 0.5, "weight_decay": 0.2, "warmup_steps": 0, "steps": 2}
    found = learn(model, seen, PARAMS.model_copy(update=recipe)).context
    torch.manual_seed(0)
    start = Prompts(model, PARAMS.tokens).context
    first = start * (1 - 0.5 * 0.2)
    second = first - 0.25 * (0.9 * 0.2 * start + 0.2 * first)
    torch.testing.assert_close(found, second, atol=1e-7, rtol=1e-4)


def test_released_crops_are_learned_from_as_well(model, seen):
    released = {"size": (40, 32), "fill_stage": "normalised", "lose_edge": True, "steps": 2}
    learn(model, seen, PARAMS.model_copy(update=released))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(model, seen, tmp_path):
    params = PARAMS.model_copy(update={"steps": 6})
    whole = learn(model, seen, params)
    kept = Checkpoint(tmp_path / "run", 0.0)
    with pytest.raises(tiny.KilledError):
        learn(model, seen, params, checkpoint=kept, curves=tiny.RecordedCurves(dies_after=3))
    assert torch.equal(learn(model, seen, params, checkpoint=kept).context, whole.context)


def test_prompts_are_kept_and_serve_any_name(model, tmp_path):
    prompts = Prompts(model, 4)
    prompts.save(tmp_path / "prompts.safetensors", meta={"seed": 0})
    loaded = Prompts.load(tmp_path / "prompts.safetensors", model)
    vectors = loaded.class_vectors(["a name never seen", "zebra"])
    np.testing.assert_array_equal(
        vectors.rows, prompts.class_vectors(["a name never seen", "zebra"]).rows
    )


def test_prompts_of_another_clip_are_refused(model, tmp_path):
    Prompts(model, 4).save(tmp_path / "prompts.safetensors", meta={})
    other = tiny_clip()
    other.clip.logit_scale.data += 1
    with pytest.raises(ArtifactError, match="another CLIP"):
        Prompts.load(tmp_path / "prompts.safetensors", other)


def test_too_few_regions_are_named(model, seen):
    refused = r"vision_language\.prompts\.batch_size: 1000 is more than the \d+ regions of seen"
    with pytest.raises(InputError, match=refused):
        learn(model, seen, PARAMS.model_copy(update={"batch_size": 1000}))
