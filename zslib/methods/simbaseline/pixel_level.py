"""What both networks of this method stand on: an encoder, and MaskFormer's pixel decoder (simbaseline §2.1).

Building, filling, and keeping are the same for the network that proposes masks and for the per-pixel
one, whose decoder is a plain 1x1 convolution (simbaseline §6).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn import init
from transformers import DetrConfig, MaskFormerConfig, TimmBackboneConfig
from transformers.models.maskformer.modeling_maskformer import MaskFormerPixelLevelModule

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.backbones.encoder import build_encoder, dilate
from zslib.backbones.trained import Backbone
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.params.backbone import DeepLabParams
from zslib.params.simbaseline import MaskFormerParams, ProposalEncoder

STAGES = (-4, -3, -2, -1)
"""Of the encoder: what it gives at a quarter of the image's resolution, and the three after it.

Counted from the end: most encoders have a map before these, and ConvNeXt has none."""


class PixelLevelNetwork(nn.Module):
    """A network on transformers' pixel-level module, for normalised images of sides that 32 divides.

    Its encoder has whatever transformers leaves in it: fill it with `load_encoder`.
    """

    @property
    def pixel_level(self) -> MaskFormerPixelLevelModule:
        raise NotImplementedError

    @property
    def encoder(self) -> nn.Module:
        """The timm network; its batch norm is frozen."""
        return self.pixel_level.encoder._backbone

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Fill the encoder: transformers resets batch norm on building, and loads nothing (E2)."""
        counters = {name for name in weights if name.endswith("num_batches_tracked")}
        self.encoder.load_state_dict({n: t for n, t in weights.items() if n not in counters})


Network = TypeVar("Network", bound=PixelLevelNetwork)
Kind = TypeVar("Kind", bound="Trained")


@dataclass(frozen=True)
class Trained(Generic[Network]):
    """A trained network, the split whose seen classes it was trained on, and its sizes."""

    schema: ClassVar[Schema]

    network: Network
    params: MaskFormerParams
    encoder: ProposalEncoder
    split: Split

    @staticmethod
    def build(
        params: MaskFormerParams, encoder: ProposalEncoder, tensors: Mapping[str, np.ndarray]
    ) -> Network:
        """Return a network that these tensors fit into."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Publish the network."""
        tensors = {n: t.detach().cpu().numpy() for n, t in self.network.state_dict().items()}
        meta = {
            **self.split.describe(),
            "network": self.params.model_dump(mode="json"),
            "encoder": self.encoder.model_dump(mode="json"),
        }
        save_tensors(path, tensors, schema=self.schema, meta=meta)

    @classmethod
    def load(cls: type[Kind], path: Path) -> Kind:
        """Open and verify a network; it knows no text. Raises ArtifactError."""
        tensors, meta = load_tensors(path, schema=cls.schema)
        params = MaskFormerParams.model_validate_json(json.dumps(meta["network"]))
        encoder = ProposalEncoder.model_validate_json(json.dumps(meta["encoder"]))
        network = cls.build(params, encoder, tensors)
        network.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
        return cls(network, params, encoder, Split.described(meta))


def maskformer_config(
    params: MaskFormerParams, encoder: ProposalEncoder, *, classes: int = 0
) -> MaskFormerConfig:
    """Return what transformers calls a network of these sizes."""
    timm_encoder = TimmBackboneConfig(
        backbone=encoder.name,
        features_only=True,
        out_indices=list(STAGES),
        output_stride=encoder.output_stride,
        freeze_batch_norm_2d=True,
    )
    decoder = DetrConfig(
        d_model=params.channels,
        num_queries=params.queries,
        decoder_layers=params.layers,
        decoder_attention_heads=params.heads,
        decoder_ffn_dim=params.feedforward,
        dropout=params.dropout,
        attention_dropout=params.dropout,
        activation_dropout=params.dropout,
    )
    return MaskFormerConfig(
        backbone_config=timm_encoder,
        decoder_config=decoder,
        fpn_feature_size=params.channels,
        mask_feature_size=params.channels,
        num_labels=classes,
    )


def initialise_convolutions(modules: Iterable[nn.Module]) -> None:
    """Initialise the decoder's convolutions as the original does, which transformers does not (O10)."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                init.zeros_(module.bias)


def complete_encoder(network: PixelLevelNetwork, encoder: ProposalEncoder) -> None:
    """Give the encoder what transformers does not hand on to timm: arguments, and a multi-grid.

    Raises:
        InputError: arguments that change its widths, or a last stage that has no such multi-grid.
    """
    if encoder.args:
        _build_with_arguments(network, encoder)
    if encoder.multi_grid is not None:
        _dilate_last_stage(network, encoder)


def _build_with_arguments(network: PixelLevelNetwork, encoder: ProposalEncoder) -> None:
    wrapper = network.pixel_level.encoder
    built = timm.create_model(
        encoder.name,
        features_only=True,
        out_indices=STAGES,
        output_stride=encoder.output_stride,
        **encoder.args,
    )
    widths = [built.feature_info.channels(), wrapper._backbone.feature_info.channels()]
    if widths[0] != widths[1]:
        raise InputError(
            f"simbaseline.proposals.encoder.args: they change the widths of '{encoder.name}' from "
            f"{widths[1]} to {widths[0]}, for which no pixel decoder can be built; leave those out"
        )
    wrapper._backbone = freeze_batch_norm_2d(built)


def _dilate_last_stage(network: PixelLevelNetwork, encoder: ProposalEncoder) -> None:
    assert encoder.multi_grid is not None
    blocks = getattr(network.encoder, "layer4", None)
    if blocks is None or len(blocks) != len(encoder.multi_grid):
        raise InputError(
            f"simbaseline.proposals.encoder.multi_grid: the encoder's last stage does not have "
            f"{len(encoder.multi_grid)} residual blocks; set it to null"
        )
    dilate(blocks, [32 // encoder.output_stride * factor for factor in encoder.multi_grid])


def starting_encoder(
    params: ProposalEncoder | None, backbone: Backbone, split: Split
) -> tuple[ProposalEncoder, Mapping[str, Tensor]]:
    """Return the encoder to build, and its weights: never any that saw an unseen label.

    Raises:
        InputError: weights of a segmentation network, or a backbone of another split.
    """
    if params is not None:
        _refuse_segmentation_weights(params)
        built = build_encoder(params, output_stride=params.output_stride, pretrained=True)
        return params, built.state_dict()
    if backbone.split != split:
        raise InputError(
            f"backbone: was trained for split '{backbone.split.name}', not for '{split.name}', and "
            "may have seen its unseen classes; give the split's own"
        )
    model = backbone.params
    own = ProposalEncoder(
        **model.encoder.model_dump(),
        output_stride=model.output_stride if isinstance(model, DeepLabParams) else 8,
        multi_grid=model.multi_grid if isinstance(model, DeepLabParams) else None,
    )
    return own, backbone.network.encoder.state_dict()


_SEGMENTS = ("class_predictor", "transformer_module", "pixel_decoder", "sem_seg_head", "aspp")


def _refuse_segmentation_weights(params: ProposalEncoder) -> None:
    for path in params.weights if isinstance(params.weights, list) else []:
        try:
            with safe_open(path, framework="numpy") as file:
                names = list(file.keys())
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: encoder weights cannot be read: {error}") from error
        if found := [name for name in names if any(part in name for part in _SEGMENTS)]:
            raise InputError(
                f"{path}: holds '{found[0]}', so it was trained to segment and may have seen unseen "
                "classes; give an image encoder's weights, or null for the seen-only backbone's"
            )
