"""The page: everything gathered for the template `page.html`, which says how it looks.

The result is one file without a reference to any other: styles, charts and pictures are inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from zslib.artifacts.eigenvectors import Eigenvectors
from zslib.artifacts.maps import LabelMaps
from zslib.benchmark import Split
from zslib.datasets.index import ImageIndex
from zslib.embeddings.table import ClassVectors
from zslib.published import MEMORY_NOTE
from zslib.report.calibration import Calibration
from zslib.report.charts import HARMONIC, SEEN, UNSEEN, Bar, bar_chart
from zslib.report.choices import ChoiceChart, choice_chart
from zslib.report.eigenvectors import eigenvector_pictures
from zslib.report.leaderboard import is_fused, row_of
from zslib.report.matrices import Destination, destinations, heat_map
from zslib.report.pictures import Row, choose_pictures, class_areas, picture_row
from zslib.report.pseudo import PseudoLabels, PseudoSection, pseudo_section
from zslib.report.results import Result, ShownChoice
from zslib.report.svg import shared_top
from zslib.report.tables import (
    HEADINGS,
    ClassLine,
    Cost,
    Neighbours,
    ProtocolColumns,
    ProtocolLines,
    PublishedLine,
    ScoreLine,
    class_lines,
    existing_figures,
    nearest_seen,
    printed_figures,
    protocol_columns,
    protocol_lines,
    published_lines,
    score_lines,
)
from zslib.report.trends import trend_charts

_KINDS = ("clean", "transductive", "cross-dataset", "official", "ceiling")
_NEIGHBOURS, _DESTINATIONS, _PSEUDO_PICTURES, _EIGEN_PICTURES = 5, 3, 4, 4
_OPEN_MATRICES, _OPEN_PICTURES = 6, 3
_PANELS = (
    ("miou_seen", "Seen", SEEN),
    ("miou_unseen", "Unseen", UNSEEN),
    ("hiou", "hIoU: their harmonic mean", HARMONIC),
)
_ONE_PANEL = (("miou", "All classes", HARMONIC),)
"""Where no class is unseen."""


@dataclass(frozen=True)
class Matrix:
    """One heat map and where the unseen pixels went."""

    result: Result
    chart: Markup
    destinations: list[Destination]


@dataclass(frozen=True)
class SplitSection:
    """All that the page says about one split."""

    split: Split
    results: list[Result]
    drawn: list[Result]
    """Those of them that bars, classes, matrices and pictures show."""
    headings: list[str]
    """Of the columns of `scores`."""
    scores: dict[str, list[ScoreLine]]
    """By kind; a kind without a result is missing."""
    published_headings: list[str]
    published: list[PublishedLine]
    """Rows of which anything is in print for this benchmark and split."""
    bars: list[tuple[str, Markup]]
    classes: list[ClassLine]
    matrices: list[Matrix]
    protocols: list[ProtocolColumns]
    protocol_lines: list[ProtocolLines]
    """All rows but the official ones, then those: two tables."""
    choices: list[ChoiceChart]
    calibration: Calibration | None
    neighbours: list[Neighbours]
    pictures: list[Row]
    pseudo_labels: PseudoSection | None
    eigenvectors: list[Row]

    @property
    def unseen_names(self) -> list[str]:
        return [self.split.classes[c] for c in self.split.unseen]


@dataclass(frozen=True)
class Page:
    """What the template sees."""

    benchmark: str
    trained_on: str | None
    """The benchmark whose model is tried across datasets."""
    seed: int
    images: int
    sections: list[SplitSection]
    pretrained: Sequence[str]
    """What the rows' networks began from."""
    contact_sheet: str | None
    """Data URI of the built-in world's contact sheet."""
    costs: list[Cost]
    scores_of_others: Sequence[str]
    """Score files that no stage in force writes."""

    @property
    def methods(self) -> int:
        """How many results the fullest split shows: the page's columns are laid out for them."""
        return max(len(section.drawn) for section in self.sections)

    @property
    def shows_all_matrices(self) -> bool:
        """Whether the confusion matrices stand open: many of them would fill screens on end."""
        return self.methods * len(self.sections) <= _OPEN_MATRICES

    @property
    def open_pictures(self) -> int:
        """How many pictures of a split are shown unasked, if the page is of several splits."""
        return len(self.sections[0].pictures) if len(self.sections) == 1 else _OPEN_PICTURES

    @property
    def class_block_width(self) -> int:
        """Pixels that one block of the table of classes needs."""
        return 100 + 60 * self.methods

    @property
    def class_blocks(self) -> int:
        """How many blocks of the table of classes stand side by side on a wide screen."""
        return max(1, min(3, 1100 // (self.class_block_width + 26)))

    @property
    def overview(self) -> list[tuple[str, list[tuple[str, list[float | None]]]]]:
        """hIoU of every method in every split, one table per kind."""
        found: dict[str, dict[str, list[float | None]]] = {}
        for place, section in enumerate(self.sections):
            for result in section.results:
                lines = found.setdefault(result.kind, {})
                line = lines.setdefault(result.title, [None] * len(self.sections))
                line[place] = result.scores.hiou
        return [(kind, list(found[kind].items())) for kind in _KINDS if kind in found]

    @property
    def trends(self) -> list[tuple[str, Markup]]:
        """Charts against K, the large one first; empty where fewer than two splits tell their K."""
        return trend_charts([result for section in self.sections for result in section.results])


def split_section(
    results: list[Result],
    choices: Sequence[ShownChoice],
    calibration: Calibration | None,
    vectors: Sequence[ClassVectors],
    *,
    benchmark: str,
    images: ImageIndex,
    truth: LabelMaps,
    pseudo_labels: Sequence[PseudoLabels],
    eigenvectors: Eigenvectors | None,
    pictures: int,
) -> SplitSection:
    """Gather one split; `truth` holds the validation labels: every scored class, void ones erased."""
    split = results[0].split
    kinds = {kind: [r for r in results if r.kind == kind] for kind in _KINDS}
    comparable = [r for r in results if r.kind != "official"]
    columns = protocol_columns(results)
    # Fused rows stand in the table, and where the eigenvectors are.
    drawn = [r for r in results if not is_fused(r.scores.method)]
    return SplitSection(
        split=split,
        results=results,
        drawn=drawn,
        headings=[HEADINGS[name] for name in existing_figures(results)],
        scores={kind: score_lines(group) for kind, group in kinds.items() if group},
        published_headings=[HEADINGS[name] for name in printed_figures(results)],
        published=published_lines(results, benchmark),
        bars=_bars(drawn),
        classes=class_lines(drawn),
        matrices=[_matrix(result) for result in drawn],
        protocols=columns,
        protocol_lines=[
            protocol_lines(columns, group) for group in (comparable, kinds["official"]) if group
        ],
        choices=[choice_chart(choice) for choice in choices],
        calibration=calibration,
        neighbours=nearest_seen(vectors, split, count=_NEIGHBOURS),
        pictures=_pictures(drawn, images, truth, pictures),
        pseudo_labels=(
            pseudo_section(pseudo_labels, images, pictures=_PSEUDO_PICTURES)
            if pseudo_labels
            else None
        ),
        eigenvectors=(
            eigenvector_pictures(
                eigenvectors, results, images=images, truth=truth, count=_EIGEN_PICTURES
            )
            if eigenvectors
            else []
        ),
    )


def page(
    benchmark: str,
    sections: list[SplitSection],
    *,
    trained_on: str | None,
    pretrained: Sequence[str],
    contact_sheet: str | None,
    costs: list[Cost],
    scores_of_others: Sequence[str],
) -> Page:
    """Return the page of one benchmark."""
    first = sections[0].results[0]
    return Page(
        benchmark=benchmark,
        trained_on=trained_on,
        pretrained=pretrained,
        seed=first.scores.seed,
        images=len(first.predictions),
        sections=sections,
        contact_sheet=contact_sheet,
        costs=costs,
        scores_of_others=scores_of_others,
    )


def render(content: Page) -> str:
    """Return the HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "shade": _shade}
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(page=content, memory_note=MEMORY_NOTE)


def _bars(results: Sequence[Result]) -> list[tuple[str, Markup]]:
    panels = _PANELS if results[0].split.unseen else _ONE_PANEL
    bars = {name: [_bar(result, name) for result in results] for name, *_ in panels}
    top = shared_top([bar.high for panel in bars.values() for bar in panel])
    return [(title, bar_chart(title, colour, bars[n], top=top)) for n, title, colour in panels]


def _bar(result: Result, name: str) -> Bar:
    row = row_of("", result.scores)
    bounds = row[f"{name}_low"], row[f"{name}_high"]
    return Bar(result.title, result.note, result.kind, row[name], *bounds)


def _matrix(result: Result) -> Matrix:
    chart = heat_map(f"Confusion matrix of {result.title}", result.matrix, result.split)
    found = destinations(result.matrix, result.split, top=_DESTINATIONS)
    return Matrix(result, chart, found)


def _pictures(
    results: Sequence[Result], images: ImageIndex, truth: LabelMaps, count: int
) -> list[Row]:
    split = results[0].split
    return [
        picture_row(
            image_id,
            images.image(image_id),
            split.scored_labels(truth.of(image_id)),
            results,
        )
        for image_id in choose_pictures(truth.ids, class_areas(truth), split, count)
    ]


def _percent(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}"


def _shade(value: float | None) -> str:
    """Return the style of a heat-table cell: white at 0, blue at 1, text that stays readable."""
    if value is None:
        return "background:#f0eee9;color:#77736a"
    start, end = (255, 255, 255), (8, 81, 156)
    red, green, blue = (round(a + (b - a) * value) for a, b in zip(start, end, strict=True))
    return f"background:rgb({red},{green},{blue});color:{'#fff' if value > 0.55 else '#22252b'}"
