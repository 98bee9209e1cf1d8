"""timm encoders: built at an output stride, dilated, and filled with weights."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.errors import InputError
from zslib.params.backbone import EncoderParams


def build_encoder(params: EncoderParams, *, output_stride: int, pretrained: bool) -> nn.Module:
    """Return a timm encoder that yields its stride-4 map, ceil(H / 4) high, and its last map.

    What fits are timm's convolutional networks that take an `output_stride`: ResNets, RegNets,
    EfficientNets, MobileNets, ConvNeXts. Those that take none do not: ViT, Swin, DenseNet, HGNet.

    Raises:
        InputError: an unknown name, an impossible output stride, or weights that do not fit.
    """
    create = partial(_create, params, output_stride=output_stride, pretrained=pretrained)
    network = create(low=1)  # after the map of stride 2
    strides = [stage["reduction"] for stage in network.feature_info.info]
    if strides[1] != 4 and 4 in strides:
        network = create(low=strides.index(4))
        network.register_forward_pre_hook(_pad_to_patches)
    low, high = network.feature_info.reduction()
    if low != 4 or high != output_stride:
        raise InputError(
            f"backbone.model.encoder.name: '{params.name}' gives maps at strides {low} and {high}, "
            f"not 4 and {output_stride}; choose another encoder or output stride"
        )
    if pretrained and isinstance(params.weights, list):
        load_encoder_weights(network, params)
    return network


def _create(params: EncoderParams, *, low: int, output_stride: int, pretrained: bool) -> nn.Module:
    """Return the network that yields its maps `low` (an index) and the last."""
    try:
        return timm.create_model(
            params.name,
            pretrained=pretrained and params.weights == "hub",
            features_only=True,
            out_indices=(low, -1),
            output_stride=output_stride,
            **params.args,
        )
    except OSError as error:  # what the hub's client raises without a network
        raise InputError(
            f"backbone.model.encoder.weights: '{params.name}' cannot be fetched from timm's hub "
            f"({error}); connect once, or list local safetensors files instead of 'hub'"
        ) from error
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError) as error:
        raise InputError(
            f"backbone.model.encoder: timm cannot build '{params.name}' with output stride "
            f"{output_stride} and {params.args}: {error}"
        ) from error


def _pad_to_patches(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """A stem of 4x4 patches, as ConvNeXt's, would leave out the pixels that fill no patch."""
    (images,) = inputs
    height, width = images.shape[-2:]
    return (F.pad(images, (0, -width % 4, 0, -height % 4)),)


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


def dilate(blocks: Iterable[nn.Module], dilations: Iterable[int]) -> None:
    """Give the 3x3 convolutions of residual blocks these dilations, one per block."""
    for block, dilation in zip(blocks, dilations, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (dilation, dilation)
