"""How the free choices were made: a chart for each (DESIGN §10)."""

from dataclasses import dataclass

from markupsafe import Markup

from zslib.report.charts import curve_chart
from zslib.report.leaderboard import METHODS
from zslib.report.results import ShownChoice

_CHOICES = {
    "gamma": ("calibration gamma", "taken from the probability of every seen class"),
    "sigma": ("calibration sigma", "the weight of squared distances to unseen prototypes"),
    "ridge": ("ridge", "the penalty on the map from class vectors to prototypes"),
    "unseen_weight": ("loss weight of unseen classes", "on synthetic features in the classifier"),
    "unseen_boost": ("boost of unseen classes", "added to the weight 1 by which a class is drawn"),
    "tau": ("tau of fusion", "the share of a segment that one label must hold to take all of it"),
    "share": (
        "share of pseudo-labels",
        "how much of the pixels classified as unseen is labelled, the most confident first",
    ),
    "rank": (
        "rank of pseudo-labels",
        "the last rank at which the best unseen class still becomes a pixel's label",
    ),
}


@dataclass(frozen=True)
class ChoiceChart:
    """One free choice: its curve and the classes that were held out for it."""

    title: str
    explanation: str
    chart: Markup
    held_out: tuple[tuple[str, ...], ...]
    note: str
    """Empty, or what was wrong with it."""


def choice_chart(choice: ShownChoice) -> ChoiceChart:
    """Return the chart of one free choice; a parameter without a title of its own keeps its name."""
    plain = choice.parameter.replace("_", " ")
    what, explanation = _CHOICES.get(choice.parameter, (plain, ""))
    title = f"{METHODS[choice.method]}: {what}"
    chart = curve_chart(title, choice.candidates, choice.hiou, chosen=choice.chosen)
    return ChoiceChart(title, explanation, chart, choice.held_out, choice.note)
