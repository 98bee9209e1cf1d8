"""MaskFormer of transformers with a class head that is aligned with text (simbaseline §2.1, notes 1-4)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import init
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    TimmBackboneConfig,
)

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.backbones.encoder import build_encoder, dilate
from zslib.backbones.trained import Backbone
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.methods.simbaseline.fusion import class_logits
from zslib.params import DeepLabParams, MaskFormerParams, ProposalEncoder

MASKFORMER = Schema("maskformer/1", "network or self_training (simbaseline)")


class Predictions(NamedTuple):
    """What one decoder layer says of a batch of images."""

    masks: Float[Tensor, "b q h w"]
    """Logits at stride 4."""
    classes: Float[Tensor, "b q k+1"]
    """Logits; the last is of no object."""


class TextAlignedHead(nn.Module):
    """Two layers, then 100 times the cosine with text and a learned no-object vector (simbaseline §2.1)."""

    text: Tensor

    def __init__(self, channels: int, hidden: int, text: Float[Tensor, "k d"]) -> None:
        super().__init__()
        dimension = text.shape[1]
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, dimension)
        )
        self.no_object = nn.Parameter(torch.randn(dimension) * dimension**-0.5)
        self.register_buffer("text", text, persistent=False)

    def forward(self, states: Float[Tensor, "*b q c"]) -> Float[Tensor, "*b q classes"]:
        return class_logits(self.layers(states), self.text, self.no_object)


class MaskFormer(nn.Module):
    """Proposals for normalised images whose sides are multiples of 32.

    `text` are the vectors of the classes that it learns to tell apart. Its encoder has whatever
    transformers leaves in it: fill it with `load_encoder`.
    """

    def __init__(
        self, params: MaskFormerParams, encoder: ProposalEncoder, text: Float[Tensor, "k d"]
    ) -> None:
        super().__init__()
        self.body = MaskFormerForInstanceSegmentation(_config(params, encoder, len(text)))
        del self.body.criterion  # the losses are in `criterion`
        _initialise(self.body)
        self.body.class_predictor = TextAlignedHead(params.channels, params.class_hidden, text)
        if encoder.multi_grid is not None:
            base = 32 // encoder.output_stride
            _dilate_last_stage(self.encoder, [base * factor for factor in encoder.multi_grid])

    @property
    def encoder(self) -> nn.Module:
        """The timm network; its batch norm is frozen."""
        return self.body.model.pixel_level_module.encoder._backbone

    @property
    def head(self) -> TextAlignedHead:
        head = self.body.class_predictor
        assert isinstance(head, TextAlignedHead)
        return head

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[Predictions]:
        """Return the predictions of every decoder layer, the last one's last.

        Each is made of the layer's normalised state: the library's own auxiliary loss supervises other
        tensors (simbaseline E1).
        """
        found = self.body.model(images, output_hidden_states=True)
        norm = self.body.model.transformer_module.decoder.layernorm
        states = [norm(state) for state in found.transformer_decoder_hidden_states[1:-1]]
        states.append(found.transformer_decoder_last_hidden_state)
        pixels = found.pixel_decoder_last_hidden_state
        return [Predictions(self._masks(s, pixels), self.head(s)) for s in states]

    def propose(
        self, images: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b q h w"], Float[Tensor, "b q d"]]:
        """Return mask logits at stride 4, and query vectors."""
        found = self.body.model(images)
        state = found.transformer_decoder_last_hidden_state
        pixels = found.pixel_decoder_last_hidden_state
        return self._masks(state, pixels), self.head.layers(state)

    def compare_with(self, text: Float[Tensor, "k d"]) -> None:
        """From now on tell apart the classes of these texts."""
        self.head.text = text

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Fill the encoder: transformers resets batch norm on building, and loads nothing (E2)."""
        counters = {name for name in weights if name.endswith("num_batches_tracked")}
        self.encoder.load_state_dict({n: t for n, t in weights.items() if n not in counters})

    def _masks(
        self, states: Float[Tensor, "b q c"], pixels: Float[Tensor, "b e h w"]
    ) -> Float[Tensor, "b q h w"]:
        return torch.einsum("bqc,bchw->bqhw", self.body.mask_embedder(states), pixels)


@dataclass(frozen=True)
class Proposer:
    """A trained MaskFormer, the split whose seen classes it was trained on, and its sizes."""

    network: MaskFormer
    params: MaskFormerParams
    encoder: ProposalEncoder
    split: Split

    def save(self, path: Path) -> None:
        """Publish the network."""
        tensors = {n: t.detach().cpu().numpy() for n, t in self.network.state_dict().items()}
        meta = {
            **self.split.describe(),
            "network": self.params.model_dump(mode="json"),
            "encoder": self.encoder.model_dump(mode="json"),
        }
        save_tensors(path, tensors, schema=MASKFORMER, meta=meta)

    @classmethod
    def load(cls, path: Path) -> "Proposer":
        """Open and verify a network; it knows no text. Raises ArtifactError."""
        tensors, meta = load_tensors(path, schema=MASKFORMER)
        params = MaskFormerParams.model_validate_json(json.dumps(meta["network"]))
        encoder = ProposalEncoder.model_validate_json(json.dumps(meta["encoder"]))
        dimension = tensors["body.class_predictor.no_object"].shape[0]
        network = MaskFormer(params, encoder, torch.empty(0, dimension))
        network.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
        return cls(network, params, encoder, Split.described(meta))


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


def _config(params: MaskFormerParams, encoder: ProposalEncoder, classes: int) -> MaskFormerConfig:
    timm_encoder = TimmBackboneConfig(
        backbone=encoder.name,
        features_only=True,
        out_indices=[1, 2, 3, 4],
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


def _initialise(body: MaskFormerForInstanceSegmentation) -> None:
    """Initialise as the original does, which transformers does not (simbaseline O10, note 2)."""
    transformer = body.model.transformer_module
    for name, parameter in transformer.decoder.named_parameters():
        if parameter.ndim > 1:
            # The original holds queries, keys and values in one matrix of three times the rows.
            joint = name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
            init.xavier_uniform_(parameter, gain=2**-0.5 if joint else 1.0)
    init.normal_(transformer.queries_embedder.weight)
    projections = [transformer.input_projection, *body.model.pixel_level_module.decoder.modules()]
    for module in projections:
        if isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                init.zeros_(module.bias)
    for module in body.mask_embedder.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def _dilate_last_stage(encoder: nn.Module, dilations: Sequence[int]) -> None:
    blocks = getattr(encoder, "layer4", None)
    if blocks is None or len(blocks) != len(dilations):
        raise InputError(
            f"simbaseline.proposals.encoder.multi_grid: the encoder's last stage does not have "
            f"{len(dilations)} residual blocks; set it to null"
        )
    dilate(blocks, dilations)
