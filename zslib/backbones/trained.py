"""A trained backbone as an artifact, and as the frozen function from images to pixel features."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.backbones.deeplab_v2 import DeepLabV2
from zslib.backbones.network import Normalise, SegmentationNetwork
from zslib.benchmark import Split
from zslib.params.backbone import DeepLabV2Params, ModelParams
from zslib.training import Runtime

BACKBONE = Schema("backbone/1", "backbone")


def build_network(
    params: ModelParams, num_classes: int, *, pretrained: bool = True
) -> SegmentationNetwork:
    """Return the network of an architecture, initialised from torch's random state.

    Raises:
        InputError: the encoder cannot be had, or does not suit the architecture.
    """
    if isinstance(params, DeepLabV2Params):
        return DeepLabV2(params, num_classes, pretrained=pretrained)
    return DeepLabV3Plus(params, num_classes, pretrained=pretrained)


@dataclass(frozen=True)
class Backbone:
    """A trained network, the split it was trained for, and how images reach it."""

    network: SegmentationNetwork
    params: ModelParams
    split: Split

    def save(self, path: Path) -> None:
        """Publish the network."""
        tensors = {n: t.detach().cpu().numpy() for n, t in self.network.state_dict().items()}
        meta = {**self.split.describe(), "model": self.params.model_dump(mode="json")}
        save_tensors(path, tensors, schema=BACKBONE, meta=meta)

    @classmethod
    def load(cls, path: Path) -> "Backbone":
        """Open and verify a network. Raises ArtifactError."""
        tensors, meta = load_tensors(path, schema=BACKBONE)
        params: ModelParams = TypeAdapter(ModelParams).validate_json(json.dumps(meta["model"]))
        split = Split.described(meta)
        network = build_network(params, len(split.classes), pretrained=False)
        network.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
        return cls(network, params, split)

    def features_of(self, runtime: Runtime) -> Callable[[Tensor], Tensor]:
        """Return the function from uint8 images to pixel features, by the network in eval mode."""
        network = self.network.to(runtime.device).to(memory_format=torch.channels_last).eval()
        encoder = self.params.encoder
        normalise = Normalise(encoder.mean, encoder.std).to(runtime.device)

        @torch.inference_mode()
        def features_of(images: Tensor) -> Tensor:
            with runtime.autocast():
                return network.features(normalise(images))

        return features_of
