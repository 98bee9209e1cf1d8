"""Which classes are seen, unseen or void: pure data, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

IGNORE_INDEX = 255
"""Void: pixels that are neither trained on nor scored."""

ALL_SEEN = "all"
"""The split of the supervised ceiling: nothing is unseen."""

ProtocolName = Literal["clean", "official"]
"""As the paper has it, without labels of unseen classes; or as the authors' code did it (DESIGN §4)."""

Setting = Literal["inductive", "transductive", "cross-dataset"]
"""Transductive: unlabelled images of unseen classes were seen; cross-dataset: none of this dataset."""


@dataclass(frozen=True)
class Split:
    """One division of a benchmark's classes, as class ids in ascending order."""

    name: str
    classes: tuple[str, ...]
    seen: tuple[int, ...]
    unseen: tuple[int, ...]
    void: tuple[int, ...]

    @classmethod
    def named(
        cls, name: str, classes: Sequence[str], *, unseen: Sequence[str], void: Sequence[str]
    ) -> "Split":
        """Return a split given the names of its unseen and void classes."""
        ids = {label: index for index, label in enumerate(classes)}
        return cls.from_ids(name, classes, [ids[c] for c in unseen], [ids[c] for c in void])

    @classmethod
    def from_ids(
        cls, name: str, classes: Sequence[str], unseen: Sequence[int], void: Sequence[int]
    ) -> "Split":
        """Return the split in which `unseen` and `void` are as given and the rest is seen."""
        seen = sorted(set(range(len(classes))) - set(unseen) - set(void))
        return cls(name, tuple(classes), tuple(seen), tuple(sorted(unseen)), tuple(sorted(void)))

    def hide(self, held_out: Sequence[int]) -> "Split":
        """Return this split with some seen classes treated as the unseen ones, and those as void."""
        return Split.from_ids(
            f"{self.name}-held-out", self.classes, held_out, self.void + self.unseen
        )

    def seen_labels(self, label_map: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return the label map with unseen and void classes set to IGNORE_INDEX."""
        return self._keep(self.seen)[label_map]

    def scored_labels(self, label_map: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Return the label map with void classes set to IGNORE_INDEX: what evaluation compares."""
        return self._keep(self.seen + self.unseen)[label_map]

    def shows_unseen(self, label_map: UInt8[np.ndarray, "h w"]) -> bool:
        """Return whether any pixel of the full-resolution map has an unseen class (zs3net §1.5)."""
        return bool(np.isin(label_map, self.unseen).any())

    def describe(self) -> dict[str, object]:
        """Return the split as JSON for an artifact's description."""
        return {
            "split": self.name,
            "classes": list(self.classes),
            "unseen": list(self.unseen),
            "void": list(self.void),
        }

    @classmethod
    def described(cls, meta: Mapping[str, Any]) -> "Split":
        """Return the split that `describe` wrote."""
        return cls.from_ids(meta["split"], meta["classes"], meta["unseen"], meta["void"])

    def _keep(self, ids: Sequence[int]) -> np.ndarray:
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[list(ids)] = list(ids)
        return table
