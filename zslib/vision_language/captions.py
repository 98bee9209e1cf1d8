"""A small CLIP trained from nothing on pictures and their captions, and on nothing else.

The objective is CLIP's: pictures and texts of a batch are told apart by their cosines, in both
directions. Two things make it learn from thousands of pictures instead of millions: a caption counts
once whole and once in pieces ("a zebra with black stripes", "on the grass"), a text that several
pictures share being right for all of them; and the vision tower sees a part of its patches only.

Captions name what is in a picture, unseen classes like any other, and not where: as with CLIP of
the web, the names of unseen classes are known to this model, their pixels' labels are not.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from zslib.datasets.decode import ImageFile, read_image
from zslib.datasets.views import BatchOrder
from zslib.errors import InputError
from zslib.params.vision_language import CaptionTraining
from zslib.training import (
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    build_optimiser,
    train,
)
from zslib.vision_language.model import VisionLanguageModel, normalise
from zslib.vision_language.tokenizer import train_tokenizer

MAX_SCALE = 100.0
"""Of cosines; CLIP's temperature is learned, and bounded by this."""

_PIECES = re.compile(r" and | (?=(?:on|in|by|under) )")


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures, texts, and which of them belong together."""

    pictures: Float[Tensor, "b 3 s s"]
    texts: Sequence[str]
    belong: Bool[Tensor, "b t"]


def fit(
    images: Sequence[ImageFile],
    captions: Sequence[Sequence[str]],
    params: CaptionTraining,
    *,
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> VisionLanguageModel:
    """Train a CLIP on images, each of which has one or more captions.

    Raises:
        InputError: there are fewer images than a batch.
    """
    batches = CaptionBatches(images, captions, params, seed=seed)
    texts = [text for several in captions for text in several]
    tokenizer = train_tokenizer(texts, vocabulary=params.vocabulary)
    torch.manual_seed(seed)
    clip = CLIPModel(clip_config(params, tokenizer)).to(runtime.device)
    optimiser = build_optimiser(params.optimiser, _groups(clip))
    prepared, stepping = runtime.prepare(clip, optimiser)
    hook = clip.vision_model.embeddings.register_forward_hook(_dropping(params.patch_dropout))

    def step(batch: CaptionBatch) -> Losses:
        prepared.train()
        tokens = tokenizer(list(batch.texts), padding=True, truncation=True, return_tensors="pt")
        with runtime.autocast():
            output = prepared(
                pixel_values=batch.pictures.to(runtime.device), **tokens.to(runtime.device)
            )
        logits = scaled_cosines(output.image_embeds, output.text_embeds, clip.logit_scale)
        loss = contrastive(logits, batch.belong.to(runtime.device))
        stepping.zero_grad(set_to_none=True)
        runtime.backward(loss)
        runtime.clip(clip, stepping, 1.0)
        stepping.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=float(np.log(MAX_SCALE)))
        return {"loss": loss.detach()}

    train(
        TrainState({"clip": clip}, {"clip": optimiser}),
        step,
        batches.from_step,
        steps=params.steps,
        seed=seed,
        name="vision-language model",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    hook.remove()
    meta = {"trained_on": "captions, which name unseen classes too", "images": len(images)}
    return VisionLanguageModel(clip.cpu(), tokenizer, meta)


def read_captions(path: Path) -> dict[str, list[str]]:
    """Return image id -> captions, of lines {"id": ..., "captions": [...]}.

    Raises:
        InputError: the file is missing, or a line is something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {line["id"]: line["captions"] for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is no file of captions ({error}); give one JSON object with 'id' and "
            "'captions' per line, or name a CLIP under vision_language.name"
        ) from error


def clip_config(params: CaptionTraining, tokenizer: CLIPTokenizer) -> CLIPConfig:
    """Return the towers' sizes. Where a text ends is told: by default transformers would look for
    another id, find none, and read all texts out at the same place (simbaseline, note 7)."""
    tower = {
        "hidden_size": params.width,
        "intermediate_size": 2 * params.width,
        "num_attention_heads": params.heads,
        "projection_dim": params.dimension,
    }
    text = {
        "num_hidden_layers": params.text_layers,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "num_hidden_layers": params.vision_layers,
        "image_size": params.image_size,
        "patch_size": params.patch_size,
    }
    return CLIPConfig(
        text_config=tower | text, vision_config=tower | vision, projection_dim=params.dimension
    )


def scaled_cosines(
    pictures: Float[Tensor, "b d"], texts: Float[Tensor, "t d"], log_scale: Float[Tensor, ""]
) -> Float[Tensor, "b t"]:
    """Return CLIP's logits of unit vectors: under autocast, the model's own have steps of a half."""
    return (texts.float() @ pictures.float().T * log_scale.exp()).T


def contrastive(logits: Float[Tensor, "b t"], belong: Bool[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Return CLIP's loss where a picture may have several texts and a text several pictures.

    That is the mean over both directions of the cross-entropy with equal shares for all that belong.
    """
    wanted = belong.float()
    per_image = -(logits.log_softmax(1) * wanted).sum(1) / wanted.sum(1)
    per_text = -(logits.log_softmax(0) * wanted).sum(0) / wanted.sum(0)
    return (per_image.mean() + per_text.mean()) / 2


def pieces(caption: str) -> list[str]:
    """Return a caption, whole and in pieces: at "and", and before each place."""
    return list(dict.fromkeys([caption, *_PIECES.split(caption)]))


class CaptionBatches:
    """Batches by step: random crops of pictures, and one caption of each, drawn anew every epoch.

    Raises:
        InputError: a batch is more than there are images.
    """

    def __init__(
        self,
        images: Sequence[ImageFile],
        captions: Sequence[Sequence[str]],
        params: CaptionTraining,
        *,
        seed: int,
    ) -> None:
        self._order = BatchOrder(
            len(images),
            params.batch_size,
            section="vision_language.training",
            of="images with captions",
            seed=seed,
        )
        side = 3 * params.image_size // 2  # a view shows a part, mostly, and is to be sharp
        self._pictures = torch.stack([_square(file, side) for file in images])
        self._captions, self._params, self._seed = captions, params, seed

    def from_step(self, start: int) -> Iterator[CaptionBatch]:
        """Yield the batches from a step on."""
        for step, keys in enumerate(self._order.batches(start, self._params.steps), start):
            rng = np.random.default_rng([self._seed, step])
            chosen = [position for _, position in keys]
            pictures = normalise(self._pictures[torch.tensor(chosen)].float())
            found = [pieces(str(rng.choice(self._captions[position]))) for position in chosen]
            texts = list(dict.fromkeys(text for some in found for text in some))
            belong = [[text in some for text in texts] for some in map(set, found)]
            size = self._params.image_size
            views = random_crops(pictures, size, self._params.crop_area, rng)
            yield CaptionBatch(views, texts, torch.tensor(belong))


def random_crops(
    images: Float[Tensor, "b 3 h w"],
    size: int,
    area: tuple[float, float],
    rng: np.random.Generator,
) -> Float[Tensor, "b 3 s s"]:
    """Return a part of each image, half of them mirrored; `area` is the part's share, from and to."""
    count = len(images)
    share, aspect = rng.uniform(*area, count), np.exp(rng.uniform(-0.3, 0.3, count))
    width, height = (np.minimum(1, np.sqrt(part)) for part in (share * aspect, share / aspect))
    flip = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    affine = np.zeros((count, 2, 3), np.float32)
    affine[:, 0, 0], affine[:, 1, 1] = width * flip, height
    affine[:, 0, 2] = rng.uniform(-1, 1, count) * (1 - width)
    affine[:, 1, 2] = rng.uniform(-1, 1, count) * (1 - height)
    grid = F.affine_grid(torch.from_numpy(affine), [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")


def _square(file: ImageFile, side: int) -> UInt8[Tensor, "3 s s"]:
    picture = read_image(file).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _dropping(share: float) -> Callable[[nn.Module, object, Tensor], Tensor]:
    """Return a hook that keeps the class token and a random part of the patches, in training."""

    def keep_some(module: nn.Module, _: object, tokens: Tensor) -> Tensor:
        count, patches = len(tokens), tokens.shape[1] - 1
        if not module.training or share == 0:
            return tokens
        kept: Int64[Tensor, "b k"] = torch.rand(count, patches).argsort(1) + 1
        kept = kept[:, : max(1, round(patches * (1 - share)))]
        kept = F.pad(kept, (1, 0)).to(tokens.device)
        return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))

    return keep_some


def _groups(clip: CLIPModel) -> list[dict[str, object]]:
    """Return weights, and what does not decay: biases, norms, and the temperature."""
    decaying = [p for p in clip.parameters() if p.ndim > 1]
    resting = [p for p in clip.parameters() if p.ndim <= 1]
    return [{"params": decaying}, {"params": resting, "weight_decay": 0.0}]
