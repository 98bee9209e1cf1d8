"""DeepLabV3+ as zs3net §2 builds it (oracles 7 and 10), DeepLabV2 as cagnet §2 does, and artifacts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import tiny
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.backbones.deeplab_v2 import DeepLabV2
from zslib.backbones.encoder import build_encoder
from zslib.backbones.network import SegmentationNetwork, resize
from zslib.backbones.trained import Backbone, build_network
from zslib.errors import InputError
from zslib.grids import feature_grid
from zslib.methods.supervised import own_classifier
from zslib.methods.zs3net.generator import Generator
from zslib.params.backbone import DeepLabParams, DeepLabV2Params, EncoderParams, ModelParams
from zslib.params.zs3net import GmmnParams
from zslib.training import SingleProcess


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def published(num_classes: int) -> DeepLabV3Plus:
    """The network of ZS3Net, without memory for its weights."""
    with torch.device("meta"):
        return DeepLabV3Plus(DeepLabParams(encoder=EncoderParams(name="resnet101")), num_classes)


@pytest.fixture(scope="module")
def resnet101() -> DeepLabV3Plus:
    return published(21)


@pytest.fixture(scope="module")
def small() -> DeepLabV3Plus:
    torch.manual_seed(0)
    return DeepLabV3Plus(tiny.deeplab(), 9).eval()


def test_zs3net_oracle_10_parameters_at_21_classes(resnet101: DeepLabV3Plus) -> None:
    assert count(resnet101) == 59_344_309
    assert count(resnet101.classifier) == 5_397


def test_zs3net_oracle_10_parameters_at_60_classes() -> None:
    network = published(60)
    assert count(network) == 59_354_332
    assert count(network.classifier) == 15_420


def test_zs3net_oracle_10_parameters_of_the_generator() -> None:
    assert count(Generator(300, 256, GmmnParams())) == 219_648


def test_zs3net_section_2_multi_grid_dilates_the_last_stage_by_2_4_8(
    resnet101: DeepLabV3Plus,
) -> None:
    blocks = resnet101.encoder.layer4
    assert [block.conv2.dilation for block in blocks] == [(2, 2), (4, 4), (8, 8)]
    assert [block.conv2.stride for block in blocks] == [(1, 1)] * 3


def test_zs3net_section_2_dropout_and_biases(resnet101: DeepLabV3Plus) -> None:
    rates = [m.p for m in resnet101.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.5, 0.5, 0.1]
    layers = {n: m for n, m in resnet101.named_modules() if isinstance(m, nn.Conv2d)}
    assert [n for n, m in layers.items() if m.bias is not None] == ["classifier"]


def test_zs3net_oracle_7_grids_of_a_416x312_view(small: DeepLabV3Plus) -> None:
    image = torch.rand(1, 3, 312, 416)
    with torch.inference_mode():
        low, high = small.encoder(image)
        features = small.features(image)
        logits = small(image)
    assert high.shape[-2:] == (20, 26)
    assert low.shape[-2:] == features.shape[-2:] == feature_grid((312, 416), 4) == (78, 104)
    assert logits.shape == (1, 9, 312, 416)
    assert (features >= 0).all()


def test_zs3net_oracle_7_resizing_aligns_corners() -> None:
    line = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    assert resize(line, (1, 5)).flatten().tolist() == [1, 1.5, 2, 2.5, 3]


# --- DeepLabV2 -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_v2() -> DeepLabV2:
    with torch.device("meta"):
        return DeepLabV2(DeepLabV2Params(encoder=EncoderParams(name="resnet101")), 21)


@pytest.fixture(scope="module")
def small_v2() -> DeepLabV2:
    torch.manual_seed(0)
    return DeepLabV2(tiny.deeplab_v2(), 9).eval()


def test_cagnet_section_2_parameters(published_v2: DeepLabV2) -> None:
    layers = list(published_v2.encoder.modules())
    assert sum(count(m) for m in layers if isinstance(m, nn.Conv2d)) == 42_394_816
    assert sum(count(m) for m in layers if isinstance(m, nn.BatchNorm2d)) == 105_344
    assert count(published_v2.encoder) == 42_394_816 + 105_344
    assert count(published_v2.head) == 44_239_200


def test_cagnet_section_2_strides_and_dilations(published_v2: DeepLabV2) -> None:
    depths, found = [], []
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = list(published_v2.encoder.get_submodule(stage).children())
        depths.append(len(blocks))
        found.append((blocks[0].conv2.stride[0], {block.conv2.dilation for block in blocks}))
    assert depths == [3, 4, 23, 3]
    assert found == [(1, {(1, 1)}), (2, {(1, 1)}), (1, {(2, 2)}), (1, {(4, 4)})]
    assert [branch.dilation[0] for branch in published_v2.head.branches] == [6, 12, 18, 24]


@pytest.mark.parametrize(
    ("side", "cells"),
    [(513, 65), (368, 47), (376, 48), (328, 42), (184, 24), (276, 35), (257, 33)],
)
def test_cagnet_section_2_grids(published_v2: DeepLabV2, side: int, cells: int) -> None:
    features = published_v2.features(torch.empty(1, 3, side, side, device="meta"))
    assert features.shape == (1, 600, cells, cells)
    assert feature_grid((side, side), 8) == (cells, cells)


def test_the_feature_of_deeplab_v2_is_the_unbounded_sum_of_its_branches(
    small_v2: DeepLabV2,
) -> None:
    image = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        _, last = small_v2.encoder(image)
        features = small_v2.features(image)
        expected = sum(branch(last) for branch in small_v2.head.branches)
        logits = small_v2(image)
    torch.testing.assert_close(features, expected)
    assert features.min() < 0 < features.max()
    assert logits.shape == (1, 9, 48, 64)


def test_cagnet_addition_o1_head_is_he_normal(small_v2: DeepLabV2) -> None:
    for branch in small_v2.head.branches:
        wanted = (2 / branch.weight[0].numel()) ** 0.5
        assert branch.weight.std().item() == pytest.approx(wanted, rel=0.05)
        assert torch.equal(branch.bias, torch.zeros_like(branch.bias))


def test_an_encoder_without_residual_stages_is_refused() -> None:
    params = tiny.deeplab_v2().model_copy(
        update={"encoder": EncoderParams(name="mobilenetv3_small_050")}
    )
    with pytest.raises(
        InputError, match=r"backbone\.model\.encoder\.name: 'mobilenetv3_small_050' is no"
    ):
        DeepLabV2(params, 9)


# --- every architecture --------------------------------------------------------------------------

OF_PATCHES = tiny.deeplab().model_copy(
    update={"encoder": EncoderParams(name="test_convnext"), "multi_grid": None}
)
EACH = pytest.mark.parametrize(
    "params",
    [tiny.deeplab(), tiny.deeplab_v2(), OF_PATCHES],
    ids=lambda params: f"{params.architecture}-{params.encoder.name}",
)


@EACH
def test_feature_grid_is_the_networks(params: ModelParams) -> None:
    network = build_network(params, 9).eval()
    sides = range(32, 49)
    with torch.inference_mode():
        found = [network.features(torch.rand(1, 3, s, s + 1)).shape[-2:] for s in sides]
    assert found == [feature_grid((s, s + 1), params.feature_stride) for s in sides]


def test_an_encoder_that_begins_with_patches_gives_its_first_map_and_its_last() -> None:
    network = build_network(OF_PATCHES, 9)
    assert network.encoder.feature_info.out_indices == (0, -1)
    assert network.encoder.feature_info.reduction() == [4, OF_PATCHES.output_stride]


@EACH
def test_head_and_encoder_parameters_share_out_the_network(params: ModelParams) -> None:
    network = build_network(params, 9)
    encoder = set(map(id, network.encoder.parameters()))
    head = set(map(id, network.head_parameters()))
    assert encoder
    assert head
    assert not encoder & head
    assert encoder | head == set(map(id, network.parameters()))


# --- the generator's forward pass ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("embedding", "noise", "expected"), [((1.0, 2.0), 0.5, -7.158), ((0.0, -1.0), 1.0, 2.716)]
)
def test_zs3net_oracle_9_generator_forward(
    embedding: tuple[float, ...], noise: float, expected: float
) -> None:
    params = GmmnParams(hidden=2, noise_dimension=1, dropout=0.0)
    generator = Generator(2, 1, params)
    first, second = (layer for layer in generator.layers if isinstance(layer, nn.Linear))
    first.weight.data = torch.tensor([[1, -1, 0.5], [0, 2, -1]])
    second.weight.data = torch.tensor([[1.0, -2.0]])
    found = generator(torch.tensor([embedding]), torch.tensor([[noise]]))
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert first.bias.tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize(
    ("noise", "low", "high", "mean", "std"),
    [("uniform", 0, 1, 0.5, 12**-0.5), ("gaussian", -10, 10, 0, 1)],
)
def test_zs3net_section_4_noise(
    noise: str, low: float, high: float, mean: float, std: float
) -> None:
    params = GmmnParams(hidden=2, noise_dimension=300, noise=noise)
    seen: list[torch.Tensor] = []
    generator = Generator(2, 1, params)
    generator.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    generator.sample(torch.zeros(200, 2))
    drawn = seen[0][:, 2:]
    assert low <= drawn.min() <= drawn.max() <= high
    assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
    assert drawn.std().item() == pytest.approx(std, abs=0.02)
    assert not torch.equal(drawn[0], drawn[1]), "noise of its own for every row"


# --- artifact and weights ------------------------------------------------------------------------


@EACH
def test_a_saved_network_computes_the_same_features(tmp_path: Path, params: ModelParams) -> None:
    network: SegmentationNetwork = build_network(params, 9).eval()
    saved = Backbone(network, params, tiny.SPLIT)
    saved.save(tmp_path / "n.safetensors")
    found = Backbone.load(tmp_path / "n.safetensors")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    runtime = SingleProcess()
    assert torch.equal(found.features_of(runtime)(images), saved.features_of(runtime)(images))
    assert (found.params, found.split) == (params, tiny.SPLIT)
    last = own_classifier(found)
    np.testing.assert_array_equal(last.weight, network.classifier.weight.data[..., 0, 0])
    np.testing.assert_array_equal(last.bias, network.classifier.bias.data)


def encoder(*, weights: Path | None = None) -> nn.Module:
    params = EncoderParams(name="test_resnet", weights=[str(weights)] if weights else "none")
    return build_encoder(params, output_stride=16, pretrained=True)


def test_encoder_weights_fill_every_tensor(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = encoder()
    state = {f"encoder.{name}": tensor for name, tensor in source.state_dict().items()}
    save_file(state | {"classifier.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    loaded = encoder(weights=tmp_path / "w.safetensors")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_encoder_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = encoder().state_dict()
    file = tmp_path / "w.safetensors"
    first = next(iter(state))

    save_file({n: t for n, t in state.items() if n != first}, file)
    with pytest.raises(InputError, match=rf"lack 1 of .*'{first}'"):
        encoder(weights=file)

    save_file(state | {first: torch.zeros(1)}, file)
    with pytest.raises(InputError, match=rf"'{first}' has shape \(1,\)"):
        encoder(weights=file)

    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"w\.safetensors: encoder weights cannot be read"):
        encoder(weights=file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": EncoderParams(name="no_such_net")}, "timm cannot build 'no_such_net'"),
        (
            {"encoder": EncoderParams(name="test_vit")},
            "timm cannot build 'test_vit'.*output_stride",
        ),
        ({"multi_grid": (1, 2, 4)}, "multi_grid.*set it to null"),
    ],
)
def test_impossible_networks_are_refused_in_one_line(
    change: dict[str, object], message: str
) -> None:
    params = tiny.deeplab().model_copy(update=change)
    with pytest.raises(InputError, match=message):
        DeepLabV3Plus(params, 9)
