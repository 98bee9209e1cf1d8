"""From a benchmark's folders to the two files of the report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zslib.artifacts.maps import LabelMaps, open_labels
from zslib.benchmark import Split
from zslib.datasets.index import ImageIndex
from zslib.embeddings.table import load_class_vectors
from zslib.errors import InputError
from zslib.params.benchmark import BenchmarkParams
from zslib.report.calibration import calibration_of, read_curves
from zslib.report.eigenvectors import load_eigenvectors
from zslib.report.leaderboard import read_scores, row_of, to_csv
from zslib.report.page import page, render, split_section
from zslib.report.pictures import jpeg_uri
from zslib.report.pretraining import Beginnings
from zslib.report.pseudo import load_pseudo_labels
from zslib.report.results import choices_of, load_results
from zslib.report.tables import read_costs

_log = logging.getLogger(__name__)

_WORLD = "world"
_SHEET = {"columns": 3, "rows": 4}


@dataclass(frozen=True)
class Inputs:
    """Where a benchmark's results lie."""

    scores: Path
    evaluations: Path
    calibration: Path | None
    """Curves of the stages `sweep`."""
    artifacts: Path
    timings: Path
    """The stages' seconds; the table of costs is left out where the file is missing."""


def build(
    inputs: Inputs,
    benchmark: BenchmarkParams,
    splits: Sequence[str],
    beginnings: Beginnings,
    declared: Mapping[str, str],
    *,
    seed: int,
    pictures: int,
) -> tuple[str, str]:
    """Return leaderboard.csv and index.html as text.

    `declared` is of `zslib.report.declared`. Score files that it lacks are in no table: the page lists
    their names. To refuse them would be to refuse whoever has switched a variant off.

    Raises:
        InputError: results are missing, malformed, or do not belong together.
        ArtifactError: an artifact is damaged.
    """
    others = _others(inputs.scores, declared)
    scores = read_scores(inputs.scores, splits=splits, others=others)
    images = ImageIndex.load(inputs.artifacts / "index/images.json")
    truth = open_labels(inputs.artifacts / "val_labels.h5")
    curves = read_curves(inputs.calibration) if inputs.calibration else []
    vectors = [
        load_class_vectors(path)
        for path in sorted((inputs.artifacts / "vectors").glob("*.safetensors"))
    ]
    sections = []
    for name in splits:
        split = Split.named(
            name, benchmark.classes, unseen=benchmark.unseen_in(name), void=benchmark.void
        )
        results = load_results(scores, inputs.evaluations, split, declared, seed=seed)
        _check_images(truth, [result.predictions for result in results], inputs.evaluations)
        section = split_section(
            results,
            choices_of(results),
            calibration_of(curves, split, seed=seed),
            vectors,
            benchmark=benchmark.name,
            images=images,
            truth=truth,
            pseudo_labels=load_pseudo_labels(results, inputs.artifacts),
            eigenvectors=load_eigenvectors(results, inputs.artifacts),
            pictures=pictures,
        )
        sections.append(section)
    content = page(
        benchmark.name,
        sections,
        trained_on=benchmark.trained_on,
        pretrained=sorted({beginnings.of(one.method) for one in scores}),
        contact_sheet=_contact_sheet(images) if benchmark.name == _WORLD else None,
        costs=read_costs(inputs.timings, _outputs_of(benchmark.name)),
        scores_of_others=others,
    )
    rows = [
        row_of(benchmark.name, one) | {"pretrained": beginnings.of(one.method)} for one in scores
    ]
    return to_csv(rows), render(content)


def _others(scores: Path, declared: Mapping[str, str]) -> list[str]:
    """Return the names of the score files that no stage in force writes, and warn of them."""
    names = sorted(path.name for path in scores.glob("*.json") if path.name not in declared)
    if names:
        _log.warning(
            "%s: left out, since no stage in force writes it: %s; left from other settings or other "
            "splits, they can stay",
            scores,
            ", ".join(names),
        )
    return names


def _check_images(truth: LabelMaps, predictions: Sequence[LabelMaps], folder: Path) -> None:
    if any(set(maps.ids) != set(truth.ids) for maps in predictions):
        raise InputError(
            f"{folder}: the predictions are not of the images in val_labels.h5; "
            "rerun the evaluate stages (dvc repro)"
        )


def _contact_sheet(images: ImageIndex) -> str:
    from zslib.datasets.world.sheet import contact_sheet

    return jpeg_uri(contact_sheet(Path(images.root), **_SHEET), quality=85)


def _outputs_of(benchmark: str) -> list[str]:
    world = [f"data/{_WORLD}"] if benchmark == _WORLD else []
    return [*world, f"artifacts/{benchmark}", f"evaluations/{benchmark}"]
