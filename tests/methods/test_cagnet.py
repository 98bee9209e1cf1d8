"""CaGNet on the tiny problem: the whole method, and what each of its steps must do."""

import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tests.methods.tester import World, ZeroShotMethodTester
from tools.compose_params import compose
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.benchmark import IGNORE_INDEX
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.grids import feature_grid, floor_nearest
from zslib.heads import Classifiers
from zslib.held_out import draw_held_out
from zslib.methods.cagnet import maps as cagnet_maps
from zslib.methods.cagnet import step1, step2
from zslib.methods.cagnet.batches import RowSampler, WindowSampler, label_grids
from zslib.methods.cagnet.maps import BankPlan, publish_gated, write_gated
from zslib.methods.cagnet.networks import ContextualModule, gate
from zslib.methods.cagnet.objectives import word_table
from zslib.methods.cagnet.players import Pixels, Players, losses_on_real, take_steps
from zslib.methods.cagnet.step1 import Step1, contextual_pixels, joint_step
from zslib.params import load_params
from zslib.params.cagnet import CagnetNetworks, CagnetObjectives, CagnetStep1, CagnetStep2
from zslib.params.training import StepDecay, SteppedOptimiserParams
from zslib.training import Checkpoint, SingleProcess, build_optimiser, poly_lr, step_decay

ADAM = SteppedOptimiserParams(name="adam", lr=4e-3)
NETWORKS = CagnetNetworks(
    context_channels=4,
    generator_hidden=[128],
    generator_dropout=[0.0],
    shared_hidden=64,
    shared_dropout=0.5,
)
PAPER = CagnetObjectives(kl_weight=3.0)
RELEASED = CagnetObjectives(
    adversarial="l1_sigmoid",
    reconstruction="mmd_run",
    reconstruction_reaches_context=False,
    step_idle=True,
)
STEP1 = CagnetStep1(
    networks=NETWORKS,
    objectives=PAPER,
    steps=120,
    batch_size=8,
    rows=128,
    crop=6,
    context=ADAM,
    generator=ADAM,
    discriminator=ADAM,
    real_weight=1.0,
    fake_weight=0.0,
)
STEP2 = CagnetStep2(
    steps=80,
    block=5,
    batch_size=12,
    rows=128,
    synthetic_rows=128,
    generator=ADAM,
    discriminator=ADAM,
    real_weight=0.75,
    fake_weight=0.25,
    synthetic_weight=5.0,
    generator_weight=0.0,
    unseen_boosts=[0.0, 5.0],
)
OFFICIAL1 = STEP1.model_copy(
    update={
        "networks": NETWORKS.model_copy(update={"dummy_class": True, "signed_log_variance": False}),
        "objectives": RELEASED,
        "train_selector": False,
        "steps": 6,
        "rows": None,
    }
)


def whole_maps(world: World) -> DenseMaps:
    """The maps of all training images; the world itself holds those of the tuning images."""
    maps = [tiny.features(labels, seed=5 + i) for i, labels in enumerate(world.labels)]
    grids = world.labels.sizes
    features = np.concatenate([m.reshape(-1, tiny.DIMENSION) for m in maps])
    starts = np.cumsum([0, *grids.prod(axis=1)])[:-1]
    meta = {"tuning": list(world.tuning.ids)}
    return DenseMaps(features, grids, world.labels.ids, meta, starts)


def first_step(
    world: World, params: CagnetStep1 = STEP1, *, seed: int = 0, **options: object
) -> Step1:
    return step1.fit(
        whole_maps(world),
        world.labels,
        world.class_embeddings,
        params,
        label_rule="floor",
        seed=seed,
        runtime=SingleProcess(),
        **options,
    )


def write_all(folder: Path, world: World, networks: Step1) -> tuple[DenseMaps, PixelBank]:
    """Write gated maps and their bank; open both."""
    maps = whole_maps(world)
    grids = list(label_grids(maps, world.labels, tiny.SPLIT, "floor"))
    plan = BankPlan.of(grids, tiny.SPLIT, rows_per_image=30, seed=0)
    bank = (folder / "bank.h5", plan)
    write_gated(folder / "train.h5", networks.context, maps, SingleProcess(), bank=bank)
    return DenseMaps.open(folder / "train.h5"), PixelBank.open(folder / "bank.h5")


def second_step(
    world: World,
    networks: Step1,
    first: CagnetStep1 = STEP1,
    params: CagnetStep2 = STEP2,
    **options: object,
) -> Classifiers:
    with TemporaryDirectory() as folder:
        gated, bank = write_all(Path(folder), world, networks)
        return step2.fit(
            bank,
            gated.tuning,
            world.labels,
            networks.players,
            world.class_embeddings,
            params,
            step1=first,
            runtime=SingleProcess(),
            **options,
        )


@dataclass(frozen=True)
class GatedWorld(World):
    """The world after step 1, with validation maps as evaluation sees them: gated."""

    networks: Step1
    curves: tiny.RecordedCurves


@pytest.fixture(scope="module")
def world(world: World) -> GatedWorld:
    curves = tiny.RecordedCurves()
    networks = first_step(world, curves=curves)
    validation = [(gated_map(networks, f), labels) for f, labels in world.validation]
    given = vars(world) | {"validation": validation}
    return GatedWorld(**given, networks=networks, curves=curves)


@pytest.fixture(scope="module")
def trained(world: GatedWorld) -> Step1:
    return world.networks


@torch.no_grad()
def gated_map(networks: Step1, features: Tensor) -> Tensor:
    standardised = networks.context.standardise(features.float())
    mean, _ = networks.context(standardised.permute(2, 0, 1)[None])
    return gate(standardised, mean[0].permute(1, 2, 0))


class TestCagnet(ZeroShotMethodTester):
    def fit(
        self, world: GatedWorld, *, seed: int, curves: tiny.RecordedCurves | None = None
    ) -> PixelClassifier:
        draws = draw_held_out(tiny.SPLIT, world.selection, seed=seed)
        networks = world.networks if seed == 0 else first_step(world, seed=seed)
        return second_step(world, networks, draws=draws, seed=seed, curves=curves).final


# --- step 1 --------------------------------------------------------------------------------------


def test_every_loss_of_step_1_decreases(world: GatedWorld) -> None:
    for name in ("loss", "reconstruction", "discriminator"):
        losses = world.curves.series(name)
        assert len(losses) == STEP1.steps
        assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:15]), name


def test_the_networks_come_back_as_they_went(trained: Step1, tmp_path: Path) -> None:
    trained.save(tmp_path / "s.safetensors")
    found = Step1.load(tmp_path / "s.safetensors")
    assert found.split == trained.split
    assert found.context.params == NETWORKS
    for one, other in ((found.context, trained.context), (found.players, trained.players)):
        for name, tensor in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], tensor), name


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path
) -> None:
    short = STEP1.model_copy(update={"steps": 8})
    whole, checkpoint = first_step(world, short), Checkpoint(tmp_path, 0)
    curves = tiny.RecordedCurves(dies_after=5)
    with pytest.raises(tiny.KilledError):
        first_step(world, short, checkpoint=checkpoint, curves=curves)
    resumed = first_step(world, short, checkpoint=checkpoint)
    for name, tensor in whole.players.state_dict().items():
        assert torch.equal(resumed.players.state_dict()[name], tensor), name


def test_standardised_features_have_mean_0_and_deviation_1(trained: Step1, world: World) -> None:
    features = torch.from_numpy(whole_maps(world).features).float()
    standardised = trained.context.standardise(features)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardised.std(0), torch.ones(12), atol=2e-3, rtol=0)


def test_a_channel_that_is_always_zero_stays_zero(world: World) -> None:
    maps = whole_maps(world)
    maps.features[:, 3] = 0
    centre, scale = step1.channel_statistics(maps)
    assert (centre[3].item(), scale[3].item()) == (0, 1)


def test_statistics_summed_in_blocks_are_those_of_all_cells(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = whole_maps(world)
    monkeypatch.setattr(step1, "STATISTICS_BLOCK", 7)
    monkeypatch.setattr(step1, "STATISTICS_CELLS", len(maps.features) // 3)
    cells = maps.features[::3].astype(np.float64)
    assert len(cells) % 7 > 0, "the last block is shorter"
    found = step1.channel_statistics(maps)
    for statistic, expected in zip(found, (cells.mean(0), cells.std(0)), strict=True):
        torch.testing.assert_close(statistic, torch.from_numpy(expected).float())


def test_statistics_take_less_memory_than_the_cells_do_in_their_file() -> None:
    features = np.ones((16 * step1.STATISTICS_BLOCK, 8), np.float16)
    maps = DenseMaps(features, np.array([[1, len(features)]]), ("a",), {}, np.array([0]))
    tracemalloc.start()
    step1.channel_statistics(maps)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < features.nbytes


def after_one_step(
    world: World,
    params: CagnetStep1,
    order: Sequence[str] = ("context", "generator", "discriminator"),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return every parameter before and after one joint step, the same step for the same parameters."""
    torch.manual_seed(0)
    context = ContextualModule(tiny.DIMENSION, params.networks)
    players = Players(6, tiny.DIMENSION, 9, params.networks)
    optimisers = {
        "context": step1.context_optimiser(context, params),
        **players.optimisers(params),
    }
    grids = list(world.labels)
    sampler = WindowSampler(whole_maps(world), grids, side=6, batch_size=4, rows=40)
    windows = sampler.draw(context.centre, np.random.default_rng(0))
    before = parameters(context, players)
    pixels, divergence = contextual_pixels(context, windows, word_table(world.class_embeddings))
    joint_step(players, pixels, divergence, params, {name: optimisers[name] for name in order})
    return before, parameters(context, players)


def parameters(context: ContextualModule, players: Players) -> dict[str, Tensor]:
    both = {"context": context, "players": players}
    return {
        f"{name}.{key}": parameter.detach().clone()
        for name, network in both.items()
        for key, parameter in network.named_parameters()
    }


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in one.items() if not torch.equal(tensor, other[name])}


def part(names: Iterable[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


CONTEXT = {f"context.{n}" for n in ("scales", "selector", "fusion", "mean", "log_variance")}


def test_a_step_is_that_of_an_optimiser_that_is_not_fused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of convolutions come in another order in memory than their weights."""
    _, fused = after_one_step(world, STEP1)
    adam = torch.optim.Adam

    def not_fused(*groups: object, fused: bool, **rest: object) -> torch.optim.Optimizer:
        return adam(*groups, **rest)

    monkeypatch.setattr(torch.optim, "Adam", not_fused)
    _, plain = after_one_step(world, STEP1)
    for name, parameter in plain.items():
        torch.testing.assert_close(fused[name], parameter, atol=1e-6, rtol=1e-4)


def test_a_step_moves_every_parameter(world: World) -> None:
    before, after = after_one_step(world, STEP1)
    assert differing(before, after) == set(before)


def test_cagnet_section_10_the_released_selector_is_never_trained(world: World) -> None:
    before, after = after_one_step(world, OFFICIAL1)
    assert set(before) - differing(before, after) == {"context.selector.weight"}


def with_objectives(params: CagnetStep1, **changes: object) -> CagnetStep1:
    return params.model_copy(update={"objectives": params.objectives.model_copy(update=changes)})


def test_cagnet_section_4_reconstruction_reaches_the_context_in_the_paper_only(
    world: World,
) -> None:
    for params, reached in ((STEP1, {"generator", "context"}), (OFFICIAL1, {"generator"})):
        _, one = after_one_step(world, params)
        _, other = after_one_step(world, with_objectives(params, reconstruction_weight=5.0))
        changed = {name.replace("players.", "").split(".")[0] for name in differing(one, other)}
        assert changed == reached


def test_cagnet_section_4_the_context_learns_from_the_classifier_and_the_prior(
    world: World,
) -> None:
    _, one = after_one_step(world, OFFICIAL1)
    for weight in ("kl_weight", "context_classification_weight"):
        _, other = after_one_step(world, with_objectives(OFFICIAL1, **{weight: 0.1}))
        changed = part(differing(one, other))
        assert changed
        assert changed <= CONTEXT


def test_cagnet_section_4_the_classifiers_loss_on_fakes_does_not_train_the_generator(
    world: World,
) -> None:
    weights = (STEP1.model_copy(update={"fake_weight": weight}) for weight in (0.25, 0.5))
    (_, one), (_, other) = (after_one_step(world, params) for params in weights)
    assert part(differing(one, other)) == {"players.discriminator"}


def test_cagnet_section_10_the_order_of_the_players_does_not_matter(world: World) -> None:
    _, one = after_one_step(world, STEP1)
    _, other = after_one_step(world, STEP1, order=("discriminator", "generator", "context"))
    assert differing(one, other) == set()


@pytest.mark.parametrize("objectives", [PAPER, RELEASED], ids=["paper", "released"])
def test_cagnet_section_4_only_the_classifier_looks_at_a_real_feature_with_gradient(
    objectives: CagnetObjectives,
) -> None:
    torch.manual_seed(0)
    players = Players(6, 5, 9, NETWORKS)
    squashed = torch.rand(8, 5, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
    pixels = Pixels(squashed, torch.randn(8, 5), torch.randn(8, 6), labels)
    unclassified = STEP1.model_copy(update={"real_weight": 0.0})
    found = losses_on_real(players, pixels, objectives, unclassified)
    for loss in (found.generator, found.reconstruction):
        assert torch.autograd.grad(loss, squashed, allow_unused=True, retain_graph=True)[0] is None
    (through,) = torch.autograd.grad(found.discriminator, squashed, retain_graph=True)
    assert through.abs().max() == 0
    (through,) = torch.autograd.grad(found.classification, squashed)
    assert through.abs().max() > 0


# --- maps and bank -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(
    world: World, trained: Step1, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DenseMaps, PixelBank]:
    return write_all(tmp_path_factory.mktemp("gated"), world, trained)


def test_gated_maps_keep_ids_sizes_and_tuning_images(
    written: tuple[DenseMaps, PixelBank], world: World, trained: Step1
) -> None:
    gated, _ = written
    maps = whole_maps(world)
    assert gated.ids == maps.ids
    assert gated.tuning.ids == maps.tuning.ids
    for position in (0, 7):
        expected = gated_map(trained, maps[position])
        torch.testing.assert_close(gated[position].float(), expected, atol=4e-3, rtol=2e-3)


def test_the_bank_holds_what_the_gated_maps_are_made_of(
    written: tuple[DenseMaps, PixelBank], world: World
) -> None:
    gated, bank = written
    features, mean, _ = bank.gather(np.arange(len(bank.labels))).chunk(3, dim=1)
    again = gate(features, mean)
    for position, labels in enumerate(world.labels):
        rows = slice(*bank.offsets[position : position + 2])
        flat = gated[position].flatten(0, 1).float()
        distances = torch.cdist(again[rows], flat)
        cells = distances.argmin(1)
        assert distances.min(1).values.max() < 0.05
        assert (cells.diff() > 0).all(), "raster order"
        np.testing.assert_array_equal(labels.reshape(-1)[cells], bank.labels[rows])


@pytest.mark.parametrize("dies_after", [1, 18], ids=["train", "val"])
def test_files_that_a_killed_run_has_finished_are_not_made_again(
    world: World, trained: Step1, tmp_path: Path, dies_after: int
) -> None:
    maps = whole_maps(world)
    sources = {"train": maps, "val": maps.tuning, "unlabelled": maps.only(maps.ids[:3])}
    grids = list(label_grids(maps, world.labels, tiny.SPLIT, "floor"))
    bank = BankPlan.of(grids, tiny.SPLIT, rows_per_image=30, seed=0)

    def write(name: str, scratch: str, dies_after: int | None = None) -> int:
        done: list[int] = []

        def counted(features: Tensor, latent: Tensor) -> Tensor:
            if len(done) == dies_after:
                raise tiny.KilledError
            done.append(1)
            return gate(features, latent)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(cagnet_maps, "gate", counted)
            publish_gated(tmp_path / name, trained.context, sources, SingleProcess(),
                          bank=bank, scratch=tmp_path / scratch)  # fmt: skip
        return len(done)

    assert write("whole", "one") == sum(map(len, sources.values()))
    with pytest.raises(tiny.KilledError):
        write("killed", "two", dies_after)
    assert not (tmp_path / "killed").exists()
    kept = len(maps) if dies_after > len(maps) else 0
    assert write("again", "two") == sum(map(len, sources.values())) - kept
    whole = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    assert sorted(whole) == ["bank.h5", "train.h5", "unlabelled.h5", "val.h5"]
    for name, content in whole.items():
        assert (tmp_path / "again" / name).read_bytes() == content, name


def test_no_void_and_no_unseen_pixel_is_in_the_bank(written: tuple[DenseMaps, PixelBank]) -> None:
    _, bank = written
    assert set(np.unique(bank.labels)) <= set(tiny.SPLIT.seen)
    assert bank.split == tiny.SPLIT


def test_a_bank_draws_pixels_alike_whatever_their_class() -> None:
    grid = np.repeat(np.array([0, 1], np.uint8), [900, 100]).reshape(20, 50)
    plan = BankPlan.of([grid, np.full((2, 2), IGNORE_INDEX, np.uint8)], tiny.SPLIT,
                       rows_per_image=200, seed=0)  # fmt: skip
    assert plan.offsets.tolist() == [0, 200, 200]
    assert (plan.labels == 1).mean() == pytest.approx(0.1, abs=0.05)
    assert set(plan.pixels) == {5.0}


# --- batches -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_window_shows_its_map_and_holds_a_labelled_pixel(
    seed: int, height: int, width: int, side: int
) -> None:
    rng = np.random.default_rng(seed)
    grid = np.full((height, width), IGNORE_INDEX, np.uint8)
    grid[rng.integers(height), rng.integers(width)] = 3
    cells = np.arange(height * width, dtype=np.float16)[:, None]
    maps = DenseMaps(cells, np.array([[height, width]]), ("a",), {}, np.array([0]))
    sampler = WindowSampler(maps, [grid], side=side, batch_size=2, rows=5)
    windows = sampler.draw(torch.tensor([-1.0]), rng)
    assert windows.features.shape == (1, 1, side, side)
    assert windows.labels.tolist() == [3]
    shown = windows.features.flatten()[windows.cells]
    assert grid.reshape(-1)[int(shown)] == 3
    inside = windows.features[0, 0, : min(height, side), : min(width, side)]
    assert (inside.diff(dim=1) == 1).all()
    assert (inside.diff(dim=0) == width).all()
    assert (windows.features == -1).sum() == side * side - inside.numel()


def test_cagnet_section_4_without_a_limit_all_labelled_pixels_are_used() -> None:
    """As released: what is left out would cut the runs that are compared."""
    maps = DenseMaps(np.ones((16, 3), np.float16), np.array([[4, 4]]), ("a",), {}, np.array([0]))
    grid = np.full((4, 4), 7, np.uint8)
    grid[1, 2] = IGNORE_INDEX
    sampler = WindowSampler(maps, [grid], side=4, batch_size=1, rows=None)
    windows = sampler.draw(torch.zeros(3), np.random.default_rng(0))
    assert windows.cells.tolist() == [cell for cell in range(16) if cell != 6]


@pytest.mark.parametrize("benchmark", ["voc12", "context"])
def test_cagnet_section_4_the_released_recipe_has_no_limit(benchmark: str, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", f"benchmark={benchmark}")
    released = load_params(tmp_path / "params.yaml").cagnet.official
    assert (released.step1.rows, released.step1.crop, released.step1.batch_size) == (None, 47, 8)
    assert released.step2.rows is None


def test_maps_without_a_label_are_refused() -> None:
    maps = DenseMaps(np.zeros((4, 1), np.float16), np.array([[2, 2]]), ("a",), {}, np.array([0]))
    grid = np.full((2, 2), IGNORE_INDEX, np.uint8)
    with pytest.raises(InputError, match=r"features\.train_maps"):
        WindowSampler(maps, [grid], side=2, batch_size=1, rows=1)


def test_rows_come_image_by_image_in_order(written: tuple[DenseMaps, PixelBank]) -> None:
    _, bank = written
    allowed = bank.rows_of_classes([0, 1, 2])
    rows = RowSampler(bank, allowed, batch_size=3, rows=20).draw(np.random.default_rng(0))
    assert allowed[rows].all()
    images = np.searchsorted(bank.offsets, rows, side="right") - 1
    assert len(set(images)) == 3
    assert (np.diff(rows)[np.diff(images) == 0] > 0).all()
    assert len(rows) <= 20


def test_a_bank_without_allowed_rows_is_refused(written: tuple[DenseMaps, PixelBank]) -> None:
    _, bank = written
    with pytest.raises(InputError, match=r"features\.tuning_images"):
        RowSampler(bank, np.zeros(len(bank.labels), bool), batch_size=3, rows=20)


# --- step 2 --------------------------------------------------------------------------------------


def test_the_draws_classifiers_are_those_of_the_choice(world: World, trained: Step1) -> None:
    draws, short = draw_held_out(tiny.SPLIT, world.selection, seed=0), {"steps": 4}
    found = second_step(
        world, trained, STEP1.model_copy(update=short), STEP2.model_copy(update=short),
        draws=draws, seed=0,
    )  # fmt: skip
    assert [one.split for one in found.held_out] == draws
    held_out = found.final.meta["unseen_boost"]["held_out"]
    assert [[tiny.CLASSES[c] for c in draw.unseen] for draw in draws] == held_out


def counted(patched: pytest.MonkeyPatch, *, dies_after: int | None = None) -> list[int]:
    """Return a list that grows with each step of a training, which a kill may end."""
    taken: list[int] = []

    def step(*arguments: object, **options: object) -> None:
        if len(taken) == dies_after:
            raise tiny.KilledError
        taken.append(1)
        take_steps(*arguments, **options)

    for module in (step1, step2):
        patched.setattr(module, "take_steps", step)
    return taken


@pytest.mark.parametrize(
    "dies_after", [2, 7, 12, 26], ids=["players", "candidate", "between two", "final"]
)
def test_a_second_step_that_was_killed_takes_those_that_are_left(
    world: World, trained: Step1, tmp_path: Path, dies_after: int
) -> None:
    draws, short = draw_held_out(tiny.SPLIT, world.selection, seed=0), {"steps": 4}
    params = (STEP1.model_copy(update=short), STEP2.model_copy(update=short))

    def fit(name: str, dies_after: int | None = None, **options: object) -> int:
        with pytest.MonkeyPatch.context() as patched:
            taken = counted(patched, dies_after=dies_after)
            found = second_step(world, trained, *params, draws=draws, seed=0, **options)
        found.save(tmp_path / name)
        return len(taken)

    steps, checkpoint = fit("whole"), Checkpoint(tmp_path / "run", 0)
    assert steps == 2 * (4 + 2 * 4) + 4, "players and two candidates, of two draws; the final one"
    with pytest.raises(tiny.KilledError):
        fit("killed", dies_after, checkpoint=checkpoint)
    assert fit("again", checkpoint=checkpoint) == steps - dies_after
    files = ("classifier.safetensors", "held_out/0.safetensors", "held_out/1.safetensors")
    for file in files:
        one, other = ((tmp_path / name / file).read_bytes() for name in ("whole", "again"))
        assert one == other, file


def test_players_of_a_draw_see_neither_its_classes_nor_the_tuning_images(
    world: World, trained: Step1, tmp_path: Path
) -> None:
    """Spoilt rows of either kind would make every loss NaN."""
    gated, bank = write_all(tmp_path, world, trained)
    (draw, *_) = draw_held_out(tiny.SPLIT, world.selection, seed=0)
    hidden = bank.rows_of_classes(draw.unseen) | ~bank.rows_outside(gated.tuning.ids)
    features = np.array(bank.features)
    features[hidden] = np.nan
    spoilt = replace(bank, features=features)
    outside = bank.rows_outside(gated.tuning.ids)
    short = STEP1.model_copy(update={"steps": 10})
    embeddings = world.class_embeddings
    options = {"allowed": outside, "seed": 0, "runtime": SingleProcess()}
    players = step1.fit_players(spoilt, embeddings, draw, short, **options)
    fitted = step2.fit_mixed(
        spoilt,
        players,
        embeddings,
        draw,
        STEP2.model_copy(update={"steps": 10}),
        objectives=PAPER,
        unseen_boost=1.0,
        **options,
    )
    assert torch.isfinite(fitted.weight).all()


def mixed(world: World, trained: Step1, folder: Path, **options: object) -> PixelClassifier:
    _, bank = write_all(folder, world, trained)
    arguments = {"objectives": PAPER, "unseen_boost": 1.0} | options
    return step2.fit_mixed(
        bank,
        trained.players,
        world.class_embeddings,
        tiny.SPLIT,
        arguments.pop("params", STEP2),
        allowed=np.ones(len(bank.labels), bool),
        seed=0,
        runtime=SingleProcess(),
        **arguments,
    )


def test_the_unseen_boost_moves_pixels_to_unseen_classes(
    world: World, trained: Step1, tmp_path: Path
) -> None:
    shares = []
    for boost in (0.0, 100.0):
        fitted = mixed(world, trained, tmp_path, unseen_boost=boost)
        predictions = [fitted.predict(f, m.shape) for f, m in world.validation]
        shares.append(np.isin(np.concatenate(predictions), tiny.UNSEEN).mean())
    assert shares[0] < shares[1]


def test_cagnet_section_5_blocks_of_real_and_synthetic_steps_alternate(
    world: World, trained: Step1, tmp_path: Path
) -> None:
    curves = tiny.RecordedCurves()
    params = STEP2.model_copy(update={"steps": 12, "block": 3})
    mixed(world, trained, tmp_path, params=params, curves=curves)
    kinds = ["synthetic" if "synthetic" in losses else "real" for losses in curves.losses]
    assert kinds == (["real"] * 3 + ["synthetic"] * 3) * 2


def test_step_2_leaves_the_players_of_step_1_as_they_are(
    world: World, trained: Step1, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in trained.players.state_dict().items()}
    mixed(world, trained, tmp_path, params=STEP2.model_copy(update={"steps": 8}))
    for name, tensor in trained.players.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("step_idle", [False, True])
def test_cagnet_e6_what_has_no_loss_rests_or_drifts(step_idle: bool) -> None:
    """In a synthetic block, the generator and the real/fake head; the released code moves them."""
    torch.manual_seed(0)
    players = Players(6, 5, 9, NETWORKS)
    params = STEP2.model_copy(
        update={"discriminator": ADAM.model_copy(update={"weight_decay": 0.1})}
    )
    optimisers, words = players.optimisers(params), word_table(tiny.EMBEDDINGS)
    labels = torch.arange(9)
    pixels = Pixels(torch.rand(9, 5), torch.randn(9, 5), words.index_select(0, labels), labels)
    real = losses_on_real(players, pixels, PAPER, params)
    take_steps(real.of_players(), optimisers, step_idle=step_idle)
    watched = (players.generator.layers[0].weight, players.discriminator.realness.weight)
    before = [weight.detach().clone() for weight in watched]
    loss = step2.synthetic_loss(players, labels, words)
    take_steps({"discriminator": loss, "generator": 0 * loss}, optimisers, step_idle=step_idle)
    moved = [not torch.equal(weight, old) for weight, old in zip(watched, before, strict=True)]
    assert moved == ([True, True] if step_idle else [True, False])


def test_the_released_recipe_chooses_nothing_and_leaves_its_dummy_class_behind(
    world: World,
) -> None:
    networks = first_step(world, OFFICIAL1)
    assert networks.players.discriminator.classes.out_features == 10
    short = STEP2.model_copy(update={"steps": 12})
    found = second_step(world, networks, OFFICIAL1, short, draws=[], seed=0)
    assert found.held_out == ()
    assert found.final.meta == {}
    assert found.final.weight.shape[0] == 9


# --- schedules and grids -------------------------------------------------------------------------

VOC_STEP2 = StepDecay(start=3000, every=1000, factor=0.1)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 5e-5), (2999, 5e-5), (3000, 5e-6), (4000, 5e-7), (5000, 5e-8)]
)
def test_cagnet_oracle_10_schedule_of_step_2(step: int, expected: float) -> None:
    params = SteppedOptimiserParams(name="adam", lr=5e-5, power=0.0, decay=VOC_STEP2)
    (group,) = build_optimiser(params, [torch.nn.Parameter(torch.zeros(1))]).param_groups
    rate = poly_lr(group["initial_lr"], step, 6000, power=group["power"])
    assert rate * step_decay(step, group["decay"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("lr", "decay", "steps", "last"),
    [
        (2.5e-4, (10_000, 5_000, 0.71), 40_000, 3.20e-5),
        (5e-5, (3_000, 1_000, 0.1), 6_000, 5e-8),
        (5e-5, (5_000, 1_000, 0.3), 10_000, 1.215e-7),
        (1e-5, (3_000, 2_000, 0.3), 6_000, 9e-7),
    ],
)
def test_cagnet_section_5_rates_at_the_end(
    lr: float, decay: tuple[int, int, float], steps: int, last: float
) -> None:
    assert lr * step_decay(steps - 1, decay) == pytest.approx(last, rel=2e-3)


def test_without_decay_the_rate_is_that_of_the_poly_schedule() -> None:
    assert step_decay(10**6, None) == 1
    assert poly_lr(2.5e-4, 20_000, 40_000) == pytest.approx(1.3397168e-4, rel=1e-7)


def test_cagnet_oracle_10_grids() -> None:
    assert [feature_grid((side, side), 8)[0] for side in (513, 368, 376)] == [65, 47, 48]
    # A label map holds bytes: its columns are numbered in two of them.
    numbers = np.arange(513)
    high, low = (
        floor_nearest(part.astype(np.uint8)[None], (1, 65))[0] for part in divmod(numbers, 256)
    )
    columns = high.astype(int) * 256 + low
    assert columns[[0, 1, 2, 3, 4, 5]].tolist() == [0, 7, 15, 23, 31, 39]
    assert columns[[-4, -3, -2, -1]].tolist() == [481, 489, 497, 505]
