"""What a file holds, and which stage writes it; each kind of artifact declares its own schema."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schema:
    """A kind of artifact. The version changes when a reader of the old form would go wrong."""

    name: str
    """name/version"""
    writer: str
    """The stages that write it."""

    @property
    def remedy(self) -> str:
        """What to do about a bad file of this kind."""
        return "run `make fsck`, delete the file and rerun the stage that writes it: " + self.writer
