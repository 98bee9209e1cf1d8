"""Keys of a self-supervised ViT's last attention: the nodes of Deep Spectral's graphs (sazs §4.1)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from zslib.backbones.network import Normalise
from zslib.errors import InputError
from zslib.params.backbone import EncoderParams

_KEY = "eigenvectors.encoder"


class KeyExtractor:
    """Gives an image's keys, all heads side by side, a row of cells per row of patches.

    Images keep their size; what is beyond the last whole patch on the right and below is cut off.
    """

    def __init__(self, params: EncoderParams, device: torch.device) -> None:
        self._network = _build(params).to(device).eval()
        self._normalise = Normalise(params.mean, params.std).to(device)
        self._device = device
        self._projected: list[Tensor] = []
        self._network.blocks[-1].attn.qkv.register_forward_hook(
            lambda module, inputs, output: self._projected.append(output)
        )
        self.patch: int = self._network.patch_embed.patch_size[0]

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of a (width, height)."""
        return size[1] // self.patch, size[0] // self.patch

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Float32[Tensor, "h w d"]:
        """Return the keys of one RGB image, on the extractor's device."""
        height, width = self.grid(image.size)
        cropped = image.crop((0, 0, width * self.patch, height * self.patch))
        pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1)[None]
        self._network.forward_features(self._normalise(pixels.to(self._device)))
        tokens = self._projected.pop()[0, self._network.num_prefix_tokens :]
        return tokens.chunk(3, dim=-1)[1].reshape(height, width, -1)


def _build(params: EncoderParams) -> Any:
    """Return a timm ViT for images of any size.

    Raises:
        InputError: timm cannot build it or fetch its weights, or it has no keys of this kind.
    """
    import timm  # takes seconds, and those who have cached maps need none of it

    from zslib.backbones.encoder import load_encoder_weights

    try:
        network: Any = timm.create_model(
            params.name,
            pretrained=params.weights == "hub",
            num_classes=0,
            dynamic_img_size=True,
            **params.args,
        )
    except OSError as error:  # what the hub's client raises without a network
        raise InputError(
            f"{_KEY}.weights: '{params.name}' cannot be fetched from timm's hub ({error}); "
            "connect once, or list local safetensors files instead of 'hub'"
        ) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{_KEY}: timm cannot build '{params.name}' for images of any size with {params.args}: "
            f"{error}; choose a ViT"
        ) from error
    if not hasattr(network.blocks[-1].attn, "qkv"):
        raise InputError(f"{_KEY}.name: '{params.name}' has no joint qkv projection; choose a ViT")
    if isinstance(params.weights, list):
        load_encoder_weights(network, params)
    return network
