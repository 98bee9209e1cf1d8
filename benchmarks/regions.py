"""Embedding the regions of mask proposals, and sweeping prompts over them (simbaseline §3, §11).

At the sizes of the built-in world, with a model of random weights. The released code makes the crops
of an image one at a time in a loop and embeds them together; and whoever changes a prompt there
passes all regions through the image tower again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from benchmarks.material import world_params
from benchmarks.measure import Result, time_side_by_side
from zslib.params.vision_language import CaptionTraining, RegionParams
from zslib.vision_language.captions import clip_config
from zslib.vision_language.crops import boxes_of
from zslib.vision_language.model import VisionLanguageModel, normalise
from zslib.vision_language.regions import cut_out
from zslib.vision_language.tokenizer import train_tokenizer

OURS, LOOP, ALONE = "all crops at once", "a loop over crops", "a loop over crops, embedded singly"
CACHE, AGAIN = "products over the cache", "regions embedded anew"
CLASSES = 47


@dataclass(frozen=True)
class Scene:
    """An image and its proposals."""

    picture: Tensor
    soft_masks: Tensor


def draw_scene(queries: int, height: int, width: int) -> Scene:
    """Return noise, and one soft disc per query; some are too weak to make a region."""
    centres, radii = torch.rand(queries, 2, 1, 1), 0.1 + 0.3 * torch.rand(queries, 1, 1)
    y, x = torch.linspace(0, 1, height).view(1, -1, 1), torch.linspace(0, 1, width).view(1, 1, -1)
    apart = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2).sqrt()
    strength = torch.where(torch.rand(queries, 1, 1) < 0.1, 0.0, 1.0)
    picture = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return Scene(picture, strength * (20 * (radii - apart)).sigmoid())


def all_at_once(
    model: VisionLanguageModel, scenes: Sequence[Scene], params: RegionParams
) -> Tensor:
    """Return the embeddings of all regions, crops made and embedded together."""
    cut = [cut_out(s.picture, s.soft_masks, model.image_size, params)[0] for s in scenes]
    return torch.cat([model.embed_images(some) for some in torch.cat(cut).split(params.batch_size)])


def one_at_a_time(
    model: VisionLanguageModel, scenes: Sequence[Scene], *, embed_singly: bool
) -> Tensor:
    """Return the same as the released loop makes them, image by image and crop by crop."""
    size, found = (model.image_size, model.image_size), []
    for scene in scenes:
        crops, masks = [], scene.soft_masks > 0.5
        for mask in masks[masks.flatten(1).any(1)]:
            x1, y1, x2, y2 = boxes_of(mask[None])[0][0].tolist()
            colours = normalise(scene.picture[:, y1:y2, x1:x2].float())
            crop = (colours * mask[y1:y2, x1:x2])[None]
            crops.append(F.interpolate(crop, size, mode="bicubic", align_corners=False))
        groups = crops if embed_singly else [torch.cat(crops)]
        found += [model.embed_images(group) for group in groups]
    return torch.cat(found)


def refuse_disagreement(first: Tensor, second: Tensor) -> None:
    """Raise AssertionError unless both are the same embeddings."""
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def measure(
    *,
    training: CaptionTraining | None = None,
    images: int = 16,
    queries: int = 20,
    side: int = 96,
    prompts: int = 14,
    repeats: int = 5,
) -> list[Result]:
    """Time both ways to embed the regions of some images, and both ways to try some prompts."""
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        published = world_params(Path(name)).vision_language
    training = training or published.training
    assert training is not None
    params = RegionParams(batch_size=published.regions.batch_size)  # the rest as released
    tokenizer = train_tokenizer(["a drawn word"], vocabulary=training.vocabulary)
    model = VisionLanguageModel(CLIPModel(clip_config(training, tokenizer)), tokenizer)
    scenes = [draw_scene(queries, side, side * 4 // 3) for _ in range(images)]
    cache = all_at_once(model, scenes, params)
    refuse_disagreement(cache, one_at_a_time(model, scenes, embed_singly=False))
    sizes: dict[str, int | str] = {"images": images, "queries": queries, "side": side}
    sizes |= {"regions": len(cache), "repeats": repeats}
    encoding = {
        OURS: lambda given: all_at_once(model, given, params),
        LOOP: lambda given: one_at_a_time(model, given, embed_singly=False),
        ALONE: lambda given: one_at_a_time(model, given, embed_singly=True),
    }
    texts = F.normalize(torch.randn(prompts, CLASSES, model.dimension), dim=-1)

    def name_again(given: Sequence[Scene]) -> list[Tensor]:
        return [_probabilities(all_at_once(model, given, params), text) for text in texts]

    sweeping = {
        CACHE: lambda _: [_probabilities(cache, text) for text in texts],
        AGAIN: name_again,
    }
    return [
        Result(
            "regions: embedding",
            sizes,
            time_side_by_side(encoding, lambda: scenes, repeats=repeats),
            reference=OURS,
            amount=len(cache),
            unit="regions",
        ),
        Result(
            "regions: trying prompts",
            sizes | {"prompts": prompts, "classes": CLASSES},
            time_side_by_side(sweeping, lambda: scenes, repeats=repeats),
            reference=CACHE,
            amount=prompts,
            unit="prompts",
        ),
    ]


def _probabilities(embeddings: Tensor, text: Tensor) -> Tensor:
    return (100 * embeddings @ text.T).softmax(-1)
