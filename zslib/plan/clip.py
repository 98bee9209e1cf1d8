"""The CLIP in force: its sizes, and one of these sizes with random weights."""

import torch
from transformers import CLIPConfig, CLIPModel

from zslib.params import Params
from zslib.vision_language.captions import clip_config
from zslib.vision_language.tokenizer import train_tokenizer

DIMENSION, SIDE, PATCH = 512, 224, 16
"""Of the space that images and texts share, of a picture, of a patch: a CLIP that comes trained is taken
for ViT-B/16 (simbaseline §2.1)."""


def shared_dimension(params: Params) -> int:
    """Return the dimension of the space of images and texts."""
    captions = params.vision_language.training
    return captions.dimension if captions else DIMENSION


def picture_side(params: Params) -> int:
    """Return the side, in pixels, of the pictures that it takes."""
    captions = params.vision_language.training
    return captions.image_size if captions else SIDE


def build_clip(params: Params) -> CLIPModel:
    """Return both towers, frozen, with random weights."""
    captions = params.vision_language.training
    if captions:
        config = clip_config(captions, train_tokenizer(["a"], vocabulary=captions.vocabulary))
    else:
        config = CLIPConfig(vision_config={"patch_size": PATCH, "image_size": SIDE})
    return CLIPModel(config).eval().requires_grad_(False)


def bytes_of_clip(params: Params) -> int:
    """Return the bytes of its weights, by shapes alone."""
    with torch.device("meta"):
        return sum(weight.nbytes for weight in build_clip(params).parameters())
