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
from zslib.report.leaderboard import FUSED, METHODS, Scores

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
class ShownChoice:
    """One free choice of a clean run, and the curve it was made from (DESIGN §10)."""

    method: str
    parameter: str
    candidates: tuple[float, ...]
    hiou: tuple[tuple[float, ...], ...]
    """One curve per draw of held-out classes."""
    held_out: tuple[tuple[str, ...], ...]
    chosen: float
    note: str
    """Empty, or what was wrong with it."""


def load_results(
    scores: Sequence[Scores],
    evaluations: Path,
    split: Split,
    declared: Mapping[str, str],
    *,
    seed: int,
) -> list[Result]:
    """Open the evaluation behind every score of one split; `declared` says in which folder it is.

    Raises:
        InputError: a score has another seed, no evaluation, or an evaluation of another class list.
        ArtifactError: an evaluation is damaged.
    """
    folder = evaluations / split.name
    results = [_load(s, folder, split, declared, seed) for s in scores if s.split == split.name]
    if not results:
        raise InputError(f"splits: no result for split '{split.name}'; run its evaluate stages")
    return results


def choices_of(results: Sequence[Result]) -> list[ShownChoice]:
    """Return the free choices behind the results, in their order; a fused row repeats no other's."""
    found: dict[tuple[str, str], ShownChoice] = {}
    for result in results:
        method = result.scores.method
        for parameter, details in result.details.items():
            # An imported model's details are words.
            if isinstance(details, Mapping) and details.get("hiou"):
                choice = _choice(method, parameter, details)
                found.setdefault((method.removesuffix(FUSED), parameter), choice)
    return list(found.values())


def _choice(method: str, parameter: str, details: Mapping[str, Any]) -> ShownChoice:
    return ShownChoice(
        method,
        parameter,
        tuple(details["candidates"]),
        tuple(tuple(row) for row in details["hiou"]),
        tuple(tuple(draw) for draw in details["held_out"]),
        details["chosen"],
        details.get("note", ""),
    )


def _load(
    scores: Scores, evaluations: Path, split: Split, declared: Mapping[str, str], seed: int
) -> Result:
    name = f"{scores.method}-{scores.protocol}"
    file = f"{split.name}-{name}.json"
    if scores.seed != seed:
        raise InputError(
            f"{file}: is a result of seed {scores.seed}, params.yaml has seed {seed}; rerun its stages "
            "(dvc repro)"
        )
    if file not in declared:
        raise InputError(
            f"{file}: a file of another name holds that row; delete it and rerun dvc repro"
        )
    folder = evaluations / declared[file] / name
    if not folder.is_dir():
        raise InputError(
            f"{folder}: missing, although {file} is there; rerun the stage 'evaluate' that writes it"
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
