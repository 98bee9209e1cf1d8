"""CaGNet's second version: a class is told from a patch (cagnet §11)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from tests.methods.tester import World, ZeroShotMethodTester
from zslib.artifacts import resumable
from zslib.artifacts.features import DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.grids import feature_grid
from zslib.held_out import draw_held_out
from zslib.methods.cagnet import patch_steps
from zslib.methods.cagnet.networks import ContextualModule, gate
from zslib.methods.cagnet.objectives import synthetic_prior, word_table
from zslib.methods.cagnet.patch_steps import losses_on_patches, synthetic_loss, write_scores
from zslib.methods.cagnet.patches import (
    CENTRE,
    PatchClassifier,
    Patches,
    PatchLabels,
    PatchPlayers,
    PatchSource,
    mixed_layouts,
    neighbours,
)
from zslib.methods.cagnet.players import Pixels, Players, losses_on_real
from zslib.methods.cagnet.step1 import channel_statistics
from zslib.params.cagnet import (
    CagnetNetworks,
    CagnetObjectives,
    CagnetPatches,
    CagnetPlayers,
    CagnetStep2,
)
from zslib.params.training import SteppedOptimiserParams
from zslib.training import Checkpoint, SingleProcess

ADAM = SteppedOptimiserParams(name="adam", lr=4e-3)
NETWORKS = CagnetNetworks(
    context_channels=4,
    generator_hidden=[128],
    generator_dropout=[0.0],
    shared_hidden=64,
    shared_dropout=0.0,
)
OBJECTIVES = CagnetObjectives()
PLAYERS = CagnetPlayers(
    steps=100,
    batch_size=4,
    rows=64,
    generator=ADAM,
    discriminator=ADAM,
    real_weight=1.0,
    fake_weight=0.0,
)
PARAMS = CagnetPatches(
    crop=8,
    mixed_share=0.1111,
    step1=PLAYERS,
    step2=CagnetStep2(
        steps=60,
        block=5,
        batch_size=4,
        rows=64,
        synthetic_rows=64,
        generator=ADAM,
        discriminator=ADAM,
        real_weight=0.75,
        fake_weight=0.25,
        synthetic_weight=5.0,
        generator_weight=0.0,
        unseen_boosts=[10.0, 40.0],
    ),
)


def objects(count: int, classes: Iterable[int], *, seed: int) -> list[np.ndarray]:
    """Return 8x8 label maps of two objects each, the second a box in the first; a corner is void."""
    rng, maps = np.random.default_rng(seed), []
    for _ in range(count):
        outer, inner = rng.choice(list(classes), 2, replace=False)
        label_map = np.full((8, 8), outer, np.uint8)
        top, left = rng.integers(1, 4, 2)
        label_map[top : top + 4, left : left + 4] = inner
        label_map[0, 0] = IGNORE_INDEX
        maps.append(label_map)
    return maps


def dense(grids: list[np.ndarray], *, seed: int = 5) -> DenseMaps:
    """Return feature maps of label maps; the first eight are for tuning."""
    maps = [tiny.features(labels, seed=seed + i) for i, labels in enumerate(grids)]
    rows = np.concatenate([m.reshape(-1, tiny.DIMENSION) for m in maps])
    sizes = np.array([grid.shape for grid in grids])
    starts = np.cumsum([0, *sizes.prod(axis=1)])[:-1]
    ids = tiny.image_ids(len(grids))
    return DenseMaps(rows, sizes, ids, {"tuning": list(ids[:8])}, starts)


SEEN_GRIDS = objects(32, tiny.SPLIT.seen, seed=0)
MAPS = dense(SEEN_GRIDS)
LABELS = LabelMaps(
    MAPS.ids,
    MAPS.grids,
    np.concatenate([grid.reshape(-1) for grid in SEEN_GRIDS]),
    tiny.SPLIT.describe(),
)


@pytest.fixture(scope="module")
def context() -> ContextualModule:
    """A module of small random weights: nothing here depends on what it has learnt."""
    torch.manual_seed(0)
    module = ContextualModule(tiny.DIMENSION, NETWORKS)
    module.centre, module.scale = channel_statistics(MAPS)
    with torch.no_grad():
        module.mean.weight.mul_(0.1)
        module.log_variance.weight.mul_(0.1)
    return module.eval()


@torch.no_grad()
def gated(context: ContextualModule, maps: DenseMaps) -> DenseMaps:
    rows = []
    for features in maps:
        standardised = context.standardise(features.float())
        mean, _ = context(standardised.permute(2, 0, 1)[None])
        rows.append(gate(standardised, mean[0].permute(1, 2, 0)).flatten(0, 1))
    return replace(maps, features=torch.cat(rows).half().numpy())


@dataclass(frozen=True)
class PatchWorld(World):
    """The world with label maps of objects, so that patches show one class or two."""

    context: ContextualModule


@pytest.fixture(scope="module")
def world(world: World, context: ContextualModule) -> PatchWorld:
    everything = objects(8, range(9), seed=1)
    maps = gated(context, dense(everything, seed=50))
    validation = [(f.float(), m) for f, m in zip(maps, everything, strict=True)]
    return PatchWorld(**vars(world) | {"validation": validation}, context=context)


def fit(
    world: PatchWorld,
    params: CagnetPatches = PARAMS,
    *,
    maps: DenseMaps = MAPS,
    labels: LabelMaps = LABELS,
    seed: int = 0,
    **options: object,
) -> PatchClassifier:
    return patch_steps.fit(
        maps,
        gated(world.context, MAPS.tuning),
        labels,
        world.context,
        tiny.EMBEDDINGS,
        params,
        objectives=OBJECTIVES,
        draws=draw_held_out(tiny.SPLIT, world.selection, seed=seed),
        label_rule="floor",
        seed=seed,
        runtime=SingleProcess(),
        **options,
    )


def shortened(steps: int) -> CagnetPatches:
    step1, step2 = (one.model_copy(update={"steps": steps}) for one in (PARAMS.step1, PARAMS.step2))
    return PARAMS.model_copy(update={"step1": step1, "step2": step2})


class TestCagnetV2(ZeroShotMethodTester):
    seen_accuracy, unseen_miou = 0.85, 0.15  # after so few steps

    def fit(
        self, world: PatchWorld, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PatchClassifier:
        return fit(world, seed=seed, curves=curves)

    def test_a_saved_classifier_predicts_the_same(
        self, world: PatchWorld, fitted: PatchClassifier, tmp_path: Path
    ) -> None:
        """What is saved reads maps of scores, where neighbours have had their say."""
        everything = objects(8, range(9), seed=1)
        maps = gated(world.context, dense(everything, seed=50))
        write_scores(tmp_path / "val.h5", fitted, maps, scratch=tmp_path / "scratch")
        fitted.reader().save(tmp_path / "c.safetensors")
        found, scored = PixelClassifier.load(tmp_path / "c.safetensors"), tmp_path / "val.h5"
        assert DenseMaps.open(scored).ids == maps.ids
        assert found.meta == fitted.meta
        for scores, features, labels in zip(DenseMaps.open(scored), maps, everything, strict=True):
            size = (2 * labels.shape[0], 2 * labels.shape[1])
            one, other = found.predict(scores, size), fitted.predict(features.float(), size)
            assert (one == other).mean() > 0.99, "float16 decides ties alone"

    def test_scores_of_a_killed_run_are_not_made_again(
        self,
        world: PatchWorld,
        fitted: PatchClassifier,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(resumable, "SECONDS_BETWEEN_FLUSHES", -1.0)
        maps, scores, made = gated(world.context, MAPS), PatchClassifier.scores, []

        def write(name: str, *, dies_after: int = 10**9) -> bytes:
            def counted(self: PatchClassifier, features: Tensor) -> Tensor:
                if len(made) == dies_after:
                    raise tiny.KilledError
                made.append(1)
                return scores(self, features)

            monkeypatch.setattr(PatchClassifier, "scores", counted)
            write_scores(tmp_path / name, fitted, maps, scratch=tmp_path / "scratch")
            (tmp_path / "scratch" / "scores.h5").unlink()
            return (tmp_path / name).read_bytes()

        whole = write("whole")
        assert len(made) == len(maps)
        made.clear()
        with pytest.raises(tiny.KilledError):
            write("killed", dies_after=5)
        assert write("again") == whole
        assert len(made) == len(maps)


# --- networks ------------------------------------------------------------------------------------


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_cagnet_section_11_the_classifier_gains_a_convolution_of_3x3() -> None:
    published = CagnetNetworks()
    first = Players(600, 600, 20, published)
    second = PatchPlayers(600, 600, 20, published)
    assert size(second) - size(first) == 9 * 1024 * 1024 + 1024
    assert second.discriminator.mixing.weight.std().item() == pytest.approx(
        (2 / (9 * 1024)) ** 0.5, rel=0.02
    )


def test_cagnet_oracle_10_a_crop_is_a_grid_of_16_patches() -> None:
    assert feature_grid((376, 376), 8) == (48, 48) == (16 * 3, 16 * 3)


def some_players(*, shared_hidden: int = 7) -> PatchPlayers:
    torch.manual_seed(0)
    networks = NETWORKS.model_copy(update={"shared_hidden": shared_hidden})
    players = PatchPlayers(6, 5, 9, networks)
    for parameter in players.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return players


def test_cagnet_section_11_a_map_is_scored_as_its_patches_are() -> None:
    players, features = some_players(), torch.randn(6, 4, 5)
    around = neighbours(torch.arange(24), 6, 4)
    patches = features.sigmoid().flatten(0, 1)[around].flatten(1)
    expected = players.discriminator.classify(patches).view(6, 4, 9)
    found = players.classifier(tiny.SPLIT).scores(features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_cagnet_section_11_away_from_an_edge_it_is_a_plain_convolution() -> None:
    players, features = some_players(), torch.randn(6, 5, 5)
    judge = players.discriminator
    kernel = judge.mixing.weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
    hidden = judge.shared(features.sigmoid()).relu().permute(2, 0, 1)[None]
    mixed = F.conv2d(hidden, kernel, judge.mixing.bias, padding=1)[0].permute(1, 2, 0)
    found = players.classifier(tiny.SPLIT).scores(features)
    torch.testing.assert_close(found[1:-1, 1:-1], judge.classes(mixed)[1:-1, 1:-1],
                               atol=1e-5, rtol=1e-5)  # fmt: skip


def test_a_dummy_output_stays_behind() -> None:
    networks = NETWORKS.model_copy(update={"dummy_class": True})
    players = PatchPlayers(6, 5, 9, networks)
    assert players.discriminator.classify(torch.rand(2, 45)).shape == (2, 10)
    assert players.classifier(tiny.SPLIT).scores(torch.rand(3, 3, 5)).shape == (3, 3, 9)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_neighbours_are_those_of_an_edged_map(count: int, height: int, width: int) -> None:
    numbers = np.arange(count * height * width).reshape(count, height, width)
    edged = np.pad(numbers, ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.lib.stride_tricks.sliding_window_view(edged, (1, 3, 3)).reshape(-1, 9)
    found = neighbours(torch.arange(numbers.size), height, width)
    np.testing.assert_array_equal(found, expected)


# --- real patches --------------------------------------------------------------------------------


def source_of(
    context: ContextualModule, maps: DenseMaps, grids: list[np.ndarray], *, rows: int = 10**6
) -> PatchSource:
    words = word_table(tiny.EMBEDDINGS)
    return PatchSource(maps, grids, context, words, side=8, batch_size=3, rows=rows)


def test_void_has_features_but_no_word_and_is_never_a_centre(context: ContextualModule) -> None:
    source = source_of(context, MAPS, SEEN_GRIDS)
    windows = source.draw(np.random.default_rng(0))
    patches = source.patches(windows)
    assert len(patches.labels) == len(windows.cells) == 3 * 63, "all but one corner of each map"
    words = word_table(tiny.EMBEDDINGS)
    torch.testing.assert_close(patches.words, words[patches.labels])
    torch.testing.assert_close(patches.words_around[:, CENTRE], patches.words)
    void = (patches.words_around == 0).all(-1)
    assert void.sum() == 3 * 5, (
        "by the corner's three neighbours, by two of them over the edge as well"
    )
    assert ((patches.around[void] > 0) & (patches.around[void] < 1)).all()
    assert (patches.around[void].std(0) > 0).any(), "no constant stands for void"
    torch.testing.assert_close(patches.squashed, patches.around[:, CENTRE])
    torch.testing.assert_close(patches.latent, patches.latent_around[:, CENTRE])


def test_a_pixel_is_one_and_the_same_in_all_patches_around_it(context: ContextualModule) -> None:
    source = source_of(context, MAPS, SEEN_GRIDS)
    patches = source.patches(source.draw(np.random.default_rng(0)))
    right_of_first = patches.around[0, CENTRE + 1]
    torch.testing.assert_close(patches.squashed[1], right_of_first)


def test_at_most_so_many_pixels_are_used_in_raster_order(context: ContextualModule) -> None:
    few = source_of(context, MAPS, SEEN_GRIDS, rows=40)
    every = source_of(context, MAPS, SEEN_GRIDS)
    windows = few.draw(np.random.default_rng(0))
    torch.manual_seed(0)
    some = few.patches(windows)
    torch.manual_seed(0)
    whole = every.patches(windows)
    assert len(some.labels) == 40
    distances = torch.cdist(some.squashed, whole.squashed)
    assert distances.min(1).values.max() == pytest.approx(0, abs=1e-3)
    assert (distances.argmin(1).diff() > 0).all()


def drawn(count: int, *, seed: int = 0) -> Patches:
    torch.manual_seed(seed)
    around, latent, words = (
        torch.rand(count, 9, 5),
        torch.randn(count, 9, 5),
        torch.rand(count, 9, 6),
    )
    labels = torch.arange(count) % 9
    centres = (part[:, CENTRE] for part in (around, latent, words))
    return Patches(
        *centres, labels, around=around.requires_grad_(), latent_around=latent, words_around=words
    )


def weighted(fake_weight: float) -> CagnetPlayers:
    return PLAYERS.model_copy(update={"fake_weight": fake_weight})


def test_cagnet_section_11_only_the_classifier_sees_neighbours() -> None:
    players, patches = some_players(), drawn(12)
    found = losses_on_patches(players, patches, OBJECTIVES, weighted(0.0))
    (through,) = torch.autograd.grad(found.classification, patches.around, retain_graph=True)
    assert (through.abs().amax((0, 2)) > 0).all(), "all nine cells"
    unclassified = found.discriminator - found.classification
    (through,) = torch.autograd.grad(
        unclassified, patches.around, allow_unused=True, retain_graph=True
    )
    assert through is None or through.abs().max() < 1e-6
    for loss in (found.generator, found.reconstruction):
        (through,) = torch.autograd.grad(loss, patches.around, allow_unused=True, retain_graph=True)
        assert through is None


def test_cagnet_section_11_pixels_are_judged_and_reconstructed_as_in_the_first_version() -> None:
    players, patches = some_players(), drawn(12)
    first = Players(6, 5, 9, NETWORKS.model_copy(update={"shared_hidden": 7}))
    state = {k: v for k, v in players.state_dict().items() if "mixing" not in k}
    first.load_state_dict(state)
    pixels = Pixels(patches.squashed, patches.latent, patches.words, patches.labels)
    one = losses_on_patches(players, patches, OBJECTIVES, weighted(0.0))
    other = losses_on_real(first, pixels, OBJECTIVES, weighted(0.0))
    torch.testing.assert_close(one.generator, other.generator)
    torch.testing.assert_close(one.reconstruction, other.reconstruction)
    torch.testing.assert_close(one.discriminator - one.classification,
                               other.discriminator - other.classification)  # fmt: skip


def test_cagnet_section_4_fakes_are_classified_amid_generated_neighbours() -> None:
    players, patches = some_players(), drawn(12)
    without, with_fakes = (
        losses_on_patches(players, patches, OBJECTIVES, weighted(weight)) for weight in (0.0, 0.25)
    )
    fake = torch.stack([
        players.generator(patches.words_around[:, i], patches.latent_around[:, i])
        for i in range(9)
    ], dim=1)  # fmt: skip
    expected = F.cross_entropy(players.discriminator.classify(fake.flatten(1)), patches.labels)
    torch.testing.assert_close(with_fakes.discriminator - without.discriminator, 0.25 * expected)
    torch.testing.assert_close(with_fakes.generator, without.generator)


# --- synthetic patches ---------------------------------------------------------------------------


def test_cagnet_section_11_a_patch_has_one_code_and_a_label_at_its_centre_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    players, words = some_players(), word_table(tiny.EMBEDDINGS)
    labels = torch.randint(9, (10, 9))
    given = []
    generate = players.generator.forward
    monkeypatch.setattr(
        players.generator, "forward", lambda *inputs: given.append(inputs) or generate(*inputs)
    )
    loss = synthetic_loss(players, labels, words)
    ((embeddings, latent),) = given
    torch.testing.assert_close(embeddings.view(10, 9, 6), words[labels])
    codes = latent.view(10, 9, 5)
    assert (codes == codes[:, :1]).all()
    assert codes[:, 0].unique(dim=0).shape == (10, 5)
    rows = generate(embeddings, latent).view(10, -1)
    expected = F.cross_entropy(players.discriminator.classify(rows), labels[:, 4])
    torch.testing.assert_close(loss, expected)


def layouts_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many cells of each patch are unseen, and how many classes it shows."""
    unseen = torch.isin(labels, torch.tensor(tiny.UNSEEN)).sum(1)
    return unseen, torch.tensor([len(patch.unique()) for patch in labels])


def test_cagnet_section_11_mixed_patches_show_7_unseen_pixels_and_3_classes_at_most() -> None:
    labels = PatchLabels(SEEN_GRIDS, tiny.SPLIT, unseen_boost=9, mixed_share=1.0)
    unseen, classes = layouts_of(labels.draw(400, np.random.default_rng(0)))
    assert set(unseen.tolist()) <= {7, 8}
    assert set(classes.tolist()) <= {2, 3}


def test_cagnet_section_11_the_released_share_of_mixed_patches() -> None:
    labels = PatchLabels(SEEN_GRIDS, tiny.SPLIT, unseen_boost=9, mixed_share=1 / 9)
    _, classes = layouts_of(labels.draw(9000, np.random.default_rng(0)))
    assert (classes > 1).float().mean().item() == pytest.approx(1 / 9, abs=0.01)


def test_cagnet_oracle_6_patches_of_one_class_follow_the_prior() -> None:
    labels = PatchLabels([], tiny.SPLIT, unseen_boost=9, mixed_share=0.0)
    patches = labels.draw(20_000, np.random.default_rng(0))
    assert (patches == patches[:, :1]).all()
    shares = torch.bincount(patches[:, 0], minlength=9) / len(patches)
    np.testing.assert_allclose(shares, synthetic_prior(tiny.SPLIT, 9), atol=0.015)


def test_synthetic_patches_are_a_function_of_the_seed() -> None:
    labels = PatchLabels(SEEN_GRIDS, tiny.SPLIT, unseen_boost=9, mixed_share=0.5)
    one, same, other = (labels.draw(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(1, 7), st.integers(1, 7))
def test_layouts_are_patches_that_one_class_nearly_fills(
    seed: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    grid = rng.choice([0, 0, 0, 0, 0, 0, 0, 1, 2, 255], (height, width)).astype(np.uint8)
    expected = []
    for row in range(height - 2):
        for column in range(width - 2):
            patch = grid[row : row + 3, column : column + 3].flatten().tolist()
            commonest = max(set(patch), key=patch.count)
            if 255 not in patch and patch.count(commonest) in (7, 8):
                expected.append([255 if label == commonest else label for label in patch])
    assert mixed_layouts([grid]).tolist() == expected


def test_label_maps_without_a_mixed_patch_are_refused() -> None:
    whole = [np.zeros((6, 6), np.uint8)]
    with pytest.raises(InputError, match=r"cagnet\.patches\.mixed_share"):
        PatchLabels(whole, tiny.SPLIT, unseen_boost=0, mixed_share=0.1)


# --- the whole method ----------------------------------------------------------------------------


def test_exchanging_unseen_classes_in_the_labels_changes_nothing(
    world: PatchWorld, tmp_path: Path
) -> None:
    grids = objects(32, range(9), seed=3)
    exchanged = np.array([0, 1, 2, 3, 8, 5, 6, 7, 4], np.uint8)
    written = []
    for name, lookup in {"one": np.arange(9, dtype=np.uint8), "two": exchanged}.items():
        pixels = np.concatenate([grid.reshape(-1) for grid in grids])
        pixels = np.where(pixels == IGNORE_INDEX, pixels, lookup[np.minimum(pixels, 8)])
        fitted = fit(world, shortened(4), labels=replace(LABELS, pixels=pixels))
        fitted.save(tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_players_of_a_draw_learn_neither_its_classes_nor_from_the_tuning_images(
    world: PatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Split, set[str], set[int]]] = []
    build = patch_steps.PatchTraining.players

    def watched(training: patch_steps.PatchTraining) -> PatchPlayers:
        labels = {int(label) for grid in training.grids for label in np.unique(grid)}
        seen.append((training.split, set(training.maps.ids), labels - {IGNORE_INDEX}))
        return build(training)

    monkeypatch.setattr(patch_steps.PatchTraining, "players", watched)
    fit(world, shortened(2))
    *draws, final = seen
    assert len(draws) == world.selection.draws
    for split, images, labels in draws:
        assert labels <= set(split.seen)
        assert not images & set(MAPS.tuning.ids)
    assert final[1:] == (set(MAPS.ids), set(tiny.SPLIT.seen))


def test_blocks_of_real_and_synthetic_patches_alternate(world: PatchWorld) -> None:
    curves = tiny.RecordedCurves()
    fit(world, shortened(10), curves=curves)
    kinds = ["synthetic" if "synthetic" in losses else "real" for losses in curves.losses]
    assert kinds == ["real"] * 5 + ["synthetic"] * 5


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    world: PatchWorld, tmp_path: Path
) -> None:
    checkpoint, curves = Checkpoint(tmp_path, 0), tiny.RecordedCurves(dies_after=3)
    whole = fit(world, shortened(4))
    with pytest.raises(tiny.KilledError):
        fit(world, shortened(4), checkpoint=checkpoint, curves=curves)
    resumed = fit(world, shortened(4), checkpoint=checkpoint)
    assert torch.equal(resumed.weight, whole.weight)
    folders = {folder.name for folder in tmp_path.iterdir()}
    assert len(folders) == 2 * 3 + 2, "players, and candidates: of two draws, then the chosen one"
    assert all(name.startswith("cagnet-v2-tiny") for name in folders)


def test_the_unseen_boost_moves_pixels_to_unseen_classes(world: PatchWorld) -> None:
    shares = []
    short = shortened(20)
    for boost in (0.0, 100.0):
        step2 = short.step2.model_copy(update={"unseen_boosts": [boost]})
        fitted = fit(world, short.model_copy(update={"step2": step2}))
        predictions = [fitted.predict(f, m.shape) for f, m in world.validation]
        shares.append(np.isin(np.concatenate(predictions), tiny.UNSEEN).mean())
    assert shares[0] < shares[1]
