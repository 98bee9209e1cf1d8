"""What the report reads: scores, matrices and predictions of one split, checked against each other.

A table of results that do not belong together is worse than none. So a result of another seed, of
another class list, or without its evaluation is refused, not shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from zslib.artifacts.maps import PREDICTIONS, LabelMaps, open_label_maps
from zslib.artifacts.store import open_arrays
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.metrics import CONFUSION
from zslib.report.leaderboard import METHODS, Scores

CEILING = "supervised"


@dataclass(frozen=True)
class Result:
    """One row of the leaderboard with everything behind it."""

    scores: Scores
    split: Split
    """Across datasets, one in which no class is called unseen: there is none to tell it from."""
    matrix: Int64[np.ndarray, "c c"]
    """Generalised confusion matrix: truth in rows, predictions in columns."""
    predictions: LabelMaps
    details: Mapping[str, Any]

    @property
    def is_ceiling(self) -> bool:
        return self.scores.method == CEILING

    @property
    def title(self) -> str:
        return METHODS[self.scores.method]

    @property
    def note(self) -> str:
        """What sets a row apart from the clean inductive ones, or nothing."""
        notes = {"official": self.scores.protocol, "transductive": self.scores.setting}
        return "ceiling" if self.is_ceiling else ", ".join(n for n in notes if n == notes[n])

    @property
    def kind(self) -> str:
        """What the page keeps apart: clean (inductive), transductive, cross-dataset, official, ceiling."""
        if self.is_ceiling:
            return "ceiling"
        inductive = self.scores.setting == "inductive"
        return self.scores.protocol if inductive or self.is_official else self.scores.setting

    @property
    def is_official(self) -> bool:
        return self.scores.protocol == "official"


@dataclass(frozen=True)
class Choice:
    """One free choice of a clean run, and the curve it was made from (DESIGN §10)."""

    method: str
    parameter: str
    candidates: tuple[float, ...]
    hiou: tuple[tuple[float, ...], ...]
    """One curve per draw of held-out classes."""
    held_out: tuple[tuple[str, ...], ...]
    chosen: float


def load_results(
    scores: Sequence[Scores], evaluations: Path, split: Split, *, seed: int
) -> list[Result]:
    """Open the evaluation behind every score of one split.

    Raises:
        InputError: a score has another seed, no evaluation, or an evaluation of another class list.
        ArtifactError: an evaluation is damaged.
    """
    results = [_load(one, evaluations, split, seed) for one in scores if one.split == split.name]
    if not results:
        raise InputError(f"splits: no result for split '{split.name}'; run its evaluate stages")
    return results


def choices_of(results: Sequence[Result]) -> list[Choice]:
    """Return the free choices behind the results, in their order."""
    return [
        _choice(result.scores.method, parameter, details)
        for result in results
        for parameter, details in result.details.items()
        if "hiou" in details  # tau is chosen by the seen mIoU: zslib.report.eigenvectors
    ]


def _choice(method: str, parameter: str, details: dict) -> Choice:
    return Choice(
        method,
        parameter,
        tuple(details["candidates"]),
        tuple(tuple(row) for row in details["hiou"]),
        tuple(tuple(draw) for draw in details["held_out"]),
        details["chosen"],
    )


def _load(scores: Scores, evaluations: Path, split: Split, seed: int) -> Result:
    name = f"{scores.method}-{scores.protocol}"
    folder = next((evaluations / split.name).glob(f"*/{name}"), None)
    if scores.seed != seed:
        raise InputError(
            f"{split.name}-{name}.json: is a result of seed {scores.seed}, params.yaml has seed "
            f"{seed}; rerun its stages (dvc repro), or remove it if nothing writes it any more"
        )
    if folder is None:
        raise InputError(
            f"{evaluations / split.name}/*/{name}: missing, although {split.name}-{name}.json is "
            "there; rerun the stage 'evaluate' that writes it"
        )
    arrays, meta = open_arrays(folder / "confusion.h5", schema=CONFUSION)
    if Split.described(meta) != split:
        raise InputError(
            f"{folder / 'confusion.h5'}: was made with other classes, or with other ones unseen, "
            f"than params.yaml has for split '{split.name}'; rerun its stages (dvc repro)"
        )
    predictions = open_label_maps(folder / "predictions.h5", schema=PREDICTIONS)
    matrix = np.asarray(arrays["generalised"])
    return Result(scores, _shown(split), matrix, predictions, meta["details"])


def _shown(split: Split) -> Split:
    """Return the split in which no class is called unseen, if none is seen either."""
    return split if split.seen else Split.from_ids(split.name, split.classes, (), split.void)
