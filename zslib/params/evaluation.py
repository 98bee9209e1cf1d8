"""How free choices are made, how methods are scored, and what the report shows."""

from typing import Literal

from pydantic import Field

from zslib.params.section import Section


class SelectionParams(Section):
    """The one procedure for every free choice: seen classes held out as if unseen (DESIGN §10)."""

    held_out: int = Field(ge=1)
    """How many seen classes are hidden in each draw."""
    draws: int = Field(1, ge=1)
    candidates_from: Literal["all"] | list[str] = "all"
    """Seen classes that may be drawn (the world draws things only, as its unseen classes are)."""


class EvaluateParams(Section):
    """How predictions are compared with the labels (zs3net §7)."""

    resolution: Literal["original", "view"] = "original"
    bootstrap: int = Field(1000, ge=10)


class ReportParams(Section):
    """What the report shows."""

    pictures: int = Field(8, ge=1)
    curves_of: str | None = None
    """The split whose curves `dvc plots show` draws."""
