"""Published numbers: what the specs print, their marks, and where they are shown beside ours."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from zslib.cli import main
from zslib.metrics import harmonic_mean
from zslib.published import FILE, MEMORY_MARK, MEMORY_NOTE, beside, published, triple
from zslib.report.leaderboard import COLUMNS, FIGURES, METHODS, to_csv

VERIFIED = [  # zs3net §8 (ticks), joem §8 [2ND], cagnet §9, sazs §7 (README), simbaseline §9 [I#20]
    ("zs3net", "voc12", "u2", "miou_unseen", 0.354),
    ("zs3net", "voc12", "u10", "hiou", 0.236),
    ("zs3net", "voc12", "u10", "miou_unseen_restricted", 0.462),
    ("zs3net-gc", "context", "u4", "miou_unseen", 0.291),
    ("zs5net", "context", "u10", "hiou", 0.234),
    ("joem", "voc12", "u4", "miou_unseen", 0.334),
    ("joem", "voc12", "u10", "miou_seen", 0.634),
    ("cagnet", "voc12-spnet", "u5", "hiou", 0.3972),
    ("cagnet-v2", "context-cagnet", "u4", "miou_unseen", 0.1498),
    ("spnet-c", "cocostuff", "u15", "hiou", 0.1398),
    ("sazs", "pascal5i", "fold0", "miou_episodes", 0.627),
    ("sazs", "coco20i", "fold3", "miou_episodes", 0.350),
    ("simbaseline", "voc12-simbaseline", "u5", "miou_unseen", 0.725),
]
FROM_MEMORY = [  # zs3net §8 (no tick), joem §8 [MEM], sazs §7, simbaseline §9 [M]
    ("zs3net", "voc12", "u4", "hiou", 0.344),
    ("zs3net", "voc12", "u2", "pixel_accuracy", 0.927),
    ("zs3net", "context", "u2", "miou_seen", 0.416),
    ("joem", "voc12", "u2", "hiou", 0.531),
    ("joem", "context", "u10", "hiou", 0.205),
    ("joem", "voc12-spnet", "u5", "hiou", 0.459),
    ("sazs-drn", "pascal5i", "fold1", "miou_episodes", 0.603),
    ("simbaseline, learned prompts", "cocostuff-simbaseline", "u15", "hiou", 0.378),
    ("simbaseline+st", "voc12-simbaseline", "u5", "hiou", 0.793),
]


@pytest.mark.parametrize(
    ("row", "status"),
    [(row, "verified") for row in VERIFIED] + [(row, "memory") for row in FROM_MEMORY],
)
def test_a_figure_is_that_of_its_spec_with_its_mark(
    row: tuple[str, str, str, str, float], status: str
) -> None:
    figure = beside(*row[:4])
    assert figure is not None
    assert (figure.value, figure.status) == (row[4], status)
    assert (MEMORY_MARK in figure.percent) == (status == "memory")


def test_every_row_is_a_fraction_with_a_status_and_a_section_and_occurs_once() -> None:
    with FILE.open(encoding="utf-8") as file:
        statuses = Counter(line["status"] for line in csv.DictReader(file))
    assert set(statuses) == {"verified", "memory"}
    assert all(0 <= figure.value <= 1 and "§" in figure.source for figure in published())
    keys = Counter((f.method, f.benchmark, f.split, f.metric, f.source) for f in published())
    assert max(keys.values()) == 1


@pytest.mark.parametrize(
    ("method", "benchmark", "split"),
    [
        ("sazs-drn", "pascal5i", None),
        ("lseg", "coco20i", None),
        ("simbaseline", "cityscapes", None),
        ("joem", "context", None),
        ("csrl", "voc12", "u2"),
        ("spnet", "voc12", "u8"),
    ],
)
def test_whole_rows_that_the_specs_know_from_memory_alone_are_marked(
    method: str, benchmark: str, split: str | None
) -> None:
    found = [
        figure
        for figure in published()
        if (figure.method, figure.benchmark) == (method, benchmark)
        and split in (None, figure.split)
    ]
    assert found
    assert all(figure.status == "memory" for figure in found)


def test_zs3net_section_8_every_hiou_is_the_harmonic_mean_of_its_row() -> None:
    """The spec: to within 0.06 points, as in print; a slip of the pen would be larger."""
    checked = 0
    for figure in published():
        if figure.metric != "hiou" or not figure.source.startswith("zs3net"):
            continue
        row = (figure.method, figure.benchmark, figure.split)
        seen, unseen = beside(*row, "miou_seen"), beside(*row, "miou_unseen")
        assert seen is not None
        assert unseen is not None
        assert math.isclose(figure.value, harmonic_mean(seen.value, unseen.value), abs_tol=6e-4)
        checked += 1
    assert checked == 26  # five splits of two and of three methods, and ZS5Net's one


def test_a_verified_figure_goes_before_one_from_memory() -> None:
    both = {
        figure.status
        for figure in published()
        if (figure.method, figure.split, figure.metric) == ("joem", "u10", "miou_seen")
        and figure.benchmark == "voc12"
    }
    assert both == {"verified", "memory"}
    assert triple("joem", "voc12", "u10") == "63.4 / 22.5 / 33.2"


def test_what_learns_end_to_end_has_the_paper_s_figures_and_what_is_frozen_has_none() -> None:
    assert triple("joem-e2e", "voc12", "u4") == triple("joem", "voc12", "u4")
    assert triple("joem-frozen", "voc12", "u4") == ""
    assert triple("zs3net", "world", "u4") == ""


def test_simbaseline_section_2_3_figures_of_learned_prompts_are_of_another_model() -> None:
    assert triple("simbaseline", "cocostuff-simbaseline", "u15") == ""
    assert triple("simbaseline+st", "cocostuff-simbaseline", "u15") == ""
    assert triple("simbaseline", "voc12-simbaseline", "u5") != "", "one template there, as here"


def test_the_ceiling_stands_beside_every_split() -> None:
    figure = beside("supervised", "voc12", "u6", "miou")
    assert figure is not None
    assert figure.percent == "76.9"


def test_most_methods_of_the_leaderboard_are_in_print() -> None:
    """Names that match none of ours would never be shown."""
    ours = {figure.method for figure in published() if figure.metric in FIGURES} & set(METHODS)
    assert {"spnet", "spnet-c", "zs3net", "zs3net+st", "zs3net-gc", "zs5net"} <= ours
    assert {"cagnet", "cagnet+st", "cagnet-v2", "joem", "simbaseline", "simbaseline+st"} <= ours


def board(path: Path, **row: object) -> Path:
    identity = {"split": "u4", "protocol": "clean", "setting": "inductive", "seed": 0}
    path.write_text(to_csv([{**dict.fromkeys(COLUMNS, 0.5), **identity, **row}]))
    return path


def test_the_leaderboard_shows_them_beside_mean_and_sd(tmp_path: Path) -> None:
    files = [
        board(tmp_path / f"{seed}.csv", benchmark="voc12", method="zs3net", seed=seed, hiou=hiou)
        for seed, hiou in enumerate([0.2, 0.4])
    ]
    files.append(board(tmp_path / "own.csv", benchmark="voc12", method="joem-frozen"))
    result = CliRunner().invoke(main, ["leaderboard", *map(str, files)])
    assert result.exit_code == 0, result.output
    head, _, first, second, *rest = result.output.splitlines()
    assert head.endswith("| published seen / unseen / hIoU |")
    assert "| 30.0 ± 14.1 |" in first
    assert first.endswith(f"| 66.4 / 23.2 / 34.4{MEMORY_MARK} |")
    assert second.endswith("|  |")
    assert rest[:2] == ["", MEMORY_NOTE]


def test_the_leaderboard_of_a_benchmark_of_our_own_has_no_such_column(tmp_path: Path) -> None:
    path = board(tmp_path / "own.csv", benchmark="world", method="zs3net")
    assert "published" not in CliRunner().invoke(main, ["leaderboard", str(path)]).output
