"""What embeds pixels beside class vectors, and its edge head (sazs §2)."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor, nn

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.backbones.drn import PooledDrn
from zslib.backbones.network import Normalise, SegmentationNetwork
from zslib.backbones.trained import Backbone, build_network
from zslib.backbones.vit import ReadoutViT
from zslib.benchmark import Split
from zslib.grids import feature_grid
from zslib.methods.sazs.objectives import Form, comparable, directions
from zslib.params.backbone import EncoderParams, ModelParams
from zslib.params.sazs import SazsModel
from zslib.precision import without_autocast
from zslib.training import Runtime

NETWORK = Schema("sazs/1", "train of sazs")


class Projected(nn.Module):
    """A segmentation network's pixel features, projected; its classifier is left behind."""

    def __init__(self, network: SegmentationNetwork, params: ModelParams, width: int) -> None:
        super().__init__()
        self.network, self._stride = network, params.feature_stride
        self.network.classifier = nn.Identity()  # type: ignore[assignment]
        self.project = nn.Conv2d(params.feature_channels, width, 1)

    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder

    def grid(self, view: tuple[int, int]) -> tuple[int, int]:
        """Return the (h, w) of a (height, width) view's map."""
        return feature_grid(view, self._stride)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        return self.project(self.network.features(images))


class ShapeAware(nn.Module):
    """Embeds pixels in the space of the class vectors; one 1x1 convolution tells edges (sazs §2.2)."""

    classes: Float[Tensor, "c d"]

    def __init__(
        self,
        embed: nn.Module,
        classes: Float[Tensor, "c d"],
        others: Float[Tensor, " d"],
        form: Form,
    ) -> None:
        super().__init__()
        self.embed, self.form = embed, form
        self.edge = nn.Conv2d(classes.shape[1], 1, 1)
        self.register_buffer("classes", classes.clone())
        self.others = nn.Parameter(others.clone())

    def forward(
        self, images: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b h w"]]:
        """Return the margin of every class, and the edge logits."""
        embeddings = self.embed(images)
        return self.margins(embeddings), self.edge(embeddings)[:, 0]

    def margins(self, embeddings: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c h w"]:
        """Return the margin of every class, as float32 even under autocast.

        Margins tell classes apart by less than the step of a bfloat16 of their size.
        """
        with without_autocast(embeddings.device):
            wanted = directions(self.classes, self.others, self.form)
            given = comparable(embeddings.float(), self.form)
            return torch.einsum("bdhw,cd->bchw", given, wanted)


@dataclass(frozen=True)
class Trained:
    """A network with its vectors, the split it was trained for, and how images reach it."""

    network: ShapeAware
    model: SazsModel
    backbone: ModelParams | None
    """Of the seen-only backbone that it began as, if it did."""
    split: Split

    @classmethod
    def begin(
        cls,
        model: SazsModel,
        start: Backbone,
        split: Split,
        vectors: tuple[Float[Tensor, "c d"], Float[Tensor, " d"]],
        form: Form,
    ) -> "Trained":
        """Return a network before training; a seen-only one is a copy of `start`.

        `vectors` are those of the classes, and that of "others".

        Raises:
            InputError: the weights of a published network cannot be had.
        """
        own = model.architecture == "seen_only"
        network = copy.deepcopy(start.network) if own else None
        backbone, width = start.params if own else None, vectors[0].shape[1]
        embed = _embedder(model, backbone, network, width, pretrained=True)
        return cls(ShapeAware(embed, *vectors, form), model, backbone, split)

    @property
    def picture(self) -> EncoderParams:
        """What says how images are normalised."""
        encoder = self.backbone.encoder if self.backbone is not None else self.model.encoder
        assert encoder is not None, "params refuse a published network without an encoder"
        return encoder

    @property
    def corners(self) -> bool:
        """Whether the corner cells of its maps lie on the corner pixels."""
        return self.backbone is not None

    def grid(self, view: tuple[int, int]) -> tuple[int, int]:
        """Return the (h, w) of a (height, width) view's map."""
        return self.network.embed.grid(view)

    def margins_of(self, runtime: Runtime) -> Callable[[Tensor], Tensor]:
        """Return the function from uint8 images (b, 3, H, W) to margins (b, c, h, w)."""
        network = self.network.to(runtime.device).to(memory_format=torch.channels_last).eval()
        normalise = Normalise(self.picture.mean, self.picture.std).to(runtime.device)

        @torch.inference_mode()
        def margins_of(images: Tensor) -> Tensor:
            with runtime.autocast():
                return network(normalise(images))[0]

        return margins_of

    def save(self, path: Path) -> None:
        """Publish the network."""
        tensors = {n: t.detach().cpu().numpy() for n, t in self.network.state_dict().items()}
        meta = {
            **self.split.describe(),
            "model": self.model.model_dump(mode="json"),
            "backbone": self.backbone and self.backbone.model_dump(mode="json"),
            "form": self.network.form,
        }
        save_tensors(path, tensors, schema=NETWORK, meta=meta)

    @classmethod
    def load(cls, path: Path) -> "Trained":
        """Open and verify a network. Raises ArtifactError."""
        tensors, meta = load_tensors(path, schema=NETWORK)
        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        model = SazsModel.model_validate_json(json.dumps(meta["model"]))
        backbone: ModelParams | None = TypeAdapter(ModelParams | None).validate_json(
            json.dumps(meta["backbone"])
        )
        network = None if backbone is None else build_network(backbone, 1, pretrained=False)
        classes, others = state["classes"], state["others"]
        embed = _embedder(model, backbone, network, classes.shape[1], pretrained=False)
        whole = ShapeAware(embed, classes, others, meta["form"])
        whole.load_state_dict(state)
        return cls(whole, model, backbone, Split.described(meta))


def _embedder(
    model: SazsModel,
    backbone: ModelParams | None,
    network: SegmentationNetwork | None,
    width: int,
    *,
    pretrained: bool,
) -> nn.Module:
    if backbone is not None and network is not None:
        return Projected(network, backbone, width)
    assert model.encoder is not None, "params refuse a published network without an encoder"
    if model.architecture == "drn":
        return PooledDrn(model.encoder, width, dropout=model.dropout, pretrained=pretrained)
    return ReadoutViT(model.encoder, width, pretrained=pretrained)
