"""The per-pixel network: embeddings of pixels, compared with the names of seen classes (simbaseline §6).

Encoder and pixel decoder are the proposal network's; there is no transformer, and no mask.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.maskformer.modeling_maskformer import MaskFormerPixelLevelModule

from zslib.artifacts.proposals import STRIDE
from zslib.artifacts.schemas import Schema
from zslib.backbones.trained import Backbone
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.fine_tuning import LabelledImages, Run
from zslib.methods.simbaseline.fusion import map_logits
from zslib.methods.simbaseline.learning import learn_from_labels
from zslib.methods.simbaseline.pixel_level import (
    PixelLevelNetwork,
    Trained,
    complete_encoder,
    initialise_convolutions,
    maskformer_config,
    starting_encoder,
)
from zslib.params.simbaseline import MaskFormerParams, PixelTraining, ProposalEncoder
from zslib.training import Losses, mean_over_processes


class FCN(PixelLevelNetwork):
    """Embeddings of `dimension` numbers for every cell of four by four pixels."""

    def __init__(self, params: MaskFormerParams, encoder: ProposalEncoder, dimension: int) -> None:
        super().__init__()
        self.body = MaskFormerPixelLevelModule(maskformer_config(params, encoder))
        self.projection = nn.Conv2d(params.channels, dimension, 1)
        initialise_convolutions([*self.body.decoder.modules(), self.projection])
        complete_encoder(self, encoder)

    @property
    def pixel_level(self) -> MaskFormerPixelLevelModule:
        return self.body

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        return self.projection(self.body(images).decoder_last_hidden_state)


class PixelEmbedder(Trained[FCN]):
    """A trained FCN."""

    schema = Schema("fcn/1", "fcn (simbaseline)")

    @staticmethod
    def build(
        params: MaskFormerParams, encoder: ProposalEncoder, tensors: Mapping[str, np.ndarray]
    ) -> FCN:
        return FCN(params, encoder, tensors["projection.weight"].shape[0])


def untrained(
    backbone: Backbone,
    split: Split,
    dimension: int,
    params: MaskFormerParams,
    encoder: ProposalEncoder | None,
    *,
    seed: int,
) -> PixelEmbedder:
    """Return an embedder that has seen no label map; `dimension` is that of the text.

    Raises:
        InputError: its encoder cannot be had, or may have seen an unseen label.
    """
    own, weights = starting_encoder(encoder, backbone, split)
    torch.manual_seed(seed)
    network = FCN(params, own, dimension)
    network.load_encoder(weights)
    return PixelEmbedder(network, params, own, split)


def fit(
    embedder: PixelEmbedder,
    images: LabelledImages,
    text: Float[Tensor, "k d"],
    params: PixelTraining,
    run: Run,
) -> None:
    """Train the embedder itself; `text` are the vectors of its split's seen classes.

    Raises:
        InputError: fewer images than a batch, or a loss that is not finite.
    """
    names = text.to(run.runtime.device)
    positions = _positions(embedder.split.seen).to(run.runtime.device)

    def losses_of(embeddings: Tensor, labels: Tensor) -> Losses:
        total, count = cross_entropy(embeddings.float(), positions[labels.long()], names)
        return {"loss": mean_over_processes(run.runtime, total, count)}

    learn_from_labels(
        embedder,
        images.paths,
        images,
        losses_of,
        params,
        section="simbaseline.fcn.training",
        run=run,
    )


def cross_entropy(
    embeddings: Float[Tensor, "b d h w"],
    labels: UInt8[Tensor, "b H W"],
    text: Float[Tensor, "k d"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the sum of the loss over pixels that are not void, and how many these are.

    Logits, 100 times the cosine, are made on the grid and resized to the four times larger labels,
    which are positions in `text`.
    """
    logits = F.interpolate(
        map_logits(embeddings, text), scale_factor=STRIDE, mode="bilinear", align_corners=False
    )
    total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total, (labels != IGNORE_INDEX).sum().float()


def _positions(classes: Sequence[int]) -> UInt8[Tensor, "256"]:
    """Return, by class id, where in `classes` it stands; the rest is void."""
    table = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
    table[list(classes)] = torch.arange(len(classes), dtype=torch.uint8)
    return table
