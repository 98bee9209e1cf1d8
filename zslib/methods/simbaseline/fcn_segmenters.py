"""Label maps pixel by pixel, from a trained network, from CLIP's windows, or from both (simbaseline §6).

Nothing is cached, for maps of all classes are large: each row looks at every image once. The released
windows slide over both branches; here the trained one sees the whole image, as it was trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.proposals import STRIDE
from zslib.backbones.network import Normalise
from zslib.benchmark import Split
from zslib.datasets.views import read_view
from zslib.methods.simbaseline.extraction import TestImages, pad
from zslib.methods.simbaseline.fcn import PixelEmbedder
from zslib.methods.simbaseline.fusion import fuse, map_logits
from zslib.methods.simbaseline.segmenters import ByClassScores, scored_classes
from zslib.params.simbaseline import WindowParams
from zslib.training import Runtime
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.windows import averaged, embed_windows

By = Literal["pixels", "windows", "both"]
Probabilities = Callable[[int, tuple[int, int]], Float[Tensor, "k H W"]]
"""From an image's position and a size to the classes' probabilities there."""


@dataclass(frozen=True)
class PixelSegmenter(ByClassScores):
    """Every pixel has a distribution over the classes."""

    images: TestImages
    split: Split
    classes: tuple[int, ...]
    probabilities: Probabilities
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Nothing is chosen: the ensemble weight is the published one."""

    @property
    def ids(self) -> Sequence[str]:
        return self.images.ids

    def view(self, position: int) -> tuple[int, int]:
        return self.images.views[position]

    def class_scores(
        self, position: int, size: tuple[int, int], rows: Sequence[int] | None = None
    ) -> Float[Tensor, "k H W"]:
        """Return the probabilities of all classes, or of some of them, at a size."""
        found = self.probabilities(position, size)
        return found if rows is None else found.index_select(0, torch.tensor(rows))


def segmenter(
    by: By,
    pixels: Probabilities,
    windows: Probabilities,
    images: TestImages,
    split: Split,
    weight: float,
) -> PixelSegmenter:
    """Return what lets both branches decide, or one of them."""
    classes = scored_classes(split)
    seen = torch.tensor([c in split.seen for c in classes])
    alone = {"pixels": 2.0, "windows": -1.0}
    decided = fused(pixels, windows, seen, alone.get(by, weight))
    return PixelSegmenter(images, split, classes, decided)


def by_pixels(
    embedder: PixelEmbedder, images: TestImages, text: Float[Tensor, "k d"], runtime: Runtime
) -> Probabilities:
    """Trust the trained branch: embeddings are resized, then compared with text."""
    network, device = embedder.network.to(runtime.device).eval(), runtime.device
    normalise = Normalise(embedder.encoder.mean, embedder.encoder.std).to(device)
    names = text.to(device)

    @torch.inference_mode()
    def probabilities(position: int, size: tuple[int, int]) -> Tensor:
        height, width = images.views[position]
        picture = read_view(images.paths[position], (height, width)).to(device)
        embeddings = network(pad(normalise(picture[None])))
        large = _resized(embeddings, [STRIDE * side for side in embeddings.shape[-2:]])
        found = _resized(large[..., :height, :width], size)
        return map_logits(found, names).softmax(1)[0].cpu()

    return probabilities


def by_windows(
    clip: VisionLanguageModel,
    scales: Sequence[TestImages],
    text: Float[Tensor, "k d"],
    params: WindowParams,
    runtime: Runtime,
) -> Probabilities:
    """Trust CLIP, frozen: what it says of windows, averaged over those that show a pixel, and over scales.

    `scales` are the images at the sizes of `params.scales`.
    """
    clip.clip.to(runtime.device)
    names = text.to(runtime.device)
    tiles = [scale.tile for scale in params.scales]

    @torch.inference_mode()
    def probabilities(position: int, size: tuple[int, int]) -> Tensor:
        found = []
        for images, tile in zip(scales, tiles, strict=True):
            view = images.views[position]
            picture = read_view(images.paths[position], view).to(runtime.device)
            windows = map_logits(embed_windows(clip, picture, tile, params), names).softmax(1)
            found.append(_resized(averaged(windows, view, tile)[None], size)[0])
        return torch.stack(found).mean(0).cpu()

    return probabilities


def fused(
    pixels: Probabilities, windows: Probabilities, seen: Bool[Tensor, " k"], weight: float
) -> Probabilities:
    """Trust the trained branch with seen classes and CLIP with unseen ones (simbaseline §5).

    With a weight below 0 CLIP decides alone, above 1 the trained branch. What is said of the last image
    is kept, for evaluation asks twice.
    """
    if not 0 <= weight <= 1:
        return lru_cache(maxsize=1)(pixels if weight > 1 else windows)

    @lru_cache(maxsize=1)
    def probabilities(position: int, size: tuple[int, int]) -> Tensor:
        trained, named = (branch(position, size).flatten(1).T for branch in (pixels, windows))
        return fuse(trained, named, seen, weight).T.unflatten(1, size)

    return probabilities


def _resized(maps: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
