"""A trained backbone as an artifact, and as the frozen function from images to pixel features."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zslib.artifacts.schemas import BACKBONE
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.backbones.deeplab import DeepLabV3Plus, Normalise
from zslib.benchmark import Split
from zslib.params import DeepLabParams
from zslib.training import Runtime


@dataclass(frozen=True)
class Backbone:
    """A trained network, the split it was trained for, and how images reach it."""

    network: DeepLabV3Plus
    params: DeepLabParams
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
        params = DeepLabParams.model_validate_json(json.dumps(meta["model"]))
        split = Split.described(meta)
        network = DeepLabV3Plus(params, len(split.classes), pretrained=False)
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
