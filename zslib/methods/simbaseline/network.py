"""MaskFormer of transformers with a class head that is aligned with text (simbaseline §2.1, notes 1-4)."""

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import init
from transformers import MaskFormerForInstanceSegmentation
from transformers.models.maskformer.modeling_maskformer import MaskFormerPixelLevelModule

from zslib.artifacts.schemas import Schema
from zslib.methods.simbaseline.fusion import class_logits
from zslib.methods.simbaseline.pixel_level import (
    PixelLevelNetwork,
    Trained,
    complete_encoder,
    initialise_convolutions,
    maskformer_config,
)
from zslib.params.simbaseline import MaskFormerParams, ProposalEncoder
from zslib.precision import without_autocast

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


class MaskFormer(PixelLevelNetwork):
    """Proposals; `text` are the vectors of the classes that it learns to tell apart."""

    def __init__(
        self, params: MaskFormerParams, encoder: ProposalEncoder, text: Float[Tensor, "k d"]
    ) -> None:
        super().__init__()
        self.body = MaskFormerForInstanceSegmentation(
            maskformer_config(params, encoder, classes=len(text))
        )
        del self.body.criterion  # the losses are in `criterion`
        _initialise(self.body)
        self.body.class_predictor = TextAlignedHead(params.channels, params.class_hidden, text)
        complete_encoder(self, encoder)

    @property
    def pixel_level(self) -> MaskFormerPixelLevelModule:
        return self.body.model.pixel_level_module

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

    def _masks(
        self, states: Float[Tensor, "b q c"], pixels: Float[Tensor, "b e h w"]
    ) -> Float[Tensor, "b q h w"]:
        wanted = self.body.mask_embedder(states)
        with without_autocast(wanted.device):  # these, too, are large
            return torch.einsum("bqc,bchw->bqhw", wanted.float(), pixels.float())


class Proposer(Trained[MaskFormer]):
    """A trained MaskFormer."""

    schema = MASKFORMER

    @staticmethod
    def build(
        params: MaskFormerParams, encoder: ProposalEncoder, tensors: Mapping[str, np.ndarray]
    ) -> MaskFormer:
        dimension = tensors["body.class_predictor.no_object"].shape[0]
        return MaskFormer(params, encoder, torch.empty(0, dimension))


def _initialise(body: MaskFormerForInstanceSegmentation) -> None:
    """Initialise as the original does, which transformers does not (simbaseline O10, note 2)."""
    transformer = body.model.transformer_module
    for layer in transformer.decoder.layers:
        for linear in (layer.mlp.fc1, layer.mlp.fc2):
            linear.reset_parameters()  # for the bias, which transformers sets to 0
    for name, parameter in transformer.decoder.named_parameters():
        if parameter.ndim > 1:
            # The original holds queries, keys and values in one matrix of three times the rows.
            joint = name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
            init.xavier_uniform_(parameter, gain=2**-0.5 if joint else 1.0)
    init.normal_(transformer.queries_embedder.weight)
    pixel_decoder = body.model.pixel_level_module.decoder
    initialise_convolutions(chain([transformer.input_projection], pixel_decoder.modules()))
    for module in body.mask_embedder.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
