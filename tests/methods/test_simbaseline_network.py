"""MaskFormer's network, matching and losses (simbaseline §2, §12, errata and notes)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from transformers.models.maskformer import modeling_maskformer
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerLoss,
    pair_wise_dice_loss,
    pair_wise_sigmoid_focal_loss,
)

from tests import tiny
from tests.methods.maskformer import ENCODER, SEEN, SMALL, TRAINING, images, proposer
from tools.compose_params import compose
from zslib.backbones.encoder import build_encoder
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.errors import InputError
from zslib.methods.simbaseline.criterion import VOID, WEIGHTS, Criterion, Matcher, targets
from zslib.methods.simbaseline.learning import parameter_groups
from zslib.methods.simbaseline.network import MaskFormer, Predictions
from zslib.methods.simbaseline.pixel_level import starting_encoder
from zslib.params import Params, load_params
from zslib.params.backbone import EncoderParams
from zslib.params.simbaseline import MaskFormerParams, ProposalEncoder
from zslib.training import SingleProcess, build_optimiser, poly_lr

# --- matching and losses ---------------------------------------------------------------------------

LOGITS = torch.tensor([[4.0, 4, -4, -4], [-4, -4, 4, 4], [0, 0, 0, 0]])
WANTED = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])


def class_logits(probabilities: Sequence[Sequence[float]]) -> Tensor:
    known = torch.tensor(probabilities)
    return torch.cat([known, 1 - known.sum(1, keepdim=True)], dim=1).log()


def test_check_5_costs_and_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    dice, focal = (f(LOGITS, WANTED) for f in (pair_wise_dice_loss, pair_wise_sigmoid_focal_loss))
    expected = {"atol": 1e-6, "rtol": 0.0}
    torch.testing.assert_close(dice[2], torch.tensor([0.4, 0.4]), **expected)
    torch.testing.assert_close(dice[0], torch.tensor([0.014389, 0.785611]), **expected)
    torch.testing.assert_close(focal[2], torch.tensor([0.086643, 0.086643]), **expected)
    torch.testing.assert_close(focal[0, 1], torch.tensor(1.937454), **expected)
    probabilities = torch.tensor([[0.6, 0.1], [0.2, 0.3], [0.5, 0.4]])
    table = [[-0.585552, 39.434683], [39.334683, -0.285552], [1.632868, 1.732868]]
    classes, labels = class_logits(probabilities.tolist()), [torch.tensor([0, 1])]
    solved: list[Tensor] = []

    def solve(cost: Tensor) -> tuple[np.ndarray, np.ndarray]:
        solved.append(torch.as_tensor(cost))
        return linear_sum_assignment(cost)

    monkeypatch.setattr(modeling_maskformer, "linear_sum_assignment", solve)
    ((queries, found),) = Matcher()(LOGITS[None, :, None], classes[None], [WANTED[:, None]], labels)
    assert (queries.tolist(), found.tolist()) == ([0, 1], [0, 1])
    (cost,) = solved
    torch.testing.assert_close(cost, torch.tensor(table), atol=1e-5, rtol=0.0)


def test_check_5_cross_entropy_weighs_no_object_by_a_tenth() -> None:
    criterion = Criterion(2, SingleProcess())
    logits = torch.tensor([[0.6, 0.1, 0.3], [0.2, 0.3, 0.5], [0.25, 0.25, 0.5]]).log()
    pairs = [(torch.tensor([0, 1]), torch.tensor([0, 1]))]
    found = criterion.loss_labels(logits[None], [torch.tensor([0, 1])], pairs)
    assert found["loss_cross_entropy"].item() == pytest.approx(0.849578, abs=1e-6)


def predictions(seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(2, 6, 8, 8, generator=generator)
    return Predictions(masks, torch.randn(2, 6, 4, generator=generator))


def label_maps(seed: int = 0) -> Tensor:
    maps = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(seed))
    return maps.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)


def split_targets(maps: Tensor, *, ignore_void: bool) -> tuple[list[Tensor], list[Tensor]]:
    masks, classes = zip(
        *(targets(m, range(3), ignore_void=ignore_void) for m in maps), strict=True
    )
    return list(masks), list(classes)


@pytest.mark.parametrize("ignore_void", [True, False])
def test_without_void_the_losses_are_the_librarys(ignore_void: bool) -> None:
    wanted = split_targets(label_maps(), ignore_void=ignore_void)
    theirs = MaskFormerLoss(3, Matcher(), WEIGHTS, 0.1)(*predictions(), *wanted)
    ours = Criterion(3, SingleProcess())(*predictions(), *wanted)
    for name in WEIGHTS:
        torch.testing.assert_close(ours[name], theirs[name])


def test_void_is_outside_of_every_mask_as_published_or_counts_for_nothing() -> None:
    maps = label_maps()
    maps[:, :6] = IGNORE_INDEX
    negative, ignored = (split_targets(maps, ignore_void=ignore)[0][0] for ignore in (False, True))
    assert negative[:, :6].eq(0).all()
    assert ignored[:, :6].eq(VOID).all()
    torch.testing.assert_close(negative[:, 6:], ignored[:, 6:])


@pytest.mark.parametrize("ignore_void", [True, False])
def test_what_is_predicted_on_void_matters_only_as_published(ignore_void: bool) -> None:
    maps = label_maps()
    maps[:, :8] = IGNORE_INDEX
    wanted = split_targets(maps, ignore_void=ignore_void)
    first, criterion = predictions(), Criterion(3, SingleProcess())
    moved = first.masks.clone()
    moved[:, :, :3] += 5.0  # the fourth row's neighbour is not void
    losses = [
        criterion.total([Predictions(masks, first.classes)], *wanted)["loss"]
        for masks in (first.masks, moved)
    ]
    assert torch.equal(*losses) is ignore_void


def test_o9_an_image_without_labels_teaches_no_object_only() -> None:
    maps = torch.full((2, 16, 16), IGNORE_INDEX, dtype=torch.uint8)
    wanted = split_targets(maps, ignore_void=True)
    assert [m.shape for m in wanted[0]] == [(0, 16, 16)] * 2
    masks, classes = predictions()
    classes = classes.clone().requires_grad_()
    losses = Criterion(3, SingleProcess())(masks, classes, *wanted)
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    losses["loss_cross_entropy"].backward()
    assert (classes.grad[..., -1] < 0).all()
    assert (classes.grad[..., :-1] > 0).all()


def test_o9_the_number_of_targets_counts_real_ones_only() -> None:
    maps = label_maps()
    both = Criterion(3, SingleProcess())(*predictions(), *split_targets(maps, ignore_void=True))
    maps[1] = IGNORE_INDEX
    masks, classes = predictions()
    wanted = split_targets(maps, ignore_void=True)
    alone = Criterion(3, SingleProcess())(masks, classes, *wanted)
    first = [part[:1] for part in wanted]
    single = Criterion(3, SingleProcess())(masks[:1], classes[:1], *first)
    torch.testing.assert_close(alone["loss_dice"], single["loss_dice"])
    assert both["loss_dice"] != alone["loss_dice"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_e10_what_is_not_finite_is_an_error(value: float) -> None:
    masks, classes = predictions()
    masks[0, 5, 0, 0] = value
    wanted = split_targets(label_maps(), ignore_void=True)
    with pytest.raises(InputError, match="no longer finite"):
        Criterion(3, SingleProcess())(masks, classes, *wanted)


# --- the network -----------------------------------------------------------------------------------


def test_the_last_layer_is_what_the_library_predicts() -> None:
    network = proposer().network.eval()
    ours, theirs = network(images())[-1], network.body(images())
    torch.testing.assert_close(ours.masks, theirs.masks_queries_logits)
    torch.testing.assert_close(ours.classes, theirs.class_queries_logits)
    assert ours.masks.shape == (2, 6, 16, 16)
    assert ours.classes.shape == (2, 6, len(SEEN) + 1)
    masks, vectors = network.propose(images())
    torch.testing.assert_close(masks, ours.masks)
    assert vectors.shape == (2, 6, 6)


def test_e1_every_layer_is_supervised_after_the_decoders_norm() -> None:
    network = proposer().network.eval()
    decoder = network.body.model.transformer_module.decoder
    states: list[Tensor] = []
    handles = [
        layer.register_forward_hook(
            lambda _, __, output: states.append(output if torch.is_tensor(output) else output[0])
        )
        for layer in decoder.layers
    ]
    layers = network(images())
    for handle in handles:
        handle.remove()
    assert len(layers) == len(states) == SMALL.layers
    for found, state in zip(layers, states, strict=True):
        torch.testing.assert_close(found.classes, network.head(decoder.layernorm(state)))


def test_the_total_is_the_librarys_weighted_sum_over_layers() -> None:
    network = proposer().network.eval()
    layers = network(images())
    maps = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    wanted = split_targets(maps.to(torch.uint8), ignore_void=False)
    last, others = layers[-1], layers[:-1]
    auxiliary = [
        {"masks_queries_logits": p.masks, "class_queries_logits": p.classes} for p in others
    ]
    library = MaskFormerLoss(len(SEEN), Matcher(), WEIGHTS, 0.1)
    theirs = library(last.masks, last.classes, *wanted, auxiliary)
    total = sum(WEIGHTS[name.rsplit("_0")[0]] * loss for name, loss in theirs.items())
    ours = Criterion(len(SEEN), SingleProcess()).total(layers, *wanted)["loss"]
    torch.testing.assert_close(ours, total)


def test_note_2_initialisation_is_the_originals() -> None:
    torch.manual_seed(0)
    network = MaskFormer(MaskFormerParams(layers=1), ENCODER, torch.randn(3, 512))
    transformer = network.body.model.transformer_module
    attention = [
        p for n, p in transformer.decoder.named_parameters() if n.endswith("q_proj.weight")
    ]
    wide = [p for p in transformer.decoder.parameters() if sorted(p.shape) == [256, 2048]]
    assert len(attention) == len(wide) == 2
    for parameter in attention:
        assert parameter.std().item() == pytest.approx(0.044, abs=0.001)
    for parameter in wide:
        assert parameter.std().item() == pytest.approx(0.030, abs=0.001)
    mlp = transformer.decoder.layers[0].mlp
    for linear, bound in ((mlp.fc1, 256**-0.5), (mlp.fc2, 2048**-0.5)):
        assert linear.bias.abs().max().item() == pytest.approx(bound, rel=0.05)
    assert transformer.queries_embedder.weight.std().item() == pytest.approx(1.0, abs=0.02)
    linear = [m for m in network.body.mask_embedder.modules() if isinstance(m, nn.Linear)]
    assert linear[0].weight.std().item() == pytest.approx(0.036, abs=0.001)
    assert network.head.no_object.std().item() == pytest.approx(512**-0.5, rel=0.1)
    dropouts = {m.p for m in transformer.modules() if isinstance(m, nn.Dropout)}
    config = network.body.config.decoder_config
    rates = (config.dropout, config.attention_dropout, config.activation_dropout)
    assert dropouts <= {0.1}
    assert rates == (0.1, 0.1, 0.1)


def backbone(split: Split = tiny.SPLIT) -> Backbone:
    torch.manual_seed(3)
    return Backbone(build_network(tiny.deeplab(), 9, pretrained=False), tiny.deeplab(), split)


def test_e2_the_encoder_has_the_backbones_weights_and_statistics() -> None:
    trained = backbone()
    for name, tensor in trained.network.encoder.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 2.0)
    encoder, weights = starting_encoder(None, trained, tiny.SPLIT)
    network = MaskFormer(SMALL, encoder, tiny.EMBEDDINGS).eval()
    network.load_encoder(weights)
    low, high = trained.network.encoder.eval()(images())
    maps = network.encoder(images())
    torch.testing.assert_close(maps[0], low)
    torch.testing.assert_close(maps[-1], high)
    network.train()
    torch.testing.assert_close(network.encoder(images())[-1], high)


def test_a_backbone_of_another_split_is_refused() -> None:
    other = Split.from_ids("other", tiny.CLASSES, [0], ())
    with pytest.raises(InputError, match="may have seen its unseen classes"):
        starting_encoder(None, backbone(other), tiny.SPLIT)


def test_weights_of_a_segmentation_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "maskformer.safetensors"
    save_file({"model.transformer_module.queries_embedder.weight": torch.zeros(2)}, path)
    params = ENCODER.model_copy(update={"weights": [str(path)]})
    with pytest.raises(InputError, match=r"maskformer\.safetensors: holds 'model"):
        starting_encoder(params, backbone(), tiny.SPLIT)


@pytest.mark.parametrize("name", ["facebook/maskformer-resnet101-coco-stuff", "hf-hub:a/b"])
def test_published_maskformers_are_no_encoders(name: str) -> None:
    with pytest.raises(ValueError, match="is no timm name"):
        ProposalEncoder(name=name)


def test_an_encoder_without_residual_blocks_has_no_multi_grid() -> None:
    encoder = ENCODER.model_copy(update={"multi_grid": (1, 2, 4)})
    with pytest.raises(InputError, match="multi_grid"):
        MaskFormer(SMALL, encoder, tiny.EMBEDDINGS)


def test_an_encoder_gets_its_arguments() -> None:
    """A MobileNet that pads as TensorFlow does, say, cannot do without."""
    params = EncoderParams(name="mobilenetv2_035", weights="none", args={"pad_type": "same"})
    own = ProposalEncoder(**params.model_dump(), output_stride=16, multi_grid=None)
    built = build_encoder(params, output_stride=16, pretrained=False).eval()
    network = MaskFormer(SMALL, own, tiny.EMBEDDINGS).eval()
    network.load_encoder(built.state_dict())
    torch.testing.assert_close(network.encoder(images())[-1], built(images())[-1])
    assert not [m for m in network.encoder.modules() if isinstance(m, nn.BatchNorm2d)]


def test_an_encoder_of_four_maps_begins_at_a_quarter_as_others_do() -> None:
    params = EncoderParams(name="test_convnext")
    own = ProposalEncoder(**params.model_dump(), output_stride=16, multi_grid=None)
    built = build_encoder(params, output_stride=16, pretrained=False).eval()
    network = MaskFormer(SMALL, own, tiny.EMBEDDINGS).eval()
    network.load_encoder(built.state_dict())
    assert network.encoder.feature_info.reduction() == [4, 8, 16, 16]
    maps = network.encoder(images())
    for found, expected in zip((maps[0], maps[-1]), built(images()), strict=True):
        torch.testing.assert_close(found, expected)
    assert network(images())[-1].masks.shape == (2, SMALL.queries, 16, 16)


def test_arguments_that_change_an_encoders_widths_are_refused() -> None:
    encoder = ProposalEncoder(name="resnet10t", args={"channels": (8, 8, 8, 8)}, multi_grid=None)
    with pytest.raises(InputError, match=r"encoder\.args: they change the widths"):
        MaskFormer(SMALL, encoder, tiny.EMBEDDINGS)


# --- published settings ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Params:
    path = tmp_path_factory.mktemp("voc") / "params.yaml"
    compose(path, "benchmark=voc12")
    return load_params(path)


def test_note_4_the_published_encoder_is_r101c(published: Params) -> None:
    params = published.simbaseline.proposals
    assert params.encoder is not None
    network = MaskFormer(params.network, params.encoder, torch.zeros(15, 512)).encoder
    stem = [m for m in network.conv1.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in stem] == [64, 64, 128]
    assert [block.conv2.dilation[0] for block in network.layer4] == [1, 2, 4]
    assert network.layer2[0].conv2.stride == (2, 2)
    assert network.feature_info.reduction() == [4, 8, 16, 32]
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def test_section_2_3_settings_of_voc(published: Params) -> None:
    section = published.simbaseline
    training = section.proposals.training
    assert training.augmentation.short_sides == list(range(320, 961, 64))
    assert (training.augmentation.crop_size, training.augmentation.long_side) == (512, 2048)
    assert (training.steps, training.batch_size, training.gradient_clip) == (20_000, 16, 0.01)
    assert training.void_in_masks == "negative"
    assert (section.test.short_sides, section.test.long_side) == ([512], 2048)
    assert section.clean.weight == section.official.weight == 0.7
    assert section.official.invalid_queries == "keep"


def test_check_9_learning_rates(published: Params) -> None:
    training = published.simbaseline.proposals.training
    network = proposer().network
    optimiser = build_optimiser(training.optimiser, parameter_groups(network, training))
    encoder = set(map(id, network.encoder.parameters()))
    for group in optimiser.param_groups:
        slow = {id(p) in encoder for p in group["params"]}
        assert len(slow) == 1
        start, power = group["initial_lr"], group["power"]
        expected = 1e-5 if True in slow else 1e-4
        assert start == pytest.approx(expected)
        half = poly_lr(start, 10_000, training.steps, power=power)
        assert half == pytest.approx(0.5358867 * expected, rel=1e-6)
    assert sum(len(g["params"]) for g in optimiser.param_groups) == len(list(network.parameters()))


def test_norms_and_embeddings_do_not_decay_and_the_no_object_vector_does() -> None:
    network = proposer().network
    groups = parameter_groups(network, TRAINING)
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay[id(network.head.no_object)] == 1e-4
    transformer = network.body.model.transformer_module
    assert decay[id(transformer.queries_embedder.weight)] == 0
    assert decay[id(transformer.decoder.layernorm.weight)] == 0
    assert decay[id(network.head.layers[0].weight)] == 1e-4
