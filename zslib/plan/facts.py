"""What rules reckon with: a benchmark, its images, the pace of this machine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zslib.benchmark import ALL_SEEN
from zslib.methods.sazs.margins import view_of
from zslib.params import Params
from zslib.plan import sizes
from zslib.plan.graph import Stage
from zslib.plan.pace import Pace
from zslib.plan.survey import Survey


@dataclass(frozen=True)
class Cost:
    """What a stage takes; None is what nobody can tell beforehand."""

    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Facts:
    """All that a cost may depend on, and what several stages do with images."""

    params: Params
    survey: Survey
    pace: Pace

    @property
    def stride(self) -> int:
        return self.params.backbone.model.feature_stride

    def grids(self, images: sizes.Sizes) -> sizes.Grids:
        """Return the grids of the frozen network's maps."""
        short = self.params.features.short_side
        return sizes.feature_grids(images, short_side=short, stride=self.stride)

    def dense(self, images: sizes.Sizes) -> int:
        """Return the bytes of these images' maps."""
        return sizes.dense_maps(self.grids(images), self.params.backbone.model.feature_channels)

    def whole(self, images: sizes.Sizes) -> sizes.Sizes:
        """Return the training images of which whole maps are kept."""
        return images[: self.params.features.train_maps or len(images)]

    def unlabelled(self, split: str) -> sizes.Sizes:
        """Return the images that self-training labels from their maps (`features.sample_unlabelled`)."""
        images, kept = self.survey.unlabelled(split), self.survey.kept(split)
        return images[: math.ceil(len(images) * len(self.whole(kept)) / max(len(kept), 1))]

    def seen_at(self, short_side: int | None) -> "Facts":
        """Return the same with views of another short side; None changes nothing."""
        update = {"short_side": short_side or self.params.features.short_side}
        features = self.params.features.model_copy(update=update)
        return replace(self, params=self.params.model_copy(update={"features": features}))

    @property
    def classes(self) -> int:
        return len(self.params.benchmark.classes)

    def bank_rows(self, images: sizes.Sizes, rows_per_class: int) -> int:
        """Return the rows of a bank, at most: all that each class of an image is allowed."""
        return round(len(images) * self.survey.classes_per_image * rows_per_class)

    def training(self, images: float, crop: int, scales: Sequence[float] = (1.0,)) -> float:
        """Return the seconds in which the network learns from so many crops, each at these scales."""
        return images * crop**2 * sum(s**2 for s in scales) * self.pace.backbone.training

    def sazs_views(self, images: sizes.Sizes) -> sizes.Grids:
        """Return (height, width) of what SAZS's network sees of each image."""
        short = self.params.features.short_side
        return [view_of(size, self.params.sazs.input_size, short) for size in images]

    def margins(self, images: sizes.Sizes) -> int | None:
        """Return the bytes of SAZS's maps: margins of all classes."""
        grids = sizes.margin_grids(
            self.sazs_views(images), self.params.sazs.model, stride=self.stride
        )
        return None if grids is None else sizes.dense_maps(grids, self.classes)

    def looking(self, images: sizes.Sizes) -> float:
        """Return the seconds in which the frozen network sees the images once."""
        short = self.params.features.short_side
        views = (sizes.view(size, short) for size in images)
        return self.pace.backbone.forward * sum(height * width for height, width in views)

    def passes(self, split: str) -> float:
        """Return how often a segmenter labels a validation image: once, and those that show an unseen
        class once more, among these alone. As many show one as training images that a split drops.
        """
        benchmark, survey = self.params.benchmark, self.survey
        if benchmark.trained_on or split == ALL_SEEN:
            return 1.0
        dropped = survey.unlabelled(split) if benchmark.unseen_images == "drop" else survey.train
        return 1 + len(dropped) / len(survey.train)


Rule = Callable[[Facts, Stage, str], Cost]
"""From a stage and its split to its cost."""
