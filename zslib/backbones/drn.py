"""DRN-D-105 with pyramid pooling (sazs §2.3).

A dilated residual network keeps stride 8 from its fourth level on; form D has plain convolutions at
its beginning, and at its end, where they smooth what dilation leaves of a grid. Parameters have the
names of the released weights, which need no more than another file format.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.backbones.encoder import load_encoder_weights
from zslib.params.backbone import EncoderParams

WIDTH = 512
"""Channels of the last levels."""
BINS = (1, 2, 3, 6)


class PooledDrn(nn.Module):
    """DRN-D-105, context from a pyramid of pooled maps, dropout of whole channels; stride 8.

    The result is not negative. Raises InputError if the weights cannot be read.
    """

    def __init__(
        self, params: EncoderParams, width: int, *, dropout: float, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.encoder = DrnD105()
        if pretrained and isinstance(params.weights, list):
            load_encoder_weights(self.encoder, params)
        self.pyramid = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *_conv_bn_relu(WIDTH, WIDTH, kernel=1))
            for bins in BINS
        )
        joined = WIDTH * (1 + len(BINS))
        self.fuse = nn.Sequential(*_conv_bn_relu(joined, width), nn.Dropout2d(dropout))

    def grid(self, view: tuple[int, int]) -> tuple[int, int]:
        """Return the (h, w) of a (height, width) view's map: stride 8, rounded up."""
        return (view[0] + 7) // 8, (view[1] + 7) // 8

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        last = self.encoder(images)
        context = [
            F.interpolate(pooled(last), last.shape[-2:], mode="bilinear", align_corners=False)
            for pooled in self.pyramid
        ]
        return self.fuse(torch.cat([last, *context], dim=1))


class DrnD105(nn.Module):
    """Eight levels after the first convolution; levels five to eight are dilated 2, 4, 2, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(*_conv_bn_relu(3, 16, kernel=7))
        self.layer1 = nn.Sequential(*_conv_bn_relu(16, 16))
        self.layer2 = nn.Sequential(*_conv_bn_relu(16, 32, stride=2))
        self.layer3 = _level(32, 64, blocks=3, stride=2)
        self.layer4 = _level(256, 128, blocks=4, stride=2)
        self.layer5 = _level(512, 256, blocks=23, dilation=2)
        self.layer6 = _level(1024, 512, blocks=3, dilation=4)
        self.layer7 = nn.Sequential(*_conv_bn_relu(2048, WIDTH, dilation=2))
        self.layer8 = nn.Sequential(*_conv_bn_relu(WIDTH, WIDTH))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 512 h w"]:
        for level in self.children():
            x = level(x)
        return x


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around an identity or a projection; four times as wide after."""

    def __init__(self, channels: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module = nn.Identity()
        if channels != 4 * width or stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        inner = self.bn1(self.conv1(x)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        return (self.bn3(self.conv3(inner)) + self.downsample(x)).relu()


def _level(
    channels: int, width: int, *, blocks: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    first = Bottleneck(channels, width, stride=stride, dilation=dilation)
    rest = [Bottleneck(4 * width, width, stride=1, dilation=dilation) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _conv_bn_relu(
    channels: int, width: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> Sequence[nn.Module]:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(
        channels, width, kernel, stride, padding=padding, dilation=dilation, bias=False
    )
    return convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)
