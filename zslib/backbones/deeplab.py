"""DeepLabV3+ on any timm encoder (zs3net §2).

With timm's resnet101, output stride 16 and multi-grid (1, 2, 4) this is the network of ZS3Net and
JoEm: plain convolutions, corners-aligned resizing, 59,344,309 parameters at 21 classes. The pixel
feature that every method shares is the classifier's input: non-negative, stride 4.
"""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.errors import InputError
from zslib.params import DeepLabParams, EncoderParams


def resize(x: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Resize bilinearly, corners aligned, as every resize of zs3net §2."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class DeepLabV3Plus(nn.Module):
    """An encoder, ASPP, a decoder, and a 1x1 classifier with bias."""

    def __init__(self, params: DeepLabParams, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.encoder = build_encoder(params, pretrained=pretrained)
        low, high = self.encoder.feature_info.channels()
        aspp_dropout, first_dropout, second_dropout = params.dropout
        self.aspp = Aspp(high, params.aspp_channels, params.aspp_rates, dropout=aspp_dropout)
        self.low_level = conv_bn_relu(low, params.low_level_channels, kernel=1)
        width, joined = params.feature_channels, params.aspp_channels + params.low_level_channels
        self.decoder = nn.Sequential(
            conv_bn_relu(joined, width, kernel=3),
            nn.Dropout(first_dropout),
            conv_bn_relu(width, width, kernel=3),
            nn.Dropout(second_dropout),
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for module in (self.aspp, self.low_level, self.decoder):
            module.apply(_initialise)

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """Return the pixel features: stride 4, h = ceil(ceil(H / 2) / 2)."""
        low, high = self.encoder(images)
        context = resize(self.aspp(high), low.shape[-2:])
        return self.decoder(torch.cat([context, self.low_level(low)], dim=1))

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c H W"]:
        """Return class logits at the size of the images."""
        return resize(self.classifier(self.features(images)), images.shape[-2:])

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the encoder, which learn faster (zs3net §2)."""
        inside = set(map(id, self.encoder.parameters()))
        return [p for p in self.parameters() if id(p) not in inside]


class Normalise(nn.Module):
    """uint8 images to normalised float ones, on whatever device they are."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        images = images.float().contiguous(memory_format=torch.channels_last)
        return (images - self.mean) / self.std


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, and image pooling."""

    def __init__(self, channels: int, width: int, rates: Sequence[int], *, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [conv_bn_relu(channels, width, kernel=1)]
            + [conv_bn_relu(channels, width, kernel=3, dilation=rate) for rate in rates]
        )
        self.pooling = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv_bn_relu(channels, width, kernel=1)
        )
        self.project = nn.Sequential(
            conv_bn_relu((len(rates) + 2) * width, width, kernel=1), nn.Dropout(dropout)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        pooled = resize(self.pooling(x), x.shape[-2:])
        return self.project(torch.cat([branch(x) for branch in self.branches] + [pooled], dim=1))


def conv_bn_relu(channels: int, width: int, *, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A bias-free convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def build_encoder(params: DeepLabParams, *, pretrained: bool) -> nn.Module:
    """Return a timm encoder that yields its stride-4 map and its last map.

    Raises:
        InputError: an unknown name, an impossible output stride, or weights that do not fit.
    """
    encoder = params.encoder
    try:
        network = timm.create_model(
            encoder.name,
            pretrained=pretrained and encoder.weights == "hub",
            features_only=True,
            out_indices=(1, -1),
            output_stride=params.output_stride,
            **encoder.args,
        )
    except OSError as error:  # what the hub's client raises without a network
        raise InputError(
            f"backbone.model.encoder.weights: '{encoder.name}' cannot be fetched from timm's hub "
            f"({error}); connect once, or list local safetensors files instead of 'hub'"
        ) from error
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError) as error:
        raise InputError(
            f"backbone.model.encoder: timm cannot build '{encoder.name}' with output stride "
            f"{params.output_stride} and {encoder.args}: {error}"
        ) from error
    low, high = network.feature_info.reduction()
    if low != 4 or high != params.output_stride:
        raise InputError(
            f"backbone.model.encoder.name: '{encoder.name}' gives maps at strides {low} and {high}, "
            f"not 4 and {params.output_stride}; choose another encoder or output stride"
        )
    if params.multi_grid is not None:
        _dilate_last_stage(network, params.multi_grid, base=32 // params.output_stride)
    if pretrained and isinstance(encoder.weights, list):
        load_encoder_weights(network, encoder)
    return network


def load_encoder_weights(network: nn.Module, params: EncoderParams) -> None:
    """Fill every tensor of the encoder from safetensors files; later files overlay earlier ones.

    Raises:
        InputError: a file cannot be read, lacks a tensor, or has one of another shape.
    """
    given: dict[str, Tensor] = {}
    for path in params.weights:
        try:
            given |= load_file(Path(path))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: encoder weights cannot be read: {error}") from error
    # timm names the stages of a features_only network flat ("layers_0") or nested ("blocks.0").
    given = {name.removeprefix("encoder.").removeprefix("model."): t for name, t in given.items()}
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in given and "num_batches_tracked" not in name]
    if missing:
        raise InputError(
            f"{', '.join(params.weights)}: lack {len(missing)} of {len(wanted)} tensors of "
            f"'{params.name}', such as '{missing[0]}'; are these its weights?"
        )
    wrong = [n for n in wanted if n in given and wanted[n].shape != given[n].shape]
    if wrong:
        raise InputError(
            f"{', '.join(params.weights)}: '{wrong[0]}' has shape {tuple(given[wrong[0]].shape)}, "
            f"'{params.name}' needs {tuple(wanted[wrong[0]].shape)}"
        )
    network.load_state_dict({n: t for n, t in given.items() if n in wanted}, strict=False)


def _dilate_last_stage(network: nn.Module, multi_grid: Sequence[int], *, base: int) -> None:
    """Give the last residual stage the dilations base * multi_grid, one per block."""
    blocks = getattr(network, "layer4", None)
    if blocks is None or len(blocks) != len(multi_grid):
        raise InputError(
            f"backbone.model.multi_grid: the encoder's last stage has no {len(multi_grid)} residual "
            "blocks to dilate; set it to null"
        )
    for block, factor in zip(blocks, multi_grid, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (base * factor, base * factor)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
