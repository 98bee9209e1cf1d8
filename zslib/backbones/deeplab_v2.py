"""DeepLabV2 on a ResNet of timm (cagnet §2).

Output stride 8, and a head without any normalisation. With timm's resnet101 this is the network of
CaGNet and SPNet, but for one thing: timm strides in a stage's first 3x3, as its weights ask for,
where the Caffe weights of the papers stride in the first 1x1.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from zslib.backbones.encoder import build_encoder, dilate
from zslib.backbones.network import SegmentationNetwork
from zslib.errors import InputError
from zslib.params.backbone import DeepLabV2Params


class DeepLabV2(SegmentationNetwork):
    """A ResNet, the sum of four dilated convolutions, and a 1x1 classifier with bias.

    Raises:
        InputError: the encoder cannot be had, or is no ResNet.
    """

    def __init__(
        self, params: DeepLabV2Params, num_classes: int, *, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(params.encoder, output_stride=8, pretrained=pretrained)
        _follow_caffe(self.encoder, params.encoder.name)
        _, channels = self.encoder.feature_info.channels()
        self.head = SumOfConvolutions(channels, params.feature_channels, params.rates)
        self.classifier = nn.Conv2d(params.feature_channels, num_classes, 1)

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """Return the raw head output: unbounded, stride 8, h = 1 + floor((H + 1) / 8)."""
        _, last = self.encoder(images)
        return self.head(last)


class SumOfConvolutions(nn.Module):
    """3x3 convolutions with bias, one per dilation rate, added up; He-normal (cagnet O1)."""

    def __init__(self, channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=rate, dilation=rate) for rate in rates
        )
        for name, parameter in self.named_parameters():
            initialise = nn.init.zeros_ if name.endswith("bias") else nn.init.kaiming_normal_
            initialise(parameter)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        total, *others = (branch(x) for branch in self.branches)
        for other in others:
            total = total + other
        return total


def _follow_caffe(encoder: nn.Module, name: str) -> None:
    """Dilate all blocks of the last two stages by 2 and 4, and let the pool round up.

    timm leaves the first block of a stage at the previous stage's dilation.
    """
    pool = getattr(encoder, "maxpool", None)
    if not isinstance(pool, nn.MaxPool2d) or not hasattr(encoder, "layer4"):
        raise InputError(
            f"backbone.model.encoder.name: '{name}' is no ResNet with a max-pool, which deeplab_v2 "
            "needs; choose one, or another architecture"
        )
    pool.ceil_mode = True
    for stage, dilation in (("layer3", 2), ("layer4", 4)):
        blocks = list(encoder.get_submodule(stage).children())
        dilate(blocks, [dilation] * len(blocks))
