"""DeepLabV3+ on any timm encoder (zs3net §2).

With timm's resnet101, output stride 16 and multi-grid (1, 2, 4) this is the network of ZS3Net and
JoEm: plain convolutions, corners-aligned resizing, 59,344,309 parameters at 21 classes. The pixel
feature that every method shares is the classifier's input: non-negative, stride 4.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zslib.backbones.encoder import build_encoder, dilate
from zslib.backbones.network import SegmentationNetwork, resize
from zslib.errors import InputError
from zslib.params.backbone import DeepLabParams


class DeepLabV3Plus(SegmentationNetwork):
    """An encoder, ASPP, a decoder, and a 1x1 classifier with bias.

    Raises:
        InputError: the encoder cannot be had, or its last stage does not fit `multi_grid`.
    """

    def __init__(self, params: DeepLabParams, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.encoder = build_encoder(
            params.encoder, output_stride=params.output_stride, pretrained=pretrained
        )
        if params.multi_grid is not None:
            base = 32 // params.output_stride
            _dilate_last_stage(self.encoder, [base * factor for factor in params.multi_grid])
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


def _dilate_last_stage(encoder: nn.Module, dilations: Sequence[int]) -> None:
    blocks = getattr(encoder, "layer4", None)
    if blocks is None or len(blocks) != len(dilations):
        raise InputError(
            f"backbone.model.multi_grid: the encoder's last stage has no {len(dilations)} residual "
            "blocks to dilate; set it to null"
        )
    dilate(blocks, dilations)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
