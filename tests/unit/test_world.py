"""The built-in world: one grammar of facts, pictures and text that follow it, bytes that repeat."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.world.facts import (
    ATTRIBUTES,
    CLASS_ID,
    CLASSES,
    FACTS,
    STUFF,
    THINGS,
    UNSEEN,
    Thing,
    kin,
)
from zslib.datasets.world.folder import draw_world
from zslib.datasets.world.palette import voc_palette
from zslib.datasets.world.scenes import SIZES, draw_scene
from zslib.datasets.world.sheet import contact_sheet
from zslib.datasets.world.text import PATTERN, about_thing, caption, corpus
from zslib.datasets.world.things import draw_thing
from zslib.errors import InputError

NESTED = ("u2", "u4", "u6", "u8", "u10")
FOLDS = ("fold0", "fold1", "fold2", "fold3")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "drawn"
    draw_world(root, seed=3, train_images=45, val_images=40, sentences=400, workers=1)
    return root


def files_of(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def listed(root: Path, name: str) -> list[str]:
    return (root / f"VOC2012/ImageSets/Segmentation/{name}.txt").read_text().split()


# --- the grammar of facts ---


def test_there_are_40_things_and_at_least_6_stuff_classes_with_distinct_names() -> None:
    assert len(THINGS) == 40
    assert len(STUFF) >= 6
    assert len(set(CLASSES)) == len(CLASSES) == len(THINGS) + len(STUFF)
    assert {CLASSES[number] for number in CLASS_ID.values()} == set(CLASSES)
    assert sum(" " in name for name in THINGS) >= 3, "the multi-word rule needs names to work on"


def test_no_two_things_look_the_same() -> None:
    looks = Counter((thing.shape, thing.texture, thing.colour) for thing in FACTS.values())
    assert max(looks.values()) == 1


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_attribute_value_is_carried_by_several_classes(attribute: str) -> None:
    carriers = Counter(getattr(thing, attribute) for thing in FACTS.values())
    assert len(carriers) >= 3
    assert min(carriers.values()) >= 4, carriers


def test_a_thing_lives_on_stuff_and_only_plain_things_have_no_marks() -> None:
    for thing in FACTS.values():
        assert thing.habitat in STUFF
        assert (thing.texture == "plain") == (thing.marks == "none"), thing.name
        assert thing.marks != thing.colour, thing.name


def test_unseen_splits_are_nested_and_named_by_their_size() -> None:
    for smaller, larger in pairwise(NESTED):
        assert set(UNSEEN[smaller]) < set(UNSEEN[larger])
    for name in NESTED:
        assert len(set(UNSEEN[name])) == int(name[1:])
        assert set(UNSEEN[name]) <= set(THINGS)


def test_folds_share_out_all_things() -> None:
    assert [len(UNSEEN[name]) for name in FOLDS] == [10, 10, 10, 10]
    assert sorted(sum((UNSEEN[name] for name in FOLDS), ())) == sorted(THINGS)


@pytest.mark.parametrize("split", NESTED + FOLDS)
def test_what_an_unseen_class_is_made_of_is_carried_by_two_seen_classes(split: str) -> None:
    for name in UNSEEN[split]:
        for attribute in ATTRIBUTES:
            seen = set(kin(name, attribute)) - set(UNSEEN[split])
            assert len(seen) >= 2, f"{split}: {attribute} of {name} is carried by {seen} only"


def test_the_constants_cost_no_numpy_to_import() -> None:
    code = "import sys, zslib.datasets.world; print({'numpy', 'PIL', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- the pictures ---


def drawn(name: str, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Colours (n, 3) of the solid pixels of one thing, and its alpha."""
    rng = np.random.default_rng(seed)
    sprite = draw_thing(FACTS[name], half_length=30, angle=0.0, flip=False, rng=rng)
    return sprite.colour[sprite.alpha == 1], sprite.alpha


def test_marks_show_on_marked_things_and_not_on_plain_ones() -> None:
    dark = {name: np.mean(drawn(name)[0].max(axis=1) < 70) for name in ("zebra", "polar bear")}
    assert dark["zebra"] > 0.2
    assert dark["polar bear"] < 0.05


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_is_mostly_of_the_colours_its_facts_say(name: str) -> None:
    thing = FACTS[name]
    pixels, _ = drawn(name)
    red, green, blue = pixels.mean(axis=0)
    if thing.colour == "red":
        assert red > 1.3 * max(green, blue)
    elif thing.colour == "blue":
        assert blue > 1.15 * red
    elif thing.colour == "green":
        assert green > 1.1 * red
    elif thing.colour in ("orange", "yellow", "brown"):
        assert red > green > blue
    else:
        assert np.ptp((red, green, blue)) < 40


def test_things_of_one_shape_share_an_outline_and_others_do_not() -> None:
    alphas = {name: drawn(name)[1] > 0.5 for name in ("zebra", "tiger", "bus")}

    def overlap(one: str, other: str) -> float:
        both = np.sum(alphas[one] & alphas[other])
        return float(both / np.sum(alphas[one] | alphas[other]))

    assert overlap("zebra", "tiger") > 0.9
    assert overlap("zebra", "bus") < 0.75


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), about=st.sampled_from(THINGS))
def test_a_scene_is_labelled_everywhere_and_says_what_it_shows(seed: int, about: str) -> None:
    scene = draw_scene(about, rng=np.random.default_rng(seed))
    values = set(np.unique(scene.label_map).tolist())
    assert scene.label_map.shape in SIZES
    assert scene.image.shape == (*scene.label_map.shape, 3)
    assert values <= set(range(len(CLASSES))) | {IGNORE_INDEX}
    assert {CLASS_ID[name] for name in (*scene.things, *scene.stuff)} <= values
    assert 1 <= len(scene.stuff) <= 3


def test_void_is_a_thin_line_around_things() -> None:
    for seed in range(10):
        label_map = draw_scene("bus", rng=np.random.default_rng(seed)).label_map
        void = label_map == IGNORE_INDEX
        assert 0 < void.mean() < 0.12
        solid = np.lib.stride_tricks.sliding_window_view(void, (5, 5)).all(axis=(2, 3))
        assert not solid.any(), "void is an outline, never an area"


# --- the folder ---


def test_the_folder_has_the_official_voc_layout(world: Path) -> None:
    train, val = listed(world, "train"), listed(world, "val")
    assert (len(train), len(val)) == (45, 40)
    assert not set(train) & set(val)
    assert all(re.fullmatch(r"world_\d{6}", image_id) for image_id in train + val)
    for folder, extension in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        there = {path.name for path in (world / "VOC2012" / folder).iterdir()}
        assert there == {f"{image_id}.{extension}" for image_id in train + val}


def test_masks_are_8_bit_palette_pictures_of_class_ids(world: Path) -> None:
    for image_id in listed(world, "val"):
        with Image.open(world / f"VOC2012/JPEGImages/{image_id}.jpg") as image:
            size, mode = image.size, image.mode
        with Image.open(world / f"VOC2012/SegmentationClass/{image_id}.png") as mask:
            assert (mask.mode, mask.size, mode) == ("P", size, "RGB")
            assert min(size) == 96
            assert mask.getpalette() == voc_palette().ravel().tolist()
            assert set(np.unique(np.asarray(mask)).tolist()) <= {*range(len(CLASSES)), IGNORE_INDEX}


def test_the_palette_is_that_of_pascal_voc() -> None:
    palette = voc_palette()
    assert palette[[0, 1, 2, 15, 20]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
    assert palette[IGNORE_INDEX].tolist() == [224, 224, 192]


def test_every_thing_has_its_turn_in_every_list(world: Path) -> None:
    seen: set[int] = set()
    for image_id in listed(world, "val"):
        with Image.open(world / f"VOC2012/SegmentationClass/{image_id}.png") as mask:
            seen |= set(np.unique(np.asarray(mask)).tolist())
    missing = {name for name in THINGS if CLASS_ID[name] not in seen}
    assert len(missing) <= 1, f"40 pictures, one about each thing: {missing} nowhere to be seen"


def test_facts_and_captions_are_written(world: Path) -> None:
    facts = json.loads((world / "facts.json").read_text())
    assert tuple(facts) == CLASSES
    assert facts["zebra"]["texture"] == "striped"
    lines = (world / "captions.jsonl").read_text().splitlines()
    captions = {line["id"]: line["captions"] for line in map(json.loads, lines)}
    assert list(captions) == listed(world, "train") + listed(world, "val")
    assert all(text == text.lower() and text for texts in captions.values() for text in texts)


def test_the_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path: Path) -> None:
    def drawn_world(name: str, *, seed: int, workers: int) -> dict[str, bytes]:
        options = {"train_images": 30, "val_images": 5, "sentences": 50}
        draw_world(tmp_path / name, seed=seed, workers=workers, **options)
        return files_of(tmp_path / name)

    alone = drawn_world("alone", seed=0, workers=1)
    assert alone == drawn_world("shared", seed=0, workers=2)
    other = drawn_world("other", seed=1, workers=1)
    assert alone.keys() == other.keys()
    pictures = [path for path in alone if path.endswith((".jpg", ".png"))]
    assert all(alone[path] != other[path] for path in pictures)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    draw_world(
        tmp_path / "world",
        seed=0,
        train_images=26,
        val_images=2,
        sentences=0,
        workers=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(25, 28), (28, 28)]


@pytest.mark.parametrize(
    "wrong", [{"train_images": -1}, {"sentences": -5}, {"workers": 0}, {"seed": -1}]
)
def test_impossible_numbers_are_refused_by_name(tmp_path: Path, wrong: dict[str, int]) -> None:
    options = {"seed": 0, "train_images": 1, "val_images": 1, "sentences": 1, "workers": 1} | wrong
    with pytest.raises(InputError, match=next(iter(wrong)).split("_")[0].rstrip("s")):
        draw_world(tmp_path / "world", **options)
    assert not (tmp_path / "world").exists()


def test_the_contact_sheet_shows_pictures_of_the_val_list(world: Path, tmp_path: Path) -> None:
    sheet = contact_sheet(world, columns=3, rows=2)
    small = contact_sheet(world, columns=1, rows=1)
    assert sheet.mode == "RGB"
    assert sheet.width > 2.5 * small.width
    assert len(sheet.getcolors(sheet.width * sheet.height) or []) > 500
    with pytest.raises(InputError, match=r"val\.txt: missing"):
        contact_sheet(tmp_path, columns=1, rows=1)


# --- the text ---


def true_words(thing: Thing) -> set[str]:
    """The attribute words that a sentence about `thing` alone may hold."""
    return {thing.texture, thing.colour, thing.marks, *PATTERN[thing.texture]}


def test_sentences_state_only_facts() -> None:
    rng = np.random.default_rng(0)
    words = {word for thing in FACTS.values() for word in true_words(thing)} - {"none"}
    for thing in list(FACTS.values()) * 30:
        said = set(about_thing(thing, rng=rng).split()) & words
        assert said <= true_words(thing) | {"plain"}, (thing.name, said)


def test_a_caption_names_what_it_is_told_in_lower_case() -> None:
    text = caption(("tiger",), ("sky", "grass"), rng=np.random.default_rng(0))
    assert "tiger" in text
    assert text.endswith("on the grass under the sky")
    assert caption((), ("sand",), rng=np.random.default_rng(0)) == "nothing appears on the sand"


def test_the_corpus_is_lower_case_words_and_tells_of_every_class() -> None:
    sentences = list(corpus(4000, rng=np.random.default_rng(0)))
    assert len(sentences) == 4000
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)+", sentence) for sentence in sentences)
    for name in CLASSES:
        mentions = sum(f" {name} " in f" {sentence} " for sentence in sentences)
        assert mentions >= 60, name


def test_word_vectors_put_classes_that_share_attributes_near_each_other() -> None:
    from gensim.models import Word2Vec

    sentences = [text.split() for text in corpus(6000, rng=np.random.default_rng(0))]
    model = Word2Vec(
        sentences, vector_size=64, window=5, min_count=1, workers=1, seed=0, epochs=6, sg=1
    )
    vectors = np.stack([model.wv[name.split()].mean(axis=0) for name in THINGS])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T - 2 * np.eye(len(THINGS))
    shared = np.array([[shared_attributes(one, other) for other in THINGS] for one in THINGS])
    nearest = shared[np.arange(len(THINGS)), cosine.argmax(axis=1)]
    assert np.mean(nearest >= 1) == 1.0
    assert np.mean(nearest >= 2) > 0.7
    apart = cosine[np.triu_indices(len(THINGS), 1)]
    assert apart.max() < 0.95, "no two classes have the same vector"


def shared_attributes(one: str, other: str) -> int:
    return sum(
        getattr(FACTS[one], attribute) == getattr(FACTS[other], attribute)
        for attribute in ("shape", "texture", "colour", "habitat")
    )
