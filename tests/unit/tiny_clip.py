"""A CLIP of a few thousand random weights, with a tokenizer of its own."""

import torch
from transformers import CLIPModel

from zslib.params.training import OptimiserParams
from zslib.params.vision_language import CaptionTraining
from zslib.vision_language.captions import clip_config
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.tokenizer import train_tokenizer

TEXTS = (
    "a zebra with black stripes on the grass",
    "a red bus and a polar bear appear on the road",
    "a polar bear stands by the water under the sky",
)

TRAINING = CaptionTraining(
    image_size=32,
    patch_size=8,
    width=16,
    vision_layers=1,
    text_layers=1,
    heads=2,
    dimension=8,
    vocabulary=700,
    crop_area=(0.5, 1.0),
    patch_dropout=0.5,
    optimiser=OptimiserParams(name="adamw", lr=0.003, power=1.0),
    steps=60,
    batch_size=8,
)


def tiny_clip() -> VisionLanguageModel:
    """Return the same one each time."""
    tokenizer = train_tokenizer(TEXTS, vocabulary=TRAINING.vocabulary)
    torch.manual_seed(0)
    return VisionLanguageModel(CLIPModel(clip_config(TRAINING, tokenizer)), tokenizer)
