"""Self-training: a classifier that hardly finds unseen classes learns from images that show them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from stages import maps as maps_stage
from stages import self_train, zs5net
from tests import tiny
from tools.compose_params import compose
from zslib.artifacts.features import DENSE, DenseMaps
from zslib.artifacts.maps import (
    LABELS,
    open_labels,
    open_pseudo_labels,
    write_pseudo_labels,
)
from zslib.artifacts.store import write_arrays
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.classifier import PixelClassifier
from zslib.datasets.decode import checksum
from zslib.datasets.index import ImageEntry, ImageIndex
from zslib.datasets.labels import write_labels
from zslib.errors import InputError
from zslib.features import sample_ids
from zslib.grids import floor_nearest
from zslib.heads import Classifiers
from zslib.methods import supervised
from zslib.metrics import scores
from zslib.params import load_params
from zslib.params.self_training import PseudoLabelParams, SelfTrainingParams, SteppedTraining
from zslib.params.training import StepDecay, SteppedOptimiserParams
from zslib.selection import matrix_over
from zslib.self_training.fit import Cells, fit, retrain
from zslib.self_training.pseudo_labels import pseudo_labels
from zslib.self_training.tasks import Images, Material
from zslib.training import SingleProcess, poly_lr, step_decay

DRAWS = (tiny.SPLIT.hide([0]), tiny.SPLIT.hide([5]))
TRAINING = SteppedTraining(
    optimiser=SteppedOptimiserParams(name="adam", lr=0.03), steps=80, batch_size=128
)
SHARE = SelfTrainingParams(
    labels=PseudoLabelParams(rule="share", pool="image", candidates=[0.25, 1.0]), training=TRAINING
)
RANK = SelfTrainingParams(
    labels=PseudoLabelParams(rule="rank", candidates=[1.0, 9.0]), training=TRAINING
)


@dataclass(frozen=True)
class World:
    """Files as the stages write them, what they hold, and validation maps with all classes."""

    folder: Path
    material: Material
    classifiers: Classifiers
    validation: list[tuple[torch.Tensor, np.ndarray]]

    def miou(self, classifier: PixelClassifier) -> tuple[float, float]:
        """Return the mean IoU over seen and over unseen classes."""
        matrix = matrix_over(classifier, iter(self.validation))
        found = scores(matrix, seen=tiny.SPLIT.seen, unseen=tiny.SPLIT.unseen)
        return found["miou_seen"], found["miou_unseen"]


def noisy_features(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Return features that overlap from class to class."""
    noise = np.random.default_rng([seed, 2]).normal(scale=0.8, size=(*labels.shape, tiny.DIMENSION))
    return (tiny.features(labels, seed=seed) + noise).astype(np.float16)


def write_maps(
    path: Path, ids: Sequence[str], on_grid: Sequence[np.ndarray], *, tuning: Sequence[str] = ()
) -> DenseMaps:
    """Publish noisy feature maps of label maps on the feature grid."""
    content = [noisy_features(labels, seed=len(ids) + i) for i, labels in enumerate(on_grid)]
    arrays = {
        "grids": np.array([labels.shape for labels in on_grid], np.int32),
        "features": np.concatenate([m.reshape(-1, tiny.DIMENSION) for m in content]),
    }
    write_arrays(path, arrays, schema=DENSE, meta={"ids": list(ids), "tuning": list(tuning)})
    return DenseMaps.open(path)


def doubtful(split: Split, *, doubt: float = 8.0) -> PixelClassifier:
    """Return the classifier that knows every class's mean, and scores the unseen ones too low."""
    means = torch.from_numpy(tiny.features(np.arange(9, dtype=np.uint8), seed=0)).float()
    bias = -means.square().sum(1) / 2
    bias[list(split.unseen)] -= doubt
    return PixelClassifier(split, means, bias)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """24 labelled images, six of them for tuning; 12 that show unseen classes; images of 12 pixels."""
    folder = tmp_path_factory.mktemp("world")
    seen = scenes(24, tiny.SPLIT.seen, seed=0)
    hidden = scenes(12, range(9), seed=1)
    everything = tiny.label_maps(12, range(9), seed=2)
    names = [f"unlabelled{index:02}" for index in range(12)]
    ids = tiny.image_ids(24)
    tiny.write_labels(folder / "labels.h5", [doubled(labels) for labels in seen])
    entries = [
        ImageEntry(id=name, role="train", path=name, width=12, height=12, xxh3="") for name in names
    ]
    ImageIndex(root=".", images=tuple(entries)).save(folder / "images.json")
    classifiers = Classifiers(doubtful(tiny.SPLIT), tuple(doubtful(draw) for draw in DRAWS))
    classifiers.save(folder / "clean")
    validation = write_maps(folder / "val.h5", names, everything)
    return World(
        folder,
        Material(
            write_maps(folder / "maps.h5", ids, seen, tuning=ids[:6]),
            open_labels(folder / "labels.h5"),
            write_maps(folder / "unlabelled.h5", names, hidden),
            dict.fromkeys(names, (12, 12)),
        ),
        classifiers,
        [(f.float(), labels) for f, labels in zip(validation, everything, strict=True)],
    )


def scenes(count: int, classes: Sequence[int], *, seed: int) -> list[np.ndarray]:
    """Return label maps that show three classes each."""
    rng = np.random.default_rng(seed)
    shown = [rng.choice(classes, 3, replace=False).tolist() for _ in range(count)]
    return [tiny.label_maps(1, three, seed=seed + i)[0] for i, three in enumerate(shown)]


def doubled(labels: np.ndarray) -> np.ndarray:
    """Return the label map of an image of twice the size."""
    return np.kron(labels, np.ones((2, 2), np.uint8))


def self_train_in(
    folder: Path, world: World, params: SelfTrainingParams, *, seed: int = 0, **options: object
) -> PixelClassifier:
    given = {"classifiers": world.classifiers, "material": world.material} | options
    return fit(**given, params=params, label_rule=floor_nearest, folder=folder, seed=seed)


@dataclass(frozen=True)
class SelfTrained:
    """What one run with seed 0 left behind."""

    params: SelfTrainingParams
    folder: Path
    classifier: PixelClassifier
    curves: tiny.RecordedCurves


@pytest.fixture(scope="module", params=[SHARE, RANK], ids=["share", "rank"])
def trained(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> SelfTrained:
    folder, curves = tmp_path_factory.mktemp("trained") / "st", tiny.RecordedCurves()
    classifier = self_train_in(folder, world, request.param, curves=curves)
    return SelfTrained(request.param, folder, classifier, curves)


# --- what it brings ------------------------------------------------------------------------------


def test_unseen_classes_gain_and_seen_ones_lose_nothing(world: World, trained: SelfTrained) -> None:
    seen_before, unseen_before = world.miou(world.classifiers.final)
    seen_after, unseen_after = world.miou(trained.classifier)
    assert unseen_after > unseen_before + 0.2
    assert seen_after >= seen_before


def test_the_loss_decreases(trained: SelfTrained) -> None:
    losses = trained.curves.series("loss")
    assert len(losses) == TRAINING.steps, "the curves are those of the final training alone"
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


def test_a_hidden_layer_learns_too(world: World, tmp_path: Path) -> None:
    """CaGNet's form: squashed features, one hidden layer."""
    first = world.classifiers.final
    eye = torch.eye(tiny.DIMENSION)

    def deep(classifier: PixelClassifier) -> PixelClassifier:
        """Undo the sigmoid around 1/2 and pass everything through the ReLU."""
        weight = torch.cat([4 * eye, -4 * eye])
        bias = torch.cat([torch.full((tiny.DIMENSION,), -2.0), torch.full((tiny.DIMENSION,), 2.0)])
        last = torch.cat([classifier.weight, -classifier.weight], dim=1)
        return replace(classifier, weight=last, hidden=(weight, bias), squash=True)

    classifiers = Classifiers(deep(first), tuple(map(deep, world.classifiers.held_out)))
    found = self_train_in(tmp_path / "st", world, SHARE, classifiers=classifiers)
    assert found.squash
    assert found.hidden is not None
    assert not torch.equal(found.hidden[0], deep(first).hidden[0])
    assert world.miou(found)[1] > world.miou(classifiers.final)[1]
    assert not any(t.requires_grad for t in (found.weight, found.bias, *found.hidden))
    saved = PixelClassifier.load(tmp_path / "st" / "classifier.safetensors")
    assert torch.equal(saved.hidden[0], found.hidden[0])


def test_calibration_is_left_out(world: World, trained: SelfTrained, tmp_path: Path) -> None:
    calibrated = Classifiers(
        replace(world.classifiers.final, gamma=0.5),
        tuple(replace(classifier, gamma=0.5) for classifier in world.classifiers.held_out),
    )
    found = self_train_in(tmp_path / "st", world, trained.params, classifiers=calibrated)
    assert found.gamma == 0
    assert torch.equal(found.weight, trained.classifier.weight)


def test_the_same_seed_gives_the_same_bytes(
    world: World, trained: SelfTrained, tmp_path: Path
) -> None:
    torch.rand(7)  # the state of the global generator must not matter
    self_train_in(tmp_path / "again", world, trained.params)
    for name in ("pseudo_labels.h5", "classifier.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (trained.folder / name).read_bytes()


def test_another_seed_gives_other_weights(world: World, tmp_path: Path) -> None:
    found = [self_train_in(tmp_path / str(seed), world, SHARE, seed=seed) for seed in (0, 1)]
    assert not torch.equal(found[0].weight, found[1].weight)


def test_the_rate_falls_in_steps(world: World) -> None:
    """Where it falls to next to nothing, what follows moves nothing."""
    cells = [Cells.of(world.material.task(tiny.SPLIT).labelled, floor_nearest)]
    constant = TRAINING.optimiser.model_copy(update={"power": 0.0})
    falls = StepDecay(start=3, every=1, factor=1e-12)
    recipes = [
        SteppedTraining(optimiser=constant, steps=3, batch_size=128),
        SteppedTraining(
            optimiser=constant.model_copy(update={"decay": falls}), steps=9, batch_size=128
        ),
    ]
    found = [retrain(world.classifiers.final, cells, recipe, seed=0) for recipe in recipes]
    assert not torch.equal(found[0].weight, world.classifiers.final.weight)
    torch.testing.assert_close(found[0].weight, found[1].weight, atol=1e-9, rtol=0.0)


@pytest.mark.parametrize(
    ("benchmark", "lr"), [("voc12-spnet", 1e-4), ("context-cagnet", 2.5e-4), ("cocostuff", 5e-5)]
)
def test_cagnet_section_6_published_schedule(benchmark: str, lr: float, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", f"benchmark={benchmark}")
    training = load_params(tmp_path / "params.yaml").self_training["cagnet"].training
    optimiser, steps = training.optimiser, training.steps
    decay = (optimiser.decay.start, optimiser.decay.every, optimiser.decay.factor)
    assert (optimiser.name, optimiser.weight_decay, steps) == ("adam", 5e-4, 10_000)
    for step, share in {0: 1, 4999: 1, 5000: 0.3, 5999: 0.3, 6000: 0.09, 9999: 0.3**5}.items():
        rate = poly_lr(optimiser.lr, step, steps, power=optimiser.power) * step_decay(step, decay)
        assert rate == pytest.approx(lr * share)


def test_the_choice_was_made_on_hidden_seen_classes(trained: SelfTrained) -> None:
    choice = trained.classifier.meta[trained.params.labels.rule]
    assert choice["candidates"] == trained.params.labels.candidates
    assert choice["held_out"] == [["r disc"], ["b box"]]
    best = np.argmax(np.mean(choice["hiou"], axis=0))
    assert choice["chosen"] == choice["candidates"][best]
    assert np.min(choice["hiou"]) >= 0
    assert np.max(choice["hiou"]) > 0.5


def test_pseudo_labels_are_those_of_the_rule_at_the_images_own_size(
    world: World, trained: SelfTrained
) -> None:
    rule = trained.params.labels
    chosen = trained.classifier.meta[rule.rule]["chosen"]
    labels, confidences = open_pseudo_labels(trained.folder / "pseudo_labels.h5")
    assert labels.ids == world.material.unlabelled.ids
    assert Split.described(dict(labels.meta)) == tiny.SPLIT
    void = np.full((12, 12), IGNORE_INDEX, np.uint8)
    for name, features in zip(labels.ids, world.material.unlabelled, strict=True):
        logits = world.classifiers.final.logits(features, (12, 12))
        (expected,) = pseudo_labels(logits, void, tiny.UNSEEN, rule, [chosen])
        np.testing.assert_array_equal(labels.of(name), expected)
        assert (confidences.of(name)[expected != IGNORE_INDEX] > 0).all()
        assert (confidences.of(name)[expected == IGNORE_INDEX] == 0).all()


# --- what it is given ----------------------------------------------------------------------------


def test_nothing_is_known_of_images_that_were_left_out(world: World) -> None:
    task = world.material.task(tiny.SPLIT)
    assert task.labelled.maps.ids == world.material.train.ids
    assert all((known == IGNORE_INDEX).all() for _, known in task.unlabelled)
    assert {known.shape for _, known in task.unlabelled} == {(12, 12)}


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: str(draw.unseen))
def test_a_draw_hides_its_classes_and_leaves_tuning_images_out(world: World, draw: Split) -> None:
    task = world.material.held_out_task(draw)
    labelled, hidden = task.labelled.maps.ids, task.unlabelled.maps.ids
    assert sorted(labelled + hidden) == list(world.material.train.ids[6:])
    for name in labelled:
        assert not draw.shows_unseen(world.material.labels.of(name))
        np.testing.assert_array_equal(task.labelled.known(name), world.material.labels.of(name))
    for name in hidden:
        assert draw.shows_unseen(world.material.labels.of(name))
        assert (task.unlabelled.known(name) == IGNORE_INDEX).all()


def test_where_no_image_was_left_out_the_seen_labels_stay(world: World, tmp_path: Path) -> None:
    """CaGNet's setting: unlabelled are the void pixels of the training images."""
    train = world.material.train
    material = replace(world.material, unlabelled=train.only(train.ids))
    draw = DRAWS[0]
    task = material.held_out_task(draw)
    assert len(task.labelled) == 0
    assert task.unlabelled.maps.ids == train.ids[6:]
    for name in task.unlabelled.maps.ids:
        expected = draw.seen_labels(material.labels.of(name))
        np.testing.assert_array_equal(task.unlabelled.known(name), expected)
    self_train_in(tmp_path / "st", world, RANK, material=material)
    labels, _ = open_pseudo_labels(tmp_path / "st" / "pseudo_labels.h5")
    for name in labels.ids:
        seen = material.labels.of(name)
        np.testing.assert_array_equal(labels.of(name)[seen != IGNORE_INDEX], seen[seen != 255])


def test_where_images_were_kept_those_without_a_seen_pixel_are_void(
    world: World, tmp_path: Path
) -> None:
    """The rule `drop_void`: all are to be labelled, whether or not one of them was left out."""
    train, labels = world.material.train, world.material.labels
    shown = [*scenes(24, tiny.SPLIT.seen, seed=0), *scenes(1, tiny.UNSEEN * 2, seed=9)]
    everything = write_maps(tmp_path / "all.h5", [*train.ids, "unlabelled00"], shown)
    material = replace(world.material, unlabelled=everything)
    task = material.task(tiny.SPLIT)
    assert len(task.labelled) == 0
    assert task.unlabelled.maps.ids == (*train.ids, "unlabelled00")
    assert (task.unlabelled.known("unlabelled00") == IGNORE_INDEX).all()
    for name in train.ids:
        np.testing.assert_array_equal(task.unlabelled.known(name), labels.of(name))
    hidden = material.held_out_task(DRAWS[0])
    assert len(hidden.labelled) == 0
    assert hidden.unlabelled.maps.ids == train.ids[6:]

    self_train_in(tmp_path / "st", world, RANK, material=material)
    found, _ = open_pseudo_labels(tmp_path / "st" / "pseudo_labels.h5")
    for name in train.ids:
        seen = labels.of(name)
        np.testing.assert_array_equal(found.of(name)[seen != IGNORE_INDEX], seen[seen != 255])
    assert set(np.unique(found.of("unlabelled00"))) <= {*tiny.UNSEEN, IGNORE_INDEX}


def test_a_classifier_without_draws_takes_the_only_candidate(world: World, tmp_path: Path) -> None:
    """Of an imported generator: there is nothing to choose with."""
    imported = Classifiers(world.classifiers.final, ())
    with pytest.raises(
        InputError, match=r"no held-out draws to choose `share` with; give labels.c"
    ):
        self_train_in(tmp_path / "st", world, SHARE, classifiers=imported)
    labels = SHARE.labels.model_copy(update={"candidates": [0.25]})
    only = SHARE.model_copy(update={"labels": labels})
    found = self_train_in(tmp_path / "st", world, only, classifiers=imported)
    pseudo, _ = open_pseudo_labels(tmp_path / "st" / "pseudo_labels.h5")
    assert (found.meta, pseudo.meta["share"]) == ({}, 0.25)


def test_tuning_images_teach_nothing_while_a_choice_is_made(world: World) -> None:
    """Their features may be anything: the classifiers that compete stay what they are."""
    train = world.material.train
    garbled = train.features.copy()
    garbled[: 6 * 36] = 7.0
    material = replace(world.material, train=replace(train, features=garbled))
    for draw, classifier in zip(DRAWS, world.classifiers.held_out, strict=True):
        found = [
            retrain(
                classifier,
                [Cells.of(m.held_out_task(draw).labelled, floor_nearest)],
                TRAINING,
                seed=0,
            )
            for m in (world.material, material)
        ]
        assert torch.equal(found[0].weight, found[1].weight)


def test_cells_are_the_labelled_ones_of_their_maps(world: World) -> None:
    maps = world.material.train.only(world.material.train.ids[3:5])
    images = Images(maps, world.material.labels.of)
    cells = Cells.of(images, floor_nearest)
    features, labels = cells.gather(np.arange(len(cells)))
    on_grid = np.concatenate([known[::2, ::2].reshape(-1) for _, known in images])
    expected = torch.cat([f.flatten(0, 1) for f, _ in images]).float()
    np.testing.assert_array_equal(labels, on_grid[on_grid != IGNORE_INDEX])
    torch.testing.assert_close(features, expected[torch.from_numpy(on_grid != IGNORE_INDEX)])


def test_a_draw_that_no_image_shows_is_one_clear_error(world: World) -> None:
    train = world.material.train
    material = replace(world.material, train=replace(train, meta={"tuning": train.ids}))
    with pytest.raises(InputError, match=r"the 24 tuning images shows b box; lower tuning_images"):
        material.held_out_task(DRAWS[1])


# --- the command ---------------------------------------------------------------------------------


def run_stage(world: World, project: Path, out: Path, **options: Path) -> Result:
    """Run the command with the project's parameters, but a short training."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["self_training"]["zs3net"]["labels"]["candidates"] = [1.0]
    params["self_training"]["zs3net"]["training"]["steps"] = 20
    (out.parent / "params.yaml").write_text(yaml.safe_dump(params))
    given = {
        "classifiers": world.folder / "clean",
        "maps": world.folder / "maps.h5",
        "unlabelled": world.folder / "unlabelled.h5",
        "labels": world.folder / "labels.h5",
        "images": world.folder / "images.json",
        "curves": out.parent / "curves",
        "out": out,
        "params": out.parent / "params.yaml",
    } | options
    arguments = [part for name, path in given.items() for part in (f"--{name}", str(path))]
    return CliRunner().invoke(self_train.main, ["--method", "zs3net", *arguments])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_writes_both_artifacts(world: World, project: Path, elsewhere: Path) -> None:
    run = run_stage(world, project, elsewhere / "st")
    assert run.exit_code == 0, run.output
    assert {path.name for path in (elsewhere / "st").iterdir()} == {
        "pseudo_labels.h5",
        "classifier.safetensors",
    }
    found = PixelClassifier.load(elsewhere / "st/classifier.safetensors")
    assert world.miou(found)[1] > world.miou(world.classifiers.final)[1]


@pytest.mark.parametrize("option", ["maps", "unlabelled"])
def test_maps_of_another_backbone_are_refused(
    world: World, project: Path, elsewhere: Path, option: str
) -> None:
    arrays = {"grids": np.array([[1, 1]], np.int32), "features": np.zeros((1, 5), np.float16)}
    meta = {"ids": ["unlabelled00"], "tuning": []}
    write_arrays(elsewhere / "foreign.h5", arrays, schema=DENSE, meta=meta)
    run = run_stage(world, project, elsewhere / "st", **{option: elsewhere / "foreign.h5"})
    assert run.exit_code == 2
    assert "foreign.h5: features of 5 dimensions" in run.output
    assert str(world.folder / "clean") in run.output
    assert not (elsewhere / "st").exists()


def test_labels_of_another_split_are_refused(world: World, project: Path, elsewhere: Path) -> None:
    other = Split.from_ids("other", tiny.CLASSES, (1,), ())
    maps = tiny.label_maps(24, other.seen, seed=0)
    tiny.write_labels(elsewhere / "labels.h5", maps, split=other)
    run = run_stage(world, project, elsewhere / "st", labels=elsewhere / "labels.h5")
    assert run.exit_code == 2
    assert "labels.h5 are of different splits" in run.output


def make_maps(
    project: Path,
    folder: Path,
    shown: list[np.ndarray],
    *options: str,
    rule: str = "drop",
    **features: int,
) -> DenseMaps:
    """Run the command on training images that show this, with other parameters of the features."""
    paths, names = tiny.write_images(folder / "images", shown), tiny.image_ids(len(shown))
    entries = tuple(
        ImageEntry(
            id=name,
            role="train",
            path=path.name,
            width=32,
            height=32,
            xxh3=checksum(path.read_bytes()),
        )
        for name, path in zip(names, paths, strict=True)
    )
    ImageIndex(root=str(folder / "images"), images=entries).save(folder / "images.json")
    masks = tiny.write_masks(folder / "masks", shown, num_classes=9)
    write_labels(masks, tiny.SPLIT, folder / "labels.h5", unseen_images=rule)
    model = tiny.deeplab()
    network = build_network(model, 9, pretrained=False)
    Backbone(network, model, tiny.SPLIT).save(folder / "network.safetensors")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["features"] |= features
    params["zs3net"]["official_short_side"] = 64
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    files = {"images": "images.json", "network": "network.safetensors", "out": "maps.h5"}
    files |= {"unlabelled": "labels.h5"}
    given = [part for name, file in files.items() for part in (f"--{name}", file)]
    run = CliRunner().invoke(maps_stage.main, [*given, *options])
    assert run.exit_code == 0, run.output
    return DenseMaps.open(folder / "maps.h5")


@pytest.mark.parametrize(
    ("rule", "expected"), [("drop", ("image03",)), ("drop_void", tiny.image_ids(4))]
)
def test_maps_are_made_of_the_images_that_the_rule_gives(
    project: Path, elsewhere: Path, rule: str, expected: tuple[str, ...]
) -> None:
    """Three images, one of them with void unseen pixels, and one without a seen pixel."""
    shown = [*tiny.block_maps(3, (0, 1, 2)), np.full((32, 32), tiny.UNSEEN[0], np.uint8)]
    if rule == "drop_void":
        shown[0][:4] = tiny.UNSEEN[0]
    assert make_maps(project, elsewhere, shown, rule=rule).ids == expected


def test_zs3net_section_6_as_large_a_share_of_unlabelled_images_as_of_labelled_ones(
    project: Path, elsewhere: Path
) -> None:
    """Maps are kept of two of four labelled images: of two unlabelled ones, of one."""
    shown = tiny.block_maps(4, (0, 1, 2)) + tiny.block_maps(2, tiny.UNSEEN, seed=1)
    maps = make_maps(project, elsewhere, shown, train_maps=2, tuning_images=1)
    assert maps.ids == sample_ids(("image04", "image05"), 1, seed=0)


def test_maps_are_made_of_views_of_another_size(project: Path, elsewhere: Path) -> None:
    shown = [*tiny.block_maps(1, (0, 1, 2)), *tiny.block_maps(1, tiny.UNSEEN)]
    usual = make_maps(project, elsewhere, shown, short_side=32)
    assert usual.grids.tolist() == [[8, 8]]
    other = ("--view", "zs3net.official_short_side")
    assert make_maps(project, elsewhere, shown, *other, short_side=32).grids.tolist() == [[16, 16]]


# --- all layers ----------------------------------------------------------------------------------


def test_zs5net_trains_the_whole_network_on_pseudo_labels(project: Path, elsewhere: Path) -> None:
    """From a network that knows seen classes only, with an image of unseen classes labelled so."""
    seen, unseen = tiny.block_maps(6, (0, 1, 2)), tiny.block_maps(6, tiny.UNSEEN, seed=1)
    paths = tiny.write_images(elsewhere / "images", seen + unseen)
    names = [path.stem for path in paths]
    entries = tuple(
        ImageEntry(
            id=path.stem,
            role="train",
            path=path.name,
            width=32,
            height=32,
            xxh3=checksum(path.read_bytes()),
        )
        for path in paths
    )
    ImageIndex(root=str(elsewhere / "images"), images=entries).save(elsewhere / "images.json")
    tiny.write_label_maps(
        elsewhere / "labels.h5", names[:6], seen, schema=LABELS, meta=tiny.SPLIT.describe()
    )
    pairs = ((labels, labels) for labels in unseen)
    sizes = [labels.shape for labels in unseen]
    write_pseudo_labels(elsewhere / "pseudo.h5", names[6:], sizes, pairs, meta={})
    recipe, short = tiny.backbone(epochs=25), tiny.backbone(epochs=3)
    first = supervised.fit(
        paths[:6], seen, tiny.SPLIT, short, seed=0, compute=tiny.CPU, runtime=SingleProcess()
    )
    first.save(elsewhere / "network.safetensors")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["backbone"] = recipe.model_dump(mode="json")
    (elsewhere / "params.yaml").write_text(yaml.safe_dump(params))
    files = {"images": "images.json", "labels": "labels.h5", "pseudo-labels": "pseudo.h5"}
    files |= {"network": "network.safetensors", "curves": "curves", "out": "zs5net"}
    run = CliRunner().invoke(
        zs5net.main, [part for name, file in files.items() for part in (f"--{name}", file)]
    )
    assert run.exit_code == 0, run.output

    second = Backbone.load(elsewhere / "zs5net/network.safetensors")
    head = PixelClassifier.load(elsewhere / "zs5net/classifier.safetensors")
    assert recall(first, supervised.own_classifier(first), paths[6:], unseen) == 0
    assert recall(second, head, paths[6:], unseen) > 0.5
    assert recall(second, head, paths[:6], seen) > 0.5
    moved = {name for name, t in second.network.state_dict().items() if name.endswith("weight")}
    before = first.network.state_dict()
    assert not any(torch.equal(second.network.state_dict()[name], before[name]) for name in moved)


def recall(
    backbone: Backbone,
    head: PixelClassifier,
    paths: Sequence[Path],
    label_maps: Sequence[np.ndarray],
) -> float:
    """Return the share of labelled pixels that get their label."""
    features_of = backbone.features_of(SingleProcess())
    correct = []
    for path, labels in zip(paths, label_maps, strict=True):
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
        found = head.predict(features_of(image)[0].permute(1, 2, 0), labels.shape)
        correct.append((found == labels)[labels != IGNORE_INDEX])
    return float(np.concatenate(correct).mean())
