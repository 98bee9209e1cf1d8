"""Oracle checks of CaGNet's networks, losses and prior (cagnet §12, Errata)."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from zslib.benchmark import Split
from zslib.embeddings.table import ClassVectors, class_embeddings
from zslib.embeddings.words import open_word_vectors
from zslib.losses import guarded_root, squared_mmd
from zslib.methods.cagnet import objectives
from zslib.methods.cagnet.networks import (
    ContextualModule,
    DiscriminatorClassifier,
    FeatureGenerator,
    gate,
    scale_gates,
    select_scales,
)
from zslib.methods.cagnet.objectives import (
    adversarial_loss,
    kl_divergence,
    mean_group_mmd,
    reconstruction_loss,
    runs,
    synthetic_prior,
    word_table,
)
from zslib.methods.cagnet.players import Pixels, Players, losses_on_real
from zslib.metrics import class_iou, scores
from zslib.params.cagnet import CagnetNetworks, CagnetObjectives, CagnetPlayers
from zslib.params.training import SteppedOptimiserParams

PUBLISHED = CagnetNetworks()


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_group(generated: Tensor, real: Tensor) -> float:
    return mean_group_mmd(generated, real, torch.zeros(len(real), dtype=torch.long)).item()


# --- reconstruction ------------------------------------------------------------------------------


def test_cagnet_oracle_1_mmd_term() -> None:
    generated, real = rows((0.1, 0.2), (0.9, 0.4)), rows((0.2, 0.1), (0.7, 0.8))
    assert one_group(generated, real) == pytest.approx(0.1101789735, abs=1e-9)
    assert one_group(generated, real) ** 2 == pytest.approx(0.0121394062, abs=1e-10)


def test_cagnet_oracle_1_mmd_of_a_single_pair() -> None:
    found = one_group(rows((0, 0)), rows((1, 1)))
    assert found == pytest.approx(0.8717169144, abs=1e-9)
    closed_form = sum(1 - np.exp(-1 / b) for b in (2, 5, 10, 20, 40, 60)) ** 0.5
    assert found == pytest.approx(closed_form, abs=1e-12)


LABELS = torch.tensor([3, 3, 3, 7, 7, 3])
GENERATED = rows((0.1, 0.2), (0.3, 0.4), (0.5, 0.5), (0.2, 0.8), (0.6, 0.1), (0.9, 0.9))
REAL = rows((0.2, 0.2), (0.3, 0.1), (0.4, 0.6), (0.2, 0.7), (0.8, 0.1), (0.5, 0.9))
"""Oracle 2 without its void pixel."""


def test_cagnet_oracle_2_runs() -> None:
    assert runs(LABELS).tolist() == [0, 0, 0, 1, 1, 2]
    for run, term in [((0, 3), 0.045801), ((3, 5), 0.071642), ((5, 6), 0.265281)]:
        chosen = slice(*run)
        assert one_group(GENERATED[chosen], REAL[chosen]) == pytest.approx(term, abs=1e-6)


@pytest.mark.parametrize(("label", "term"), [(3, 0.0740043), (7, 0.0716424)])
def test_cagnet_oracle_2_classes(label: int, term: float) -> None:
    members = label == LABELS
    found = reconstruction_loss(GENERATED[members], REAL[members], LABELS[members], "mmd_class")
    assert found.item() == pytest.approx(term, abs=1e-7)


@pytest.mark.parametrize(
    ("kind", "expected"), [("mmd_run", 0.1275746), ("mmd_class", 0.0728233), ("l2", 0.33 / 12)]
)
def test_cagnet_oracle_2_reconstruction(kind: str, expected: float) -> None:
    found = reconstruction_loss(GENERATED, REAL, LABELS, kind).item()
    assert found == pytest.approx(expected, abs=1e-7)


def test_cagnet_o5_runs_cross_the_boundary_between_images() -> None:
    """Two images of 2x2 with labels (1,1/2,2) and (2,void/1,1)."""
    labels = torch.tensor([1, 1, 2, 2, 2, 255, 1, 1])
    assert torch.bincount(runs(labels[labels != 255])).tolist() == [2, 3, 2]


def test_cagnet_o5_reconstruction_does_not_see_the_order_within_a_run() -> None:
    order = [2, 0, 1, 4, 3, 5]
    found = [reconstruction_loss(g, REAL, LABELS, "mmd_run") for g in (GENERATED, GENERATED[order])]
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-8)
    assert reconstruction_loss(GENERATED[order], REAL, LABELS, "l2").item() != pytest.approx(
        reconstruction_loss(GENERATED, REAL, LABELS, "l2").item()
    )


@pytest.mark.parametrize(("count", "expected"), [(2, 1.49), (50, 0.298), (500, 0.0945)])
def test_cagnet_o5_short_runs_weigh_more(count: int, expected: float) -> None:
    torch.manual_seed(0)
    pairs = [torch.randn(2, count, 600).sigmoid() for _ in range(max(100 // count, 1))]
    mean = np.mean([one_group(generated, real) for generated, real in pairs])
    assert mean == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("distance", [1e-3, 1e-4, 1e-5])
def test_cagnet_e5_mmd_falls_in_proportion_to_a_small_distance(distance: float) -> None:
    """In single precision value and gradient are lost below 1e-4."""
    torch.manual_seed(0)
    real, towards = torch.rand(200, 600), torch.randn(200, 600)
    generated = (real + distance * towards).requires_grad_()
    loss = mean_group_mmd(generated, real, torch.zeros(200, dtype=torch.long))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() / distance == pytest.approx(1.15, rel=0.1)
    assert 1e-3 < generated.grad.norm().item() < 1e-2


def test_equal_features_have_no_distance_and_a_finite_gradient() -> None:
    generated = REAL.clone().requires_grad_()
    loss = reconstruction_loss(generated, REAL, LABELS, "mmd_run")
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1.1e-6)
    assert torch.isfinite(generated.grad).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_runs_are_those_of_itertools(labels: list[int]) -> None:
    lengths = [len(list(run)) for _, run in itertools.groupby(labels)]
    assert torch.bincount(runs(torch.tensor(labels))).tolist() == lengths


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(1, 5),
    st.sampled_from(["mmd_class", "mmd_run"]),
)
def test_distances_of_groups_are_those_of_each_by_itself(
    labels: list[int], block: int, kind: str
) -> None:
    """So are their gradients, whichever groups a block of pixels cuts."""
    generator, ids = torch.Generator().manual_seed(len(labels)), torch.tensor(labels)
    generated, real = torch.rand(2, len(labels), 3, generator=generator, dtype=torch.float64)
    generated.requires_grad_()
    groups = runs(ids) if kind == "mmd_run" else ids
    squared = [
        squared_mmd(generated[groups == g], real[groups == g], objectives.BANDWIDTHS)
        for g in groups.unique()
    ]
    expected = guarded_root(torch.stack(squared) / 2).mean()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "BLOCK", block)
        found = reconstruction_loss(generated, real, ids, kind)
        gradients = [torch.autograd.grad(loss, generated)[0] for loss in (found, expected)]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-7)


class Largest(TorchDispatchMode):
    """Knows the largest tensor that was made."""

    numbers = 0

    def __torch_dispatch__(
        self, operation: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = operation(*args, **kwargs or {})
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_cagnet_section_10_a_batch_of_one_class_needs_no_kernel_of_all_its_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is anything of that order kept for the gradient."""
    pixels, block, kept = 900, 30, {}
    monkeypatch.setattr(objectives, "BLOCK", block)
    generated, real = torch.rand(2, pixels, 2)
    generated.requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    labels = torch.zeros(pixels, dtype=torch.long)
    with Largest() as largest, saved_tensors_hooks(keep, lambda tensor: tensor):
        reconstruction_loss(generated, real, labels, "mmd_run").backward()
    assert largest.numbers == 4 * block * pixels
    assert sum(kept.values()) < 200 * pixels


# --- adversarial loss, gate, latent code ---------------------------------------------------------

REAL_SCORES, FAKE_SCORES = torch.tensor([0.9, 0.6]), torch.tensor([0.3, 0.5])
"""Oracle 3 without its void pixel."""


@pytest.mark.parametrize(
    ("kind", "real", "fake", "deceived"),
    [("l1_sigmoid", 0.25, 0.40, 0.60), ("lsgan", 0.085, 0.17, 0.37)],
)
def test_cagnet_oracle_3_adversarial(kind: str, real: float, fake: float, deceived: float) -> None:
    scale = torch.logit if kind == "l1_sigmoid" else lambda scores: scores
    on_real, on_fake = scale(REAL_SCORES), scale(FAKE_SCORES)
    assert adversarial_loss(on_real, 1, kind).item() == pytest.approx(real, abs=1e-6)
    assert adversarial_loss(on_fake, 0, kind).item() == pytest.approx(fake, abs=1e-6)
    assert adversarial_loss(on_fake, 1, kind).item() == pytest.approx(deceived, abs=1e-6)


class ScoreReader(nn.Module):
    """A judge that finds its score in the feature, and cannot tell classes."""

    def discriminate(self, squashed: Tensor) -> Tensor:
        return squashed[:, 0]

    def classify(self, squashed: Tensor) -> Tensor:
        return torch.zeros(len(squashed), 2)


class Scripted(nn.Module):
    """A generator whose features are known."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, class_embeddings: Tensor, latent: Tensor) -> Tensor:
        return self.features


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"), [("l1_sigmoid", 0.65, 0.60), ("lsgan", 0.255, 0.37)]
)
def test_cagnet_oracle_3_losses_of_both_players(
    kind: str, discriminator: float, generator: float
) -> None:
    scale = torch.logit if kind == "l1_sigmoid" else lambda scores: scores
    players = Players(1, 1, 2, small())
    players.discriminator = ScoreReader()
    players.generator = Scripted(scale(FAKE_SCORES)[:, None])
    words, labels = torch.zeros(2, 1), torch.tensor([0, 1])
    pixels = Pixels(scale(REAL_SCORES)[:, None], torch.zeros(2, 1), words, labels)
    optimiser = SteppedOptimiserParams(name="adam", lr=0.001)
    weightless = CagnetPlayers(
        steps=1,
        rows=None,
        generator=optimiser,
        discriminator=optimiser,
        real_weight=0,
        fake_weight=0,
    )
    adversarial = CagnetObjectives(adversarial=kind, reconstruction_weight=0)
    found = losses_on_real(players, pixels, adversarial, weightless)
    assert found.discriminator.item() == pytest.approx(discriminator, abs=1e-6)
    assert found.generator.item() == pytest.approx(generator, abs=1e-6)


F = torch.tensor([[2.0, -1.0, 0.5]])
MEAN = torch.tensor([[0.5, -1.0, 0.0]])
LOG_VARIANCE = torch.tensor([[0.0, 0.3, 1.2]])


def test_cagnet_oracle_4_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    from zslib.methods.cagnet import networks

    noise = torch.tensor([[1.0, -0.5, 0.25]])
    monkeypatch.setattr(networks.torch, "randn_like", lambda _: noise)
    latent = networks.sample_latent(MEAN, LOG_VARIANCE)
    torch.testing.assert_close(latent, torch.tensor([[1.5, -1.58091712, 0.4555297]]))
    trained = torch.tensor([[0.97429801, 0.23673469, 0.69125148]])
    torch.testing.assert_close(gate(F, latent).sigmoid(), trained)
    evaluated = torch.tensor([[0.96249009, 0.21943852, 0.6791787]])
    torch.testing.assert_close(gate(F, MEAN).sigmoid(), evaluated)


def test_cagnet_oracle_4_kl() -> None:
    assert kl_divergence(MEAN, LOG_VARIANCE).item() == pytest.approx(0.4033292884, abs=1e-7)
    terms = [kl_divergence(MEAN[:, [i]], LOG_VARIANCE[:, [i]]).item() for i in range(3)]
    assert terms == pytest.approx([0.125, 0.5249294, 0.56005846], abs=1e-7)


def test_cagnet_oracle_5_selector() -> None:
    gates = scale_gates(torch.tensor([-2.0, 0.0, 1.0]).view(1, 3, 1, 1))
    torch.testing.assert_close(gates.flatten(), torch.tensor([0.5, 0.5, 0.73105858]))
    contexts = [
        torch.tensor(pair).view(1, 2, 1, 1) for pair in ((1.0, 2.0), (3.0, 0.0), (0.5, 0.5))
    ]
    expected = torch.tensor([0.5, 1, 1.5, 0, 0.36552929, 0.36552929])
    torch.testing.assert_close(select_scales(contexts, gates).flatten(), expected)


# --- networks ------------------------------------------------------------------------------------


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("classes", "expected"), [(20, 637_974), (33, 651_299), (182, 804_024)])
def test_cagnet_section_4_sizes_of_discriminator_and_classifier(
    classes: int, expected: int
) -> None:
    released = PUBLISHED.model_copy(update={"dummy_class": True})
    assert size(DiscriminatorClassifier(600, classes, released)) == expected


def test_cagnet_sections_3_and_4_sizes_of_contextual_module_and_generator() -> None:
    context = ContextualModule(600, PUBLISHED)
    assert size(context) == 9_523_584
    parts = (*context.scales, context.selector, context.fusion, context.mean, context.log_variance)
    expected = (1_382_400, 589_824, 589_824, 20_736, 460_800, 3_240_000, 3_240_000)
    assert tuple(map(size, parts)) == expected
    assert size(FeatureGenerator(600, 600, PUBLISHED)) == 4_720_088


def test_cagnet_o1_initialisation() -> None:
    torch.manual_seed(0)
    context = ContextualModule(600, PUBLISHED)
    generator = FeatureGenerator(600, 600, PUBLISHED)
    layers = [layer for layer in generator.layers if isinstance(layer, nn.Linear)]
    for layer, deviation in [
        (layers[0], 0.0408),
        (layers[-1], 0.0527),
        (context.selector, 0.0170),
    ]:
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert all(layer.bias.abs().max() == 0 for layer in layers)


def small(**changes: object) -> CagnetNetworks:
    sizes = {"context_channels": 4, "generator_hidden": [8], "generator_dropout": [0.0]}
    return CagnetNetworks(**sizes | {"shared_hidden": 8} | changes)


@pytest.mark.parametrize(("radius", "reached"), [(8, True), (9, False)])
def test_cagnet_section_3_a_pixel_sees_17_cells_before_the_last_convolution(
    radius: int, reached: bool
) -> None:
    """The last, 3x3 convolutions and the selector add one cell on each side."""
    torch.manual_seed(0)
    context, side = ContextualModule(3, small()), 41
    with torch.no_grad():
        for convolution in context.scales:
            convolution.weight.abs_()
    features = torch.zeros(1, 3, side, side, requires_grad=True)
    at_scale = features.sigmoid()
    for convolution in context.scales:
        at_scale = convolution(at_scale).relu()
    at_scale[0, 0, 20, 20].backward()
    assert (features.grad[0, :, 20, 20 + radius].abs().max().item() > 0) == reached


@pytest.mark.parametrize("signed", [True, False])
def test_cagnet_section_3_the_released_variance_stays_above_one(signed: bool) -> None:
    torch.manual_seed(0)
    context = ContextualModule(6, small(signed_log_variance=signed))
    mean, log_variance = context(torch.randn(2, 6, 5, 7))
    assert mean.shape == log_variance.shape == (2, 6, 5, 7)
    assert bool((log_variance < 0).any()) == signed


def test_cagnet_section_4_the_generator_reads_the_word_then_the_latent_code() -> None:
    """By hand: LeakyReLU(0.2) of word -1 and latent 2, each in a unit of its own."""
    generator = FeatureGenerator(1, 1, small(generator_hidden=[2]))
    first, last = (layer for layer in generator.layers if isinstance(layer, nn.Linear))
    first.weight.data, last.weight.data = torch.eye(2), torch.tensor([[2.0, 0.5]])
    found = generator(torch.tensor([[-1.0]]), torch.tensor([[2.0]]))
    expected = torch.tensor([[2 * -0.2 + 0.5 * 2.0]]).sigmoid()
    torch.testing.assert_close(found, expected)


def test_generated_features_lie_where_squashed_ones_do() -> None:
    torch.manual_seed(0)
    generated = FeatureGenerator(5, 6, small())(torch.randn(40, 5) * 9, torch.randn(40, 6) * 9)
    assert generated.shape == (40, 6)
    assert ((generated >= 0) & (generated <= 1)).all()


# --- prior and words -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "unseen", "boost", "each_seen", "each_unseen"),
    [(15, 5, 9, 1 / 65, 10 / 65), (29, 4, 14, 1 / 89, 15 / 89), (167, 15, 59, 1 / 1067, 60 / 1067)],
)
def test_cagnet_oracle_6_synthetic_prior(
    seen: int, unseen: int, boost: int, each_seen: float, each_unseen: float
) -> None:
    classes = [str(index) for index in range(seen + unseen + 1)]
    hidden = range(seen, seen + unseen)
    split = Split.from_ids("s", classes, list(hidden), [seen + unseen])
    prior = synthetic_prior(split, boost)
    np.testing.assert_allclose(prior[list(split.seen)], each_seen)
    np.testing.assert_allclose(prior[list(hidden)], each_unseen)
    assert prior[-1] == 0, "void"
    assert prior.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("seen", "unseen", "boost", "share"), [(15, 5, 9, 0.7692), (29, 4, 14, 0.6742)]
)
def test_cagnet_section_5_share_of_unseen_labels(
    seen: int, unseen: int, boost: int, share: float
) -> None:
    split = Split.from_ids("s", [str(i) for i in range(seen + unseen)], list(range(unseen)), [])
    assert synthetic_prior(split, boost)[:unseen].sum() == pytest.approx(share, abs=1e-4)


def test_cagnet_section_4_void_has_no_word() -> None:
    table = word_table(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    found = table.index_select(0, torch.tensor([1, 255, 0]))
    torch.testing.assert_close(found, torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]))


PUBLISHED_VECTORS = Path(__file__).parents[3] / "shared" / "vectors"


def published(benchmark: str, names: list[str]) -> list[ClassVectors]:
    """Return the published rows of both sources, in CaGNet's order."""
    tables = []
    for source in ("fasttext", "word2vec"):
        file = PUBLISHED_VECTORS / f"{benchmark}_{source}-300.bin"
        rows = open_word_vectors(file, "binary")[names]
        tables.append(ClassVectors(source, tuple(names), rows, {}))
    return tables


needs_published = pytest.mark.skipif(
    not PUBLISHED_VECTORS.is_dir(),
    reason="the published class vectors (../shared/vectors) are not here",
)


@needs_published
def test_cagnet_oracle_9_words_of_voc() -> None:
    train, bus = class_embeddings(published("spnet_voc21", ["train", "bus"]), "unit")
    np.testing.assert_allclose(train[:3], (-0.00064031, -0.07642136, -0.00918925), atol=1e-7)
    np.testing.assert_allclose(train[300:303], (-0.00068346, 0.05848546, 0.01455993), atol=1e-7)
    assert train @ bus == pytest.approx(0.5544535, abs=1e-6)


@needs_published
def test_cagnet_oracle_9_words_of_context_weigh_both_sources_alike() -> None:
    """As shipped, fastText holds two thirds of the norm; here each source has half of it."""
    tables = published("cagnet_context34", ["cat", "dog"])
    raw = class_embeddings(tables, "none").astype(np.float64)
    shipped = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(shipped[0, :3], (-0.026173, -0.0180975, 0.019967), atol=1e-6)
    np.testing.assert_allclose(shipped[0, 300:303], (0.0023762, 0.0393369, -0.0549587), atol=1e-6)
    assert (shipped[0, :300] ** 2).sum() == pytest.approx(0.6572425, abs=1e-6)
    assert shipped[0] @ shipped[1] == pytest.approx(0.7029618, abs=1e-6)
    cat, dog = class_embeddings(tables, "unit")
    assert cat @ dog == pytest.approx(0.7163147, abs=1e-6)
    assert (cat[:300] ** 2).sum() == pytest.approx(0.5, abs=1e-6)


@needs_published
@pytest.mark.parametrize(
    ("benchmark", "unseen", "seen", "expected"),
    [
        ("spnet_voc21", "pottedplant", "bottle", 0.258),
        ("spnet_voc21", "sheep", "cow", 0.599),
        ("spnet_voc21", "sofa", "chair", 0.519),
        ("spnet_cocostuff182", "tree", "bush", 0.44745),
    ],
)
def test_cagnet_section_7_nearest_seen_classes(
    benchmark: str, unseen: str, seen: str, expected: float
) -> None:
    one, other = class_embeddings(published(benchmark, [unseen, seen]), "unit")
    assert one @ other == pytest.approx(expected, abs=6e-4)


# --- metrics -------------------------------------------------------------------------------------

MATRIX = np.array([[6, 1, 0, 1], [2, 5, 0, 0], [1, 0, 1, 2], [0, 3, 1, 0]])


def test_cagnet_oracle_8_metrics() -> None:
    np.testing.assert_allclose(class_iou(MATRIX), [0.545455, 0.454545, 0.2, 0], atol=1e-6)
    found = scores(MATRIX, seen=(0, 1), unseen=(2, 3))
    expected = {
        "pixel_accuracy": 0.5217391,
        "mean_accuracy": 0.4285714,
        "miou": 0.3,
        "miou_seen": 0.5,
        "miou_unseen": 0.1,
        "hiou": 0.1666667,
        "fwiou": 0.3628458,
        "pixel_accuracy_unseen": 0.125,
        "mean_accuracy_unseen": 0.125,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("predicted", "miou"), [(0, 0.3), (1, 0.2218182)])
def test_cagnet_oracle_8_a_class_without_ground_truth_counts_once_predicted(
    predicted: int, miou: float
) -> None:
    matrix = np.zeros((5, 5), np.int64)
    matrix[:4, :4] = MATRIX
    matrix[0, 0] -= predicted
    matrix[0, 4] += predicted
    found = scores(matrix, seen=(0, 1, 4), unseen=(2, 3))
    assert found["miou"] == pytest.approx(miou, abs=1e-7)
