"""What the networks behind a row had learned before anything was trained here.

Weights of ordinary ImageNet come from pictures of unseen classes with their names: another setting than
the published one, whose encoder had seen none of them (zs3net §2). A released CLIP has read of
everything. So every row of the leaderboard says what it began from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zslib.params.backbone import EncoderParams
from zslib.params.sazs import SazsModel

NOTHING = "none"


@dataclass(frozen=True)
class Beginnings:
    """The encoders of a benchmark's networks, and its CLIP, or what stands for its text tower."""

    backbone: EncoderParams
    """Of all methods but for those with one of their own."""
    sazs: SazsModel
    proposals: EncoderParams | None
    clip: str | None
    """A name on transformers' hub, or a folder; None if it was trained here."""
    text_tables: Sequence[str]
    """Tables of text vectors, where no CLIP is loaded."""

    def of(self, method: str) -> str:
        """Return where a method's weights are from: `resnet101 (hub) + openai/clip-vit-base-patch16`."""
        if method.startswith("simbaseline"):
            found = [_weights(self.proposals or self.backbone)]
            found += [f"text vectors '{table}'" for table in self.text_tables] or [self.clip]
        elif method == "sazs" and self.sazs.architecture != "seen_only":
            assert self.sazs.encoder is not None, "params refuse such a network without an encoder"
            found = [_weights(self.sazs.encoder)]
        else:
            found = [_weights(self.backbone)]
        return " + ".join(filter(None, found)) or NOTHING


def _weights(encoder: EncoderParams) -> str | None:
    if isinstance(encoder.weights, list):
        return ", ".join(Path(file).name for file in encoder.weights)
    return f"{encoder.name} (hub)" if encoder.weights == "hub" else None
