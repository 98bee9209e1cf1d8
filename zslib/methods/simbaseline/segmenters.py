"""Label maps from cached proposals, cached region embeddings and text (simbaseline §2.4, §5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.maps import LabelMaps
from zslib.artifacts.proposals import Proposals
from zslib.artifacts.regions import Regions
from zslib.benchmark import Split
from zslib.embeddings.table import ClassVectors, load_class_vectors
from zslib.errors import InputError
from zslib.methods.simbaseline.fusion import (
    fuse,
    oracle_scores,
    query_probabilities,
    region_probabilities,
    semantic_map,
)
from zslib.params.simbaseline import FusionParams
from zslib.segmenters import unseen_only

Kind = TypeVar("Kind", bound="ByClassScores")
By = Literal["both", "queries", "regions", "oracle"]
Scores = Callable[[int, Float[Tensor, "q h w"]], Float[Tensor, "q k"]]
"""From an image's position and its soft masks to a score per query and class."""
SoftMasks = Callable[[int], Float[Tensor, "q h w"]]
"""From an image's position to its masks in [0, 1]."""


class ByClassScores:
    """Segments by the highest score among the split's classes: a base of frozen dataclasses."""

    split: Split
    classes: tuple[int, ...]
    """Of the rows of the scores."""

    def class_scores(
        self, position: int, size: tuple[int, int], rows: Sequence[int] | None = None
    ) -> Float[Tensor, "k H W"]:
        """Return the scores of all classes, or of these rows of `classes` only, at a size."""
        raise NotImplementedError

    def predict(self, position: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
        """Return an image's label map among the split's classes, at a size."""
        allowed = {*self.split.seen, *self.split.unseen}
        rows = [k for k, c in enumerate(self.classes) if c in allowed]
        ids = np.array(self.classes, np.uint8)[rows]
        return ids[self.class_scores(position, size, rows).argmax(0).numpy()]

    def among_unseen(self: Kind) -> Kind:
        """Return the same, choosing among the unseen classes only."""
        return replace(self, split=unseen_only(self.split))  # type: ignore[type-var]


@dataclass(frozen=True)
class ProposalSegmenter(ByClassScores):
    """Every query votes for every class with its score, wherever its mask is (simbaseline §5)."""

    proposals: Proposals
    split: Split
    classes: tuple[int, ...]
    scores: Scores
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Nothing is chosen: the ensemble weight is the published one. Held-out seen classes could not tell,
    for the queries have learned them, and would be trusted with them as they cannot be with unseen ones."""
    masks: SoftMasks | None = None
    """In place of those of `proposals`, made anew each time."""

    @property
    def ids(self) -> Sequence[str]:
        return self.proposals.ids

    def view(self, position: int) -> tuple[int, int]:
        height, width = self.proposals.views[position].tolist()
        return height, width

    def class_scores(
        self, position: int, size: tuple[int, int], rows: Sequence[int] | None = None
    ) -> Float[Tensor, "k H W"]:
        """Return the scores of all classes, or of some, made at the size of the test image, at another.

        A map per class is what costs: only those asked for are made.
        """
        masks = (self.masks or masks_of(self.proposals))(position)
        votes = self.scores(position, masks)
        found = semantic_map(votes if rows is None else votes[:, rows], masks)
        return F.interpolate(found[None], size, mode="bilinear", align_corners=False)[0]


def segmenter(
    by: By,
    proposals: Proposals,
    query_text: ClassVectors,
    split: Split,
    params: FusionParams,
    *,
    regions: Regions | None = None,
    region_text: ClassVectors | None = None,
    truth: LabelMaps | None = None,
) -> ProposalSegmenter:
    """Return what names the masks by both classifiers, by one of them, or by looking at `truth`.

    The soft masks of the last image are kept, for evaluation asks twice: among all classes and among
    the unseen ones.

    Raises:
        InputError: no regions, where they are needed.
    """
    classes = scored_classes(split)

    def segmenter_by(scores: Scores) -> ProposalSegmenter:
        masks = lru_cache(maxsize=1)(masks_of(proposals))
        return ProposalSegmenter(proposals, split, classes, scores, masks=masks)

    if by == "oracle":
        assert truth is not None
        return segmenter_by(by_truth(proposals, truth, classes))
    of_queries = by_queries(proposals, text_rows(query_text, classes))
    if by == "queries":
        return segmenter_by(of_queries)
    if regions is None or region_text is None:
        raise InputError(f"by {by}: needs region embeddings and text for them")
    rows = text_rows(region_text, classes)
    if by == "regions":
        return segmenter_by(by_regions(regions, rows))
    seen = torch.tensor([c in split.seen for c in classes])
    return segmenter_by(by_both(of_queries, regions, rows, seen, params))


def masks_of(proposals: Proposals) -> SoftMasks:
    """Return what makes the soft masks of an image."""
    return lambda position: proposals[position].soft_masks()


def scored_classes(split: Split) -> tuple[int, ...]:
    """Return all classes that are not void, in the order of their ids."""
    return tuple(sorted(split.seen + split.unseen))


def load_text(prompts: str, *, templates: Path, learned: Path | None) -> ClassVectors:
    """Open class names as read in a set of templates, or in learned prompts.

    Raises:
        InputError: learned prompts are asked for, and none given.
        ArtifactError: the file is missing or damaged.
    """
    if prompts != "learned":
        return load_class_vectors(templates / f"{prompts}.safetensors")
    if learned is None:
        raise InputError("simbaseline.region_prompts: 'learned', but no --prompts are given")
    return load_class_vectors(learned / "text.safetensors")


def text_rows(text: ClassVectors, classes: Sequence[int]) -> Float[Tensor, "k d"]:
    """Return the text vectors of some classes of the benchmark."""
    return torch.from_numpy(text.rows[list(classes)])


def by_queries(proposals: Proposals, text: Float[Tensor, "k d"]) -> Scores:
    """Score by the query classifier alone ("retrained head")."""
    no_object = torch.from_numpy(np.array(proposals.no_object))

    def scores(position: int, masks: Tensor) -> Tensor:
        vectors = torch.from_numpy(np.array(proposals.vectors[position], np.float32))
        return query_probabilities(vectors, text, no_object)

    return scores


def by_regions(regions: Regions, text: Float[Tensor, "k d"]) -> Scores:
    """Score by the vision-language model alone, over queries that have a region ("direct CLIP")."""

    def scores(position: int, masks: Tensor) -> Tensor:
        embeddings, valid = regions[position]
        return region_probabilities(embeddings, valid, text) * valid[:, None]

    return scores


def by_both(
    of_queries: Scores,
    regions: Regions,
    text: Float[Tensor, "k d"],
    seen: Bool[Tensor, " k"],
    params: FusionParams,
) -> Scores:
    """Score by both, fused: SimBaseline."""

    def scores(position: int, masks: Tensor) -> Tensor:
        embeddings, valid = regions[position]
        named = region_probabilities(embeddings, valid, text)
        fused = fuse(of_queries(position, masks), named, seen, params.weight)
        return fused * valid[:, None] if params.invalid_queries == "drop" else fused

    return scores


def by_truth(proposals: Proposals, labels: LabelMaps, classes: Sequence[int]) -> Scores:
    """Score by overlap with the true label map: how good are the masks? It looks at labels."""
    wanted = torch.tensor(classes, dtype=torch.uint8)

    def scores(position: int, masks: Tensor) -> Tensor:
        truth = Image.fromarray(labels.of(proposals.ids[position]))
        height, width = masks.shape[-2:]
        small = np.array(truth.resize((width, height), Image.Resampling.NEAREST))
        return oracle_scores(masks, torch.from_numpy(small) == wanted[:, None, None])

    return scores
