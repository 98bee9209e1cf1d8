"""SAZS on tiny images: its networks, its training, its items and views (sazs §1.3, §2, §5)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests import tiny
from tests.methods.tester import (
    AUGMENTATION,
    TUNING,
    CalibratedEndToEndTester,
    World,
    backbone,
)
from zslib.artifacts.features import DenseMaps
from zslib.backbones.drn import DrnD105, PooledDrn
from zslib.backbones.vit import ReadoutViT
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.classifier import PixelClassifier
from zslib.datasets.folds import Pair
from zslib.errors import InputError
from zslib.fine_tuning import LabelledImages, Run, choose_strength
from zslib.held_out import draw_held_out
from zslib.methods.sazs.fit import Learned, Recipe, align, fit
from zslib.methods.sazs.items import ClassOrder, Items, ItemViews, class_vectors, released_view
from zslib.methods.sazs.margins import of_margins, upsampled, view_of
from zslib.methods.sazs.networks import Trained
from zslib.methods.sazs.objectives import losses
from zslib.params.backbone import EncoderParams
from zslib.params.sazs import SazsModel, SazsObjectives, SazsTraining
from zslib.params.training import AugmentationParams, OptimiserParams
from zslib.training import SingleProcess

TRAINING = SazsTraining(
    epochs=16,
    batch_size=4,
    draw="pairs",
    augmentation=AUGMENTATION,
    optimiser=OptimiserParams(name="adam", lr=0.01),
    head_lr_factor=2.0,
)
RECIPE = Recipe(
    SazsModel(architecture="seen_only"), SazsObjectives(form="lseg"), TRAINING, "short_side"
)
GAMMAS = [0.0, 0.3, 0.6]


def with_training(**changes: object) -> Recipe:
    return replace(RECIPE, training=TRAINING.model_copy(update=changes))


def items_of(world: World, folder: Path, listed: list[Pair] | None = None) -> Items:
    return Items.of(tiny.labelled_images(folder, world.images, world.image_labels), listed)


def picture_of(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]


# --- training ------------------------------------------------------------------------------------


class TestSazs(CalibratedEndToEndTester):
    section, short = "sazs.training", {"epochs": 1}
    falling, falls_to = ("loss", "alignment", "joint"), 0.9
    strength, candidates = "gamma", GAMMAS
    batched = "13 pairs of image and class"

    def fit(self, world: World, images: LabelledImages, run: Run, **changes: object) -> Learned:
        return fit(
            backbone(),
            images,
            None,
            world.class_embeddings,
            with_training(**changes),
            GAMMAS,
            selection=world.selection,
            tuning=TUNING,
            run=run,
        )

    def save(self, fitted: Learned, folder: Path) -> None:
        fitted.save(folder)

    def classifier(self, fitted: Learned) -> PixelClassifier:
        return fitted.classifier

    def test_seen_classes_are_found_in_the_images_that_show_them(
        self, fitted: Learned, world: World
    ) -> None:
        """Binary, as in training: the mean IoU of each seen class in its images."""
        margins_of, found = fitted.network.margins_of(SingleProcess()), []
        for path, label_map in zip(world.images, world.image_labels, strict=True):
            truth, margins = tiny.SPLIT.seen_labels(label_map), margins_of(picture_of(path))[0]
            for c in np.unique(truth[truth != IGNORE_INDEX]).tolist():
                mask = (upsampled(margins[c], truth.shape, corners=True) > 0).numpy()
                scored, true = truth != IGNORE_INDEX, truth == c
                found.append((mask & true).sum() / ((mask | true) & scored).sum())
        assert np.mean(found) > 0.4

    def test_maps_that_gamma_was_chosen_by_are_kept(self, fitted: Learned, world: World) -> None:
        """For what else is chosen by them."""
        kept = DenseMaps.open(fitted.held_out_maps)
        hidden = draw_held_out(tiny.SPLIT, world.selection, seed=0)[0]
        assert Split.described(kept.meta) == hidden
        assert len(kept) == TUNING.images

    def test_a_saved_network_gives_the_same_margins(
        self, fitted: Learned, world: World, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path / "trained")
        again = Trained.load(tmp_path / "trained" / "network.safetensors")
        picture = picture_of(world.images[0])
        expected = fitted.network.margins_of(SingleProcess())(picture)
        torch.testing.assert_close(again.margins_of(SingleProcess())(picture), expected)
        assert again.split == tiny.SPLIT
        assert DenseMaps.open(tmp_path / "trained" / "held_out_maps.h5").dimension == 9


PUBLISHED = SazsModel(architecture="vit", encoder=EncoderParams(name="vit_tiny_patch16_224"))


@pytest.mark.parametrize(("model", "corners"), [(RECIPE.model, True), (PUBLISHED, False)])
def test_maps_are_learned_chosen_by_and_classified_in_one_geometry(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: SazsModel, corners: bool
) -> None:
    taught = set()

    def watched(*given: object, **options: object) -> object:
        taught.add(options["corners"])
        return losses(*given, **options)

    monkeypatch.setattr("zslib.methods.sazs.fit.losses", watched)
    images = tiny.labelled_images(tmp_path, world.images, world.image_labels)
    recipe, options = replace(with_training(epochs=1), model=model), {"tuning": TUNING}
    options |= {"selection": world.selection, "run": tiny.run(tmp_path)}
    found = fit(backbone(), images, None, world.class_embeddings, recipe, GAMMAS, **options)
    maps = DenseMaps.open(found.held_out_maps)
    assert (taught, found.classifier.corners, maps.meta["corners"]) == ({corners}, corners, corners)
    rehearsal = of_margins(Split.described(maps.meta), corners=corners)
    choice = choose_strength(rehearsal, maps, images.labels, GAMMAS)
    assert found.classifier.meta["gamma"] == choice.describe(tiny.CLASSES)


def test_sazs_check_6_learning_rates_fall_once_per_epoch(world: World, tmp_path: Path) -> None:
    known = tiny.image_ids(len(world.images))
    listed = [Pair(image_id, c) for image_id in known for c in tiny.SPLIT.seen][:8]
    items, optimiser = items_of(world, tmp_path, listed), OptimiserParams(name="sgd", lr=0.001)
    recipe = with_training(epochs=20, lr_per_epoch=True, optimiser=optimiser, head_lr_factor=1.0)
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    try:
        align(begun(items.images.split), items, recipe, run=tiny.run(tmp_path))
    finally:
        hook.remove()
    epochs = np.array(rates).reshape(20, 2)
    assert (epochs == epochs[:, :1]).all()
    expected = {0: 1e-3, 1: 9.54885e-4, 10: 5.35887e-4, 19: 6.7464e-5}
    assert {epoch: epochs[epoch, 0] for epoch in expected} == pytest.approx(expected, rel=1e-5)


def begun(split: Split, objectives: SazsObjectives = RECIPE.objectives) -> Trained:
    vectors = class_vectors(split, tiny.EMBEDDINGS, objectives.others)
    return Trained.begin(RECIPE.model, backbone(), split, vectors, objectives.form)


@pytest.mark.parametrize("others", ["mean", "learned"])
def test_the_vector_of_others_learns_only_if_asked(
    world: World, tmp_path: Path, others: str
) -> None:
    items, objectives = items_of(world, tmp_path), SazsObjectives(others=others)
    network = begun(tiny.SPLIT, objectives)
    before = network.network.others.detach().clone()
    recipe = replace(with_training(epochs=1), objectives=objectives)
    align(network, items, recipe, run=tiny.run(tmp_path))
    assert torch.equal(network.network.others, before) == (others == "mean")


@pytest.mark.parametrize("draw", ["pairs", "classes"])
def test_fewer_pairs_than_a_batch_are_refused(world: World, tmp_path: Path, draw: str) -> None:
    """There are images enough; else an epoch would have no step, and the network learn nothing."""
    items = items_of(world, tmp_path)
    few = replace(items, positions=items.positions[:3], classes=items.classes[:3])
    left = {"pairs": "3 pairs", "classes": f"{len(set(few.positions.tolist()))} images"}[draw]
    with pytest.raises(InputError, match=rf"sazs\.training\.batch_size: 4 .* the {left}"):
        align(begun(tiny.SPLIT), few, with_training(draw=draw), run=tiny.run(tmp_path))


# --- items (sazs §1.3) ---------------------------------------------------------------------------


def test_items_are_all_pairs_of_an_image_and_a_seen_class(world: World, tmp_path: Path) -> None:
    items = items_of(world, tmp_path)
    expected = {
        (position, c)
        for position, label_map in enumerate(world.image_labels)
        for c in set(np.unique(label_map).tolist()) & set(tiny.SPLIT.seen)
    }
    found = list(zip(items.positions.tolist(), items.classes.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_of_listed_pairs_those_of_seen_classes_and_known_images_are_kept(
    world: World, tmp_path: Path
) -> None:
    listed = [Pair("image01", 0), Pair("image00", 4), Pair("elsewhere", 0), Pair("image00", 2)]
    items = items_of(world, tmp_path, listed)
    assert (items.positions.tolist(), items.classes.tolist()) == ([1, 0], [0, 2])
    with pytest.raises(InputError, match="no image of split 'tiny' is paired"):
        items_of(world, tmp_path, [Pair("elsewhere", 0)])


def test_a_view_comes_with_its_class(world: World, tmp_path: Path) -> None:
    items = items_of(world, tmp_path)
    options = {"released": False, "seed": 0, "cache_images": True}
    views = ItemViews(items, TRAINING.augmentation, **options)
    picture, labels, chosen = views[0, 5]
    assert (picture.shape, labels.shape) == ((3, 32, 32), (32, 32))
    assert int(chosen) == items.classes[5]
    assert bool((labels == chosen).any())
    assert not np.isin(labels.numpy(), tiny.UNSEEN).any()


def test_sazs_1_3_classes_are_drawn_equally_often_and_an_epoch_is_the_images(
    world: World, tmp_path: Path
) -> None:
    items = items_of(world, tmp_path)
    order = ClassOrder(items, 4, section="sazs.training", seed=0)
    assert order.steps_per_epoch == len(np.unique(items.positions)) // 4
    batches = list(order.batches(0, 400))
    assert list(order.batches(3, 5)) == batches[3:5], "a resumed run goes on with the same"
    drawn = items.classes[[item for batch in batches for _, item in batch]]
    shares = np.bincount(drawn, minlength=9)[np.unique(items.classes)] / len(drawn)
    assert shares == pytest.approx(1 / len(shares), abs=0.03)


def test_others_is_the_background_or_begins_as_the_mean_of_the_seen_classes() -> None:
    vectors = torch.randn(4, 3, generator=torch.manual_seed(0))
    split = Split.from_ids("s", ["background", "a", "b", "c"], [3], [])
    classes, others = class_vectors(split, vectors, "background")
    assert torch.equal(others, vectors[0])
    assert torch.equal(classes, vectors)
    classes, others = class_vectors(split, vectors, "learned")
    torch.testing.assert_close(others, vectors[1:3].mean(0))
    assert torch.equal(classes[0], others), "the margin of the background is 0"


# --- released views (sazs §5) --------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_released_views_pad_right_and_below(factor: float) -> None:
    params = AugmentationParams(crop_size=64, scale=(factor, factor))
    image, label_map = np.full((40, 50, 3), 200, np.uint8), np.full((40, 50), 3, np.uint8)
    found = [released_view(image, label_map, params, np.random.default_rng(s)) for s in range(20)]
    for picture, labels in found:
        assert picture.shape == (64, 64, 3)
        assert set(np.unique(labels)) <= {3, IGNORE_INDEX}
        inside = labels == 3
        assert (picture[inside] == 200).all(), "beyond its frame the image is reflected, not black"
        if factor == 0.5:
            assert (labels[20:] == IGNORE_INDEX).all()
            assert not picture[20:].any()
    assert any((labels[:, 0] == IGNORE_INDEX).all() for _, labels in found) == (factor == 0.5), (
        "a flip moves the padding to the left"
    )


def test_released_views_turn_the_labels_with_the_image() -> None:
    params = AugmentationParams(crop_size=96, scale=(1.0, 1.0))
    label_map = np.zeros((96, 96), np.uint8)
    label_map[30:60, 20:50] = 1
    image = np.repeat(label_map[..., None] * np.uint8(255), 3, axis=2)
    for seed in range(10):
        picture, labels = released_view(image, label_map, params, np.random.default_rng(seed))
        bright = picture[..., 0] > 127
        known = labels != IGNORE_INDEX
        assert (bright == (labels == 1))[known].mean() > 0.98


def test_sazs_5_released_views_are_turned_by_up_to_10_degrees() -> None:
    """An integer; told by the main axis of a long bar."""
    params = AugmentationParams(crop_size=128, scale=(1.0, 1.0))
    label_map = np.zeros((128, 128), np.uint8)
    label_map[60:68, 24:104] = 1
    image = np.zeros((128, 128, 3), np.uint8)
    found = set()
    for seed in range(200):
        _, labels = released_view(image, label_map, params, np.random.default_rng(seed))
        (yy, yx), (_, xx) = np.cov(np.argwhere(labels == 1).T)
        found.add(round(np.degrees(np.arctan2(2 * yx, xx - yy)) / 2))
    assert found == set(range(-10, 11))


# --- networks (sazs §2) --------------------------------------------------------------------------


def test_sazs_2_3_drn_d_105() -> None:
    with torch.device("meta"):
        trunk = DrnD105()
        network = PooledDrn(EncoderParams(name="drn_d_105"), 512, dropout=0.95).eval()
        found = network(torch.zeros(1, 3, 500, 375))
    parameters = sum(p.numel() for p in trunk.parameters())
    assert parameters + 512 * 1000 + 1000 == 54_801_304, "with its ImageNet classifier"
    assert network.fuse[0].in_channels == 2560
    assert found.shape == (1, 512, *network.grid((500, 375))) == (1, 512, 63, 47)


def test_sazs_2_3_the_embedding_of_drn_is_not_negative() -> None:
    torch.manual_seed(0)
    network = PooledDrn(EncoderParams(name="drn_d_105"), 8, dropout=0.9).eval()
    with torch.inference_mode():
        found = network(torch.randn(1, 3, 64, 64))
    assert found.min() >= 0
    assert found.max() > 0


def test_sazs_2_2_vit_l_16_is_read_after_twelve_blocks_at_stride_8() -> None:
    with torch.device("meta"):
        encoder = EncoderParams(name="vit_large_patch16_384")
        network = ReadoutViT(encoder, 512, pretrained=False)
        found = network(torch.zeros(1, 3, 512, 512))
    assert found.shape == (1, 512, *network.grid((512, 512))) == (1, 512, 64, 64)
    assert len(network.encoder.blocks) == 12
    assert network.project[0].in_features == 2048
    assert network.encoder.positions.shape == (1, 24 * 24 + 1, 1024)


def test_a_vit_is_that_of_timm_up_to_its_twelfth_block() -> None:
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224").eval()
    network = ReadoutViT(EncoderParams(name="vit_tiny_patch16_224"), 8, pretrained=False).eval()
    own = network.encoder
    own.patches.load_state_dict(whole.patch_embed.proj.state_dict())
    own.blocks.load_state_dict(whole.blocks.state_dict())
    with torch.inference_mode():
        own.class_token.copy_(whole.cls_token)
        own.positions.copy_(whole.pos_embed)
        images = torch.randn(1, 3, 224, 224)
        tokens, grid = own(images)
        torch.testing.assert_close(whole.norm(tokens), whole.forward_features(images))
        assert grid == (14, 14)
        assert network(torch.randn(2, 3, 64, 96)).shape == (2, 8, 8, 12)


def test_sazs_2_2_the_readout_of_each_token_with_the_class_token() -> None:
    torch.manual_seed(0)
    network = ReadoutViT(EncoderParams(name="vit_tiny_patch16_224"), 8, pretrained=False).eval()
    images, linear = torch.randn(1, 3, 32, 48), network.project[0]
    with torch.inference_mode():
        tokens, grid = network.encoder(images)
        joined = torch.cat([tokens[:, 1:], tokens[:, :1].expand(-1, 6, -1)], dim=2)
        read = F.gelu(F.linear(joined, linear.weight, linear.bias)).mT.unflatten(2, grid)
        reduced = F.conv2d(read, network.reduce.weight, network.reduce.bias)
        enlarge = network.enlarge
        expected = F.conv_transpose2d(reduced, enlarge.weight, enlarge.bias, stride=2)
        torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("name", ["resnet18", "no_such_network"])
def test_what_is_no_vit_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"sazs\.model\.encoder.*'{name}'"):
        ReadoutViT(EncoderParams(name=name), 8, pretrained=False)


def test_published_networks_begin_without_the_backbone(tmp_path: Path) -> None:
    encoder = EncoderParams(name="vit_tiny_patch16_224", mean=(0.5, 0.5, 0.5))
    model = SazsModel(architecture="vit", encoder=encoder)
    vectors = class_vectors(tiny.SPLIT, tiny.EMBEDDINGS, "mean")
    trained = Trained.begin(model, backbone(), tiny.SPLIT, vectors, "sazs")
    assert (trained.picture, trained.corners) == (encoder, False)
    trained.save(tmp_path / "n")
    again = Trained.load(tmp_path / "n")
    picture = torch.randint(0, 255, (1, 3, 32, 48), dtype=torch.uint8)
    expected = trained.margins_of(SingleProcess())(picture)
    assert expected.shape == (1, 9, *trained.grid((32, 48))) == (1, 9, 4, 6)
    torch.testing.assert_close(again.margins_of(SingleProcess())(picture), expected)


def test_all_that_is_read_learns(world: World, tmp_path: Path) -> None:
    items, trained = items_of(world, tmp_path), begun(tiny.SPLIT)
    before = {n: p.detach().clone() for n, p in trained.network.named_parameters()}
    align(trained, items, with_training(epochs=1), run=tiny.run(tmp_path))
    resting = {n for n, p in trained.network.named_parameters() if torch.equal(p, before[n])}
    assert resting == {"others"}
    assert not any(
        isinstance(m, nn.Conv2d) and m.out_channels == 9 for m in trained.network.modules()
    )


# --- margins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input_size", "expected"),
    [(512, (512, 512)), ("native", (375, 500)), ("short_side", (96, 128))],
)
def test_sazs_1_4_what_a_photograph_is_resized_to(
    input_size: int | str, expected: tuple[int, int]
) -> None:
    assert view_of((500, 375), input_size, 96) == expected


def test_sazs_check_10_the_sign_of_the_upsampled_margin_is_the_argmax_of_log_probabilities() -> (
    None
):
    scores = torch.randn(2, 6, 5, generator=torch.manual_seed(0))
    logs = scores.log_softmax(0)
    both = torch.stack([upsampled(one, (31, 27), corners=False) for one in logs])
    margin = upsampled(scores[1] - scores[0], (31, 27), corners=False)
    assert torch.equal(margin > 0, both.argmax(0) == 1)


def test_the_greatest_margin_is_the_class() -> None:
    margins = torch.randn(3, 3, 9, generator=torch.manual_seed(0))
    found = of_margins(tiny.SPLIT, corners=True).predict(margins, (3, 3))
    np.testing.assert_array_equal(found, margins.argmax(2).numpy())


@pytest.mark.parametrize("corners", [True, False])
def test_of_two_classes_the_generalised_row_is_the_binary_one(corners: bool) -> None:
    """One map, one geometry: the background's margin is 0, so the other wins where its own is above."""
    split = Split.from_ids("s", ["background", "a"], [1], [])
    margins = torch.randn(8, 6, 2, generator=torch.manual_seed(0)).half()
    margins[..., 0] = 0
    found = of_margins(split, corners=corners).predict(margins, (61, 50))
    expected = upsampled(margins[..., 1], (61, 50), corners=corners) > 0
    np.testing.assert_array_equal(found == 1, expected.numpy())
