"""The binary evaluation of the fold protocol over many pairs (sazs §1.4); none of its figures may stand
beside generalised ones.

An episode is a pair. Each pair is scored once, and weighed by how often it is among the episodes.
How predictions are fused is chosen on classes held out from training.
"""

import csv
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zslib.artifacts import publish
from zslib.benchmark import Split
from zslib.datasets.folds import Pair, cycled, drawn
from zslib.errors import InputError
from zslib.methods.sazs.binary import ROWS, Counts, Fusion, Material, VoidRule, count
from zslib.methods.sazs.items import named_classes
from zslib.params.sazs import SazsEpisodes
from zslib.training import progress

log = logging.getLogger(__name__)

COLUMNS = (
    *("image", "class", "row", "void"),
    *("intersection_others", "intersection_class", "union_others", "union_class"),
)


def fold_scores(
    counts: Mapping[Pair, Counts], episodes: Iterable[Pair], classes: Sequence[str]
) -> dict[str, Any]:
    """Return mIoU and FB-IoU over episodes, as fractions, and the IoU of each class they name.

    Pixels are summed over the episodes of a class, then divided: no mean over images (sazs §1.4).
    Without an episode there is no score.
    """
    totals: dict[int, np.ndarray] = {}
    for pair, times in Counter(episodes).items():
        so_far = totals.get(pair.class_id, np.zeros((2, 2), np.int64))
        totals[pair.class_id] = so_far + times * counts[pair]
    if not totals:
        return {"miou": None, "fb_iou": None, "class_iou": {}}
    iou = {classes[c]: total[0, 1] / max(total[1, 1], 1) for c, total in sorted(totals.items())}
    both = np.sum(list(totals.values()), axis=0)
    return {
        "miou": float(np.mean(list(iou.values()))),
        "fb_iou": float(np.mean(both[0] / np.maximum(both[1], 1))),
        "class_iou": {name: float(value) for name, value in iou.items()},
    }


@dataclass(frozen=True)
class FusionChoice:
    """Which rule fuses, and how well each did on classes held out from training (DESIGN §10)."""

    candidates: tuple[Fusion, ...]
    miou: tuple[float, ...]
    held_out: tuple[str, ...]

    @property
    def chosen(self) -> Fusion:
        """The best candidate; the first of equals."""
        return self.candidates[int(np.argmax(self.miou))]

    def describe(self) -> dict[str, Any]:
        """Return the choice as JSON."""
        return {
            "candidates": [str(candidate) for candidate in self.candidates],
            "miou": list(self.miou),
            "held_out": [list(self.held_out)],
            "chosen": str(self.chosen),
        }


def choose_fusion(held_out: Material, params: SazsEpisodes) -> FusionChoice:
    """Score every candidate on pairs of tuning images with classes that no training showed.

    If no tuning image shows one of them, all score 0, and the first candidate stays.
    """
    candidates = [Fusion("agreement", tau) for tau in params.taus]
    candidates += [Fusion("vote", share) for share in params.vote_shares]
    split, pairs = held_out.split, held_out.pairs()
    hidden = tuple(split.classes[c] for c in split.unseen)
    if not pairs:
        log.warning("no tuning image shows %s: fusion is '%s'", ", ".join(hidden), candidates[0])
    counts: list[dict[Pair, Counts]] = [{} for _ in candidates]
    for pair, shown in held_out.each(pairs):
        for fusion, found in zip(candidates, counts, strict=True):
            mask = fusion(shown.margin, shown.cut)
            found[pair] = count(mask, shown.truth, "removed")
    miou = [fold_scores(found, pairs, split.classes)["miou"] or 0.0 for found in counts]
    return FusionChoice(tuple(candidates), tuple(miou), hidden)


@dataclass(frozen=True)
class FoldEvaluation:
    """Counts of every scored pair, row and rule for void; and which pairs the episodes are."""

    split: Split
    counts: Mapping[tuple[str, VoidRule], Mapping[Pair, Counts]]
    episodes: Sequence[Pair]
    whole: bool
    """Whether all pairs are scored, or only those among the episodes."""
    released_void: VoidRule
    choice: FusionChoice

    def describe(self) -> dict[str, Any]:
        """Return all figures as JSON: of the episodes, of one pass over all pairs, and as released.

        Without all pairs there is no pass over them.
        """
        return {
            "split": self.split.name,
            "episodes": len(self.episodes),
            "pairs": len(self.counts["sazs-nofusion", "removed"]),
            "fusion": self.choice.describe(),
            "rows": {row: {"note": note, **self._figures(row)} for row, note in ROWS.items()},
        }

    def _figures(self, row: str) -> dict[str, Any]:
        pairs = list(self.counts[row, "removed"])
        return {
            "clean": self._scores(row, "removed", self.episodes),
            **({"all_pairs": self._scores(row, "removed", pairs)} if self.whole else {}),
            "released": self._scores(row, self.released_void, self.episodes),
        }

    def _scores(self, row: str, void: VoidRule, episodes: Sequence[Pair]) -> dict[str, Any]:
        return fold_scores(self.counts[row, void], episodes, self.split.classes)

    def save(self, path: Path) -> None:
        """Publish the counts as CSV: a line per pair, row and rule for void."""
        with publish(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for (row, void), counts in self.counts.items():
                for pair, found in counts.items():
                    name = self.split.classes[pair.class_id]
                    writer.writerow([pair.image_id, name, row, void, *found.reshape(-1).tolist()])


def evaluate_fold(
    material: Material,
    listed: Sequence[Pair] | None,
    choice: FusionChoice,
    params: SazsEpisodes,
) -> FoldEvaluation:
    """Score each pair once, and weigh it by how often the episodes have it.

    Cycling, which favours the first pairs, comes with one pass over all (sazs §8.1 j); of a draw
    only what is drawn is scored: 1,000 of COCO's up to 35,783 pairs.

    Raises:
        InputError: a listed image has no map; a class to draw from is in no image.
    """
    pairs = material.pairs() if listed is None else listed
    _refuse_unknown(pairs, material)
    split, whole = material.split, params.draw == "cycle"
    if whole:
        episodes = cycled(pairs, params.count)
    else:
        episodes = drawn(pairs, named_classes(split, split.unseen), params.count)
    scored = set(pairs if whole else episodes)
    counts = _counted(material, scored, choice.chosen, ("removed", params.released_void))
    return FoldEvaluation(split, counts, episodes, whole, params.released_void, choice)


def _counted(
    material: Material, pairs: Collection[Pair], fusion: Fusion, rules: Sequence[VoidRule]
) -> dict[tuple[str, VoidRule], dict[Pair, Counts]]:
    counts: dict[tuple[str, VoidRule], dict[Pair, Counts]] = {
        (row, void): {} for void in rules for row in ROWS
    }
    name = f"pairs of {material.split.name}"
    for pair, shown in progress(material.each(pairs), name=name, total=len(pairs)):
        for void in rules:
            for row, mask in shown.masks(fusion, void).items():
                counts[row, void][pair] = count(mask, shown.truth, void)
    return counts


def _refuse_unknown(pairs: Sequence[Pair], material: Material) -> None:
    known = set(material.maps.ids)
    if missing := [pair.image_id for pair in pairs if pair.image_id not in known]:
        raise InputError(
            f"sazs.folds: {missing[0]} has no map ({len(missing)} of {len(pairs)} pairs lack one); "
            "are these the split files of this benchmark?"
        )
