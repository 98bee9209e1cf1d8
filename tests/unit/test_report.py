"""The leaderboard and the report, on a benchmark of six classes and six small pictures."""

import csv
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.report import main
from tests import tiny
from zslib.artifacts.maps import (
    LABELS,
    PREDICTIONS,
    open_label_maps,
    write_pseudo_labels,
)
from zslib.artifacts.store import write_arrays
from zslib.benchmark import Split
from zslib.datasets.decode import checksum
from zslib.datasets.index import ImageEntry, ImageIndex
from zslib.embeddings.table import ClassVectors, save_class_vectors
from zslib.errors import ArtifactError, InputError
from zslib.metrics import CONFUSION, confusion_matrix, harmonic_mean, marginals, scores
from zslib.params.backbone import EncoderParams
from zslib.params.benchmark import BenchmarkParams
from zslib.params.sazs import SazsModel
from zslib.report import aggregate, leaderboard_rows, read_leaderboard
from zslib.report.build import Inputs, build
from zslib.report.calibration import Plane
from zslib.report.leaderboard import COLUMNS, METHODS, is_fused, read_scores, to_csv
from zslib.report.matrices import colours, destinations, row_normalised
from zslib.report.pictures import Row, Tile, choose_pictures, class_areas, picture_colours
from zslib.report.pretraining import Beginnings
from zslib.report.results import Result, load_results
from zslib.report.svg import shared_top
from zslib.report.tables import read_costs, score_lines
from zslib.report.trends import Style, spread, trend_charts, trends, unseen_count

ROOT = Path(__file__).parents[2]
CLASSES = ("background", "cat", "dog", "<cow> & calf", "sheep", "horse")
UNSEEN = ("<cow> & calf", "horse")
DESIGN_COLUMNS = (
    "benchmark, split, method, protocol, setting, seed, miou_seen, miou_unseen, hiou, miou, "
    "pixel_accuracy, mean_accuracy, fwiou"
)
ROWS = (
    ("spnet", "clean"),
    ("spnet-c", "clean"),
    ("zs3net", "clean"),
    ("zs3net", "official"),
    ("supervised", "clean"),
)
CURVES = {
    "candidates": [0.1, 1.0, 10.0],
    "hiou": [[0.1, 0.4, 0.2], [0.2, 0.3, 0.1]],
    "held_out": [["cat"], ["dog"]],
    "chosen": 1.0,
}
CHOICES = {("zs3net", "clean"): {"unseen_weight": CURVES}, ("spnet-c", "clean"): {"gamma": CURVES}}
SPLIT = Split.named("u2", CLASSES, unseen=UNSEEN, void=())
SEEN_ONLY = SazsModel(architecture="seen_only")
BEGINNINGS = Beginnings(EncoderParams(name="resnet101"), SEEN_ONLY, None, None, ())
BENCHMARK = BenchmarkParams(name="toy", classes=list(CLASSES), unseen={"u2": list(UNSEEN)})


DECLARED = {
    f"{split}-{method}-{protocol}.json": method
    for split, method, protocol in itertools.product(
        ("u2", "u4", "u9", "u10", "fold0", "again"), METHODS, ("clean", "official")
    )
}
"""Each score file that a stage writes, and the folder of its evaluation."""


def truth_maps() -> list[np.ndarray]:
    """Six maps; 1 and 3 show class 3 (more of it in 3), 4 shows class 5, one pixel each is void."""
    maps = [np.zeros((20, 24), np.uint8) for _ in range(6)]
    for index, class_id, side in [(0, 1, 6), (1, 3, 5), (2, 2, 7), (3, 3, 9), (4, 5, 8), (5, 4, 4)]:
        maps[index][2 : 2 + side, 3 : 3 + side] = class_id
        maps[index][0, 0] = 255
    return maps


def predicted_maps(truth: list[np.ndarray], errors: int) -> list[np.ndarray]:
    """The truth with `errors` columns of every map set to class 1."""
    predictions = []
    for label_map in truth:
        prediction = np.where(label_map == 255, 0, label_map)
        prediction[:, 3 : 3 + errors] = 1
        predictions.append(prediction.astype(np.uint8))
    return predictions


def score_file(matrix: np.ndarray, method: str, protocol: str, seed: int = 0) -> dict:
    groups = {"seen": SPLIT.seen, "unseen": SPLIT.unseen}
    figures = scores(matrix, **groups)
    return {
        "split": "u2",
        "method": method,
        "protocol": protocol,
        "setting": "transductive" if method.endswith("+st") else "inductive",
        "seed": seed,
        **figures,
        "interval95": {
            name: [0.9 * figures[name], 1.0]
            for name in ("hiou", "miou_seen", "miou_unseen", "miou")
        },
        "protocols": {
            "absent_classes_zero": scores(matrix, **groups, absent="zero"),
            "restricted_to_unseen": {"miou_unseen": 0.625},
            "without_background": figures,
        },
        "class_iou": dict.fromkeys(CLASSES, 0.25) | {"sheep": None},
    }


class Project:
    """A benchmark's folders below `root`, as the stages before `report` leave them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ids = [f"picture{index}" for index in range(6)]
        self.truth = truth_maps()
        self.inputs = Inputs(
            root / "results/toy",
            root / "evaluations/toy",
            root / "curves/toy/calibration",
            root / "artifacts/toy",
            root / "none",
        )

    def write(self) -> None:
        self._write_dataset()
        self.write_curve("spnet", chosen=0.5)
        for errors, (method, protocol) in enumerate(ROWS):
            self.write_result(method, protocol, errors=errors)

    def write_result(
        self, method: str, protocol: str, *, errors: int = 1, seed: int = 0, split: Split = SPLIT
    ) -> Path:
        predictions = predicted_maps(self.truth, errors)
        pairs = zip(self.truth, predictions, strict=True)
        matrices = [confusion_matrix(t, p, len(CLASSES)) for t, p in pairs]
        total = np.sum(matrices, axis=0)
        folder = self.inputs.evaluations / split.name / method / f"{method}-{protocol}"
        arrays = {
            "generalised": total,
            "restricted": total,
            "per_image": np.stack([marginals(m) for m in matrices]),
        }
        meta = split.describe() | {"ids": self.ids, "details": CHOICES.get((method, protocol), {})}
        write_arrays(folder / "confusion.h5", arrays, schema=CONFUSION, meta=meta)
        tiny.write_label_maps(
            folder / "predictions.h5",
            self.ids,
            predictions,
            schema=PREDICTIONS,
            meta=split.describe(),
        )
        path = self.inputs.scores / f"{split.name}-{method}-{protocol}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = score_file(total, method, protocol, seed) | {"split": split.name}
        path.write_text(json.dumps(content))
        return path

    def write_pseudo_labels(
        self, method: str, given: list[np.ndarray], split: Split = SPLIT
    ) -> Path:
        """Pseudo-labels of the first pictures, each pixel of a class with confidence 200/255."""
        path = self.inputs.artifacts / split.name / method / "st/pseudo_labels.h5"
        pairs = [(labels, np.where(labels == 255, 0, 200).astype(np.uint8)) for labels in given]
        sizes = [labels.shape for labels in given]
        write_pseudo_labels(path, self.ids[: len(given)], sizes, pairs, meta=split.describe())
        return path

    def write_curve(self, name: str, split: Split = SPLIT, **changes: object) -> Path:
        """A calibration curve of three strengths, as the stage `sweep` leaves it."""
        values = [(0.0, 0.8, 0.0), (0.5, 0.7, 0.25), (1.0, 0.0, 0.3)]
        points = [
            {"strength": g, "miou_seen": s, "miou_unseen": u, "hiou": harmonic_mean(s, u)}
            for g, s, u in values
        ]
        content = {"split": split.name, "method": name, "seed": 0, "rule": "stacking"}
        content["classes"] = {c: "unseen" if c in UNSEEN else "seen" for c in CLASSES}
        path = self.inputs.calibration / f"{split.name}-{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"chosen": 0.5, "points": points} | changes))
        return path

    def results(self, split: Split = SPLIT) -> list[Result]:
        scores = read_scores(self.inputs.scores, splits=[split.name])
        return load_results(scores, self.inputs.evaluations, split, DECLARED, seed=0)

    def build(
        self, *, pictures: int = 3, seed: int = 0, beginnings: Beginnings = BEGINNINGS
    ) -> tuple[list[dict], str]:
        leaderboard, html = build(
            self.inputs, BENCHMARK, ["u2"], beginnings, DECLARED, seed=seed, pictures=pictures
        )
        return list(csv.DictReader(leaderboard.splitlines())), html

    def _write_dataset(self) -> None:
        folder, entries = self.root / "images", []
        folder.mkdir(parents=True)
        for index, name in enumerate(self.ids):
            path = folder / f"{name}.png"
            Image.new("RGB", (24, 20), (index * 40, 90, 120)).save(path)
            xxh3 = checksum(path.read_bytes())
            entries.append(
                ImageEntry(id=name, role="val", path=path.name, width=24, height=20, xxh3=xxh3)
            )
        artifacts = self.inputs.artifacts
        ImageIndex(root=str(folder), images=tuple(entries)).save(artifacts / "index/images.json")
        tiny.write_label_maps(
            artifacts / "val_labels.h5", self.ids, self.truth, schema=LABELS, meta={}
        )
        rows = np.eye(6, 4, dtype=np.float32) + np.arange(6, dtype=np.float32)[:, None] / 10
        vectors = ClassVectors("word2vec", CLASSES, rows, {})
        save_class_vectors(artifacts / "vectors/word2vec.safetensors", vectors)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    Project(root).write()
    return root


@pytest.fixture
def project(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


# --- leaderboard.csv -----------------------------------------------------------------------------


def test_leaderboard_has_the_columns_of_the_design_first(project):
    header = to_csv(leaderboard_rows(project.inputs.scores)).splitlines()[0]
    assert header.startswith(DESIGN_COLUMNS.replace(" ", ""))
    assert "hiou_low,hiou_high" in header
    assert "miou_unseen_restricted" in header


def test_leaderboard_holds_the_scores_in_the_order_of_the_field(project):
    rows, _ = project.build()
    assert [(row["method"], row["protocol"]) for row in rows] == list(ROWS)
    written = json.loads((project.inputs.scores / "u2-zs3net-official.json").read_text())
    official = rows[3]
    assert official["benchmark"] == "toy"
    assert float(official["hiou"]) == pytest.approx(written["hiou"], abs=1e-6)
    assert float(official["miou_unseen_low"]) == pytest.approx(
        written["interval95"]["miou_unseen"][0], abs=1e-6
    )
    assert float(official["miou_unseen_restricted"]) == 0.625


@pytest.mark.parametrize(
    ("method", "weights", "began"),
    [
        ("zs3net", "none", "none"),
        ("zs3net", "hub", "resnet101 (hub)"),
        ("zs3net", ["/data/a.safetensors", "b.pth"], "a.safetensors, b.pth"),
        ("sazs", "none", "vit (hub)"),
        ("simbaseline+st", "hub", "resnet101s.safetensors + openai/clip"),
    ],
)
def test_zs3net_2_ordinary_imagenet_weights_are_told_as_a_setting_of_their_own(
    method: str, weights: str | list[str], began: str
) -> None:
    beginnings = Beginnings(
        EncoderParams(name="resnet101", weights=weights),
        SazsModel(architecture="vit", encoder=EncoderParams(name="vit", weights="hub")),
        EncoderParams(name="resnet101s", weights=["resnet101s.safetensors"]),
        "openai/clip",
        (),
    )
    assert beginnings.of(method) == began


def test_what_a_row_does_not_use_is_not_its_beginning() -> None:
    """voc12's ViT and CLIP stay in params.yaml where recipe=laptop and a table do without them."""
    unused = EncoderParams(name="vit", weights="hub")
    beginnings = replace(
        BEGINNINGS,
        sazs=SazsModel(architecture="seen_only", encoder=unused),
        clip="openai/clip",
        text_tables=["clip"],
    )
    assert beginnings.of("sazs") == "none"
    assert beginnings.of("simbaseline-queries") == "text vectors 'clip'"


def test_a_clip_that_was_trained_here_and_a_shared_encoder_are_no_other_beginning() -> None:
    assert BEGINNINGS.of("simbaseline") == BEGINNINGS.of("sazs") == "none"


def test_leaderboard_and_page_say_what_networks_began_from(project):
    rows, page = project.build()
    assert {row["pretrained"] for row in rows} == {"none"}
    assert "began from" not in page
    hub = replace(BEGINNINGS, backbone=EncoderParams(name="resnet101", weights="hub"))
    rows, page = project.build(beginnings=hub)
    assert {row["pretrained"] for row in rows} == {"resnet101 (hub)"}
    assert "Networks began from weights of resnet101 (hub)." in page


def test_seeds_and_splits_are_ordered_by_number(tmp_path):
    base = score_file(np.eye(6, dtype=int), "spnet", "clean")
    for split, seed in [("u10", 0), ("u2", 1), ("u2", 0)]:
        path = tmp_path / f"{split}-{seed}.json"
        path.write_text(json.dumps(base | {"split": split, "seed": seed}))
    rows = leaderboard_rows(tmp_path)
    assert [(row["split"], row["seed"]) for row in rows] == [("u2", 0), ("u2", 1), ("u10", 0)]


def test_a_split_that_is_not_wanted_is_left_out_with_a_line(project, caplog):
    other = score_file(np.eye(6, dtype=int), "spnet", "clean") | {"split": "u9"}
    (project.inputs.scores / "u9-spnet-clean.json").write_text(json.dumps(other))
    with caplog.at_level("INFO"):
        rows, _ = project.build()
    assert {row["split"] for row in rows} == {"u2"}
    assert "u9-spnet-clean.json: left out" in caplog.text


def test_reading_a_leaderboard_gives_its_rows_back(project, tmp_path):
    rows = leaderboard_rows(project.inputs.scores)
    path = tmp_path / "leaderboard.csv"
    path.write_text(to_csv(rows))
    again = read_leaderboard(path)
    assert to_csv(again) == path.read_text()
    assert again[0]["hiou"] == pytest.approx(rows[0]["hiou"], abs=1e-6)


def row(seed: int, hiou: float, **other) -> dict:
    identity = {"benchmark": "toy", "split": "u2", "method": "spnet", "protocol": "clean"}
    figures = dict.fromkeys(COLUMNS[6:], 0.5)
    return {**identity, "setting": "inductive", "seed": seed, **figures, "hiou": hiou, **other}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method,hiou\nspnet,0.5\n", "column 'benchmark' is missing"),
        (",".join(COLUMNS) + "\n" + ",".join(["x"] * len(COLUMNS)) + "\n", "is no leaderboard"),
        (to_csv([]), "has no rows"),
        (to_csv([row(0, 0.5)]).rsplit(",", 1)[0] + "\n", "more or fewer cells"),
        (to_csv([row(0, 7.5)]), "hiou is 7.5"),
        (to_csv([row(0, float("nan"))]), "hiou is nan"),
    ],
)
def test_a_file_that_is_no_leaderboard_is_refused(tmp_path, text, said):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"other.csv: .*{said}"):
        read_leaderboard(path)


# --- aggregate -----------------------------------------------------------------------------------


def test_aggregate_gives_mean_and_sample_deviation_over_seeds():
    values = [0.30, 0.36, 0.33]
    table = aggregate([row(seed, value) for seed, value in enumerate(values)])
    expected = f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
    assert expected == "33.0 ± 3.0"
    lines = table.splitlines()
    assert len(lines) == 3
    cells = dict(zip(lines[0].split(" | "), lines[2].split(" | "), strict=True))
    assert cells["hiou"] == expected
    assert cells["seeds"] == "3"


def test_aggregate_keeps_protocols_apart_and_gives_no_deviation_of_one_seed():
    table = aggregate([row(0, 0.4, protocol="official"), row(0, 0.2)])
    clean, official = table.splitlines()[2:]
    assert "| clean | inductive | 1 |" in clean
    assert " 20.0 |" in clean
    assert " 40.0 |" in official
    assert "±" not in table


def test_aggregate_says_which_rows_have_fewer_seeds():
    rows = [row(seed, 0.1 * seed) for seed in (1, 2, 3)]
    rows += [row(seed, 0.1 * seed, method="cagnet") for seed in (1, 3)]
    rows += [row(2, 0.5, method="cagnet", protocol="official")]
    spnet, cagnet, official = (line.split(" | ") for line in aggregate(rows).splitlines()[2:])
    assert [spnet[5], cagnet[5], official[5]] == ["3", "2 of 3", "1 of 3"]
    assert [spnet[8], cagnet[8], official[8]] == ["20.0 ± 10.0", "20.0 ± 14.1", "50.0"]


def test_aggregate_keeps_rows_apart_that_began_from_different_weights():
    rows = [row(seed, 0.2) | {"pretrained": "none"} for seed in (0, 1)]
    assert "pretrained" not in aggregate(rows)
    rows.append(row(0, 0.5) | {"pretrained": "resnet101 (hub)"})
    head, _, own, hub = (line.split(" | ") for line in aggregate(rows).splitlines())
    column = head.index("pretrained")
    assert [line[column] for line in (own, hub)] == ["none", "resnet101 (hub)"]
    assert [line[head.index("seeds")] for line in (own, hub)] == ["2", "1 of 2"]


def test_aggregate_refuses_the_same_run_twice():
    with pytest.raises(InputError, match=r"spnet.*seed 3: occurs twice"):
        aggregate([row(3, 0.4), row(3, 0.4)])


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-20], "is no JSON"),
        (lambda text: "[]", "rerun the stage 'evaluate'"),
        (lambda text: text.replace('"method": "spnet"', '"method": "mine"'), "method 'mine'"),
        (lambda text: text.replace('"hiou"', '"H"'), "hiou"),
        (lambda text: text.replace('"protocol": "clean"', '"protocol": "dirty"'), "protocol"),
        (lambda text: text.replace("restricted_to_unseen", "zsl"), "restricted_to_unseen"),
    ],
    ids=["truncated", "list", "unknown method", "no hIoU", "unknown protocol", "no restricted"],
)
def test_a_bad_score_file_is_refused_by_name(project, change, said):
    path = project.inputs.scores / "u2-spnet-clean.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=f"u2-spnet-clean.json: .*{said}"):
        project.build()


def test_two_files_of_one_row_are_refused(project):
    text = (project.inputs.scores / "u2-spnet-clean.json").read_text()
    (project.inputs.scores / "again-spnet-clean.json").write_text(text)
    with pytest.raises(InputError, match=r"u2-spnet-clean.json: describes the same row as .*again"):
        project.build()


def test_a_result_without_its_evaluation_is_refused(project):
    folder = project.inputs.evaluations / "u2/zs3net/zs3net-clean"
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"zs3net-clean: missing.*rerun the stage 'evaluate'"):
        project.build()


def test_a_result_of_another_seed_is_refused(project):
    project.write_result("spnet", "clean", seed=7)
    with pytest.raises(InputError, match=r"u2-spnet-clean.json: is a result of seed 7"):
        project.build()


def test_a_result_with_other_unseen_classes_is_refused(project):
    other = Split.named("u2", CLASSES, unseen=("cat", "dog"), void=())
    project.write_result("spnet", "clean", split=other)
    with pytest.raises(InputError, match=r"spnet-clean/confusion.h5: was made with other classes"):
        project.build()


def test_a_damaged_matrix_is_refused(project):
    path = project.inputs.evaluations / "u2/spnet/spnet-clean/confusion.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"confusion.h5"):
        project.build()


def test_no_result_at_all_is_refused(project):
    for path in project.inputs.scores.glob("*.json"):
        path.unlink()
    with pytest.raises(InputError, match="results/toy: no score file"):
        project.build()


def test_scores_that_no_stage_writes_are_not_even_read(project, caplog):
    """They may be of another seed, damaged, or describe a row that there is."""
    stale = {"old-spnet-clean.json": "{", "u2-spnet-clean-old.json": "[]"}
    for name, content in stale.items():
        (project.inputs.scores / name).write_text(content)
    project.write_result("spnet", "official", seed=7).rename(
        project.inputs.scores / "u2-spnet-7.json"
    )
    rows, page = project.build()
    assert len(rows) == len(ROWS)
    listed = re.findall(r"<li>(.*?)</li>", page.split("<h2>Not of this run</h2>")[1])
    assert listed == ["old-spnet-clean.json", "u2-spnet-7.json", "u2-spnet-clean-old.json"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert all(name in warning for name in listed)
    assert "\n" not in warning
    for said in (warning, page):
        assert re.search(r"left from other settings or\sother\ssplits,\s(they|and) can stay", said)


def test_an_evaluation_that_no_stage_writes_any_more_is_not_taken_for_its_row(project):
    """As when a row has moved from one stage to another: both folders hold its matrix."""
    folder = project.inputs.evaluations / "u2"
    for name in ("a", "z"):
        shutil.copytree(folder / "spnet", folder / name)
        (folder / name / "spnet-clean/confusion.h5").write_bytes(b"old")
    rows, _ = project.build()
    assert len(rows) == len(ROWS)


def test_a_file_of_another_name_than_its_row_is_refused(project):
    path = project.inputs.scores / "u2-spnet-clean.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": "u3"}))
    benchmark = BENCHMARK.model_copy(update={"unseen": {"u3": list(UNSEEN)}})
    with pytest.raises(InputError, match=r"u3-spnet-clean.json: a file of another name"):
        build(project.inputs, benchmark, ["u3"], BEGINNINGS, DECLARED, seed=0, pictures=1)


# --- the stage -----------------------------------------------------------------------------------


def without_splits(section: dict) -> dict:
    """The parameters with no form of a method trained for any split."""
    empty = {key: [] for key in section if key.endswith("splits")}
    inner = {k: without_splits(v) for k, v in section.items() if isinstance(v, dict)}
    return section | inner | empty


def write_stages(root: Path) -> None:
    """The stages that write the project's scores; JoEm's has a list of splits of its own."""
    stages = {
        method: {
            "matrix": {"split": "${joem.end_to_end_splits}" if method == "joem" else "${splits}"},
            "metrics": [
                {
                    f"results/${{benchmark.name}}/${{item.split}}-{method}-{one}.json": {
                        "cache": False
                    }
                }
                for one in ("clean", "official")
            ],
            "outs": [f"evaluations/${{benchmark.name}}/${{item.split}}/{method}"],
        }
        for method in ("spnet", "spnet-c", "zs3net", "joem", "supervised")
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"index": {"outs": ["index"]}}}))
    (root / "pipelines/all").mkdir(parents=True)
    (root / "pipelines/all/dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


@pytest.fixture
def command(project, monkeypatch, tmp_path):
    """The stage's command, in a project whose params.yaml is of the toy benchmark."""
    params = without_splits(yaml.safe_load((ROOT / "params.yaml").read_text()))
    params |= {"benchmark": BENCHMARK.model_dump(), "splits": ["u2"], "seed": 0}
    params["selection"] = {"held_out": 1, "draws": 1, "candidates_from": "all"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_stages(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.command._die_with_parent", lambda: None)
    folders = {"scores": "results", "evaluations": "evaluations", "artifacts": "artifacts"}
    arguments = [f"--{option}={folder}/toy" for option, folder in folders.items()]
    arguments.append("--calibration=curves/toy/calibration")
    return lambda: CliRunner().invoke(main, [*arguments, "--out", "report"])


def test_the_stage_writes_both_files(command, tmp_path):
    outcome = command()
    assert outcome.exit_code == 0, outcome.output
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "index.html",
        "leaderboard.csv",
    ]
    assert len(read_leaderboard(tmp_path / "report/leaderboard.csv")) == len(ROWS)


def test_a_variant_that_was_switched_off_leaves_the_report(command, project, tmp_path):
    project.write_result("joem", "clean")
    outcome = command()
    assert outcome.exit_code == 0, outcome.output
    rows = read_leaderboard(tmp_path / "report/leaderboard.csv")
    assert "joem" not in {row["method"] for row in rows}
    assert len(rows) == len(ROWS)
    assert "<li>u2-joem-clean.json</li>" in (tmp_path / "report/index.html").read_text()

    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["joem"]["end_to_end_splits"] = ["u2"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert command().exit_code == 0
    rows = read_leaderboard(tmp_path / "report/leaderboard.csv")
    assert "joem" in {row["method"] for row in rows}
    assert "Not of this run" not in (tmp_path / "report/index.html").read_text()


def test_without_stages_the_report_is_refused(command, tmp_path):
    (tmp_path / "dvc.yaml").unlink()
    outcome = command()
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: dvc.yaml: cannot be read")
    assert outcome.stderr.count("\n") == 1


def test_the_stage_refuses_in_one_line_and_leaves_an_old_report(command, project, tmp_path):
    command()
    before = (tmp_path / "report/index.html").read_bytes()
    (project.inputs.scores / "u2-spnet-clean.json").write_text("{")
    outcome = command()
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: results/toy/u2-spnet-clean.json: is no JSON")
    assert outcome.stderr.count("\n") == 1
    assert (tmp_path / "report/index.html").read_bytes() == before


# --- index.html ----------------------------------------------------------------------------------


def test_the_page_refers_to_nothing_outside_itself(project):
    _, html = project.build()
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)["']""", html)
    assert len(targets) > 20
    assert {t.split(":")[0] for t in targets if not t.startswith("#")} == {"data"}
    assert not re.search(r"https?://|@import|url\(|<link|fetch\(|XMLHttp", html)
    anchors = {t[1:] for t in targets if t.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', html))


def test_the_same_inputs_give_the_same_bytes(project, tmp_path):
    first = project.build()
    assert project.build() == first


def test_every_picture_shows_every_method(project):
    _, html = project.build(pictures=3)
    for method, protocol in ROWS:
        name = METHODS[method] + {"official": " (official)"}.get(protocol, "")
        name += " (ceiling)" if method == "supervised" else ""
        assert html.count(f'alt="{name}, picture ') == 3
    assert html.count('alt="Truth, picture ') == 3
    shown = re.findall(r'alt="Image, picture (\w+)"', html)
    assert shown == ["picture3", "picture4", "picture1"]


def test_every_split_has_its_sections_and_all_stand_in_the_overview(project):
    unseen = {"u2": list(UNSEEN), "again": list(UNSEEN)}
    for method, protocol in ROWS:
        project.write_result(method, protocol, split=replace(SPLIT, name="again"))
    benchmark = BENCHMARK.model_copy(update={"unseen": unseen})
    leaderboard, html = build(
        project.inputs, benchmark, ["u2", "again"], BEGINNINGS, DECLARED, seed=0, pictures=1
    )
    lines = list(csv.DictReader(leaderboard.splitlines()))
    assert [line["split"] for line in lines] == ["u2"] * len(ROWS) + ["again"] * len(ROWS)
    assert "All splits" in html
    assert "Percent against K" not in html
    assert html.count("more pictures") == 0
    for split in unseen:
        assert f'id="{split}-confusion"' in html


def test_class_names_are_escaped(project):
    _, html = project.build()
    assert "<cow>" not in html
    assert "&lt;cow&gt; &amp; calf" in html


def test_clean_and_official_stand_in_different_tables(project):
    _, html = project.build()
    tables = re.findall(r'<table class="scores.*?</table>', html, flags=re.DOTALL)
    clean, official = [re.sub(r"<.*?>", "", t) for t in tables]
    assert all(METHODS[method] in clean for method, protocol in ROWS if protocol == "clean")
    assert METHODS["spnet"] not in official
    assert METHODS["zs3net"] in official


def test_the_best_value_is_marked_among_clean_inductive_rows_only(project):
    project.write_result("supervised", "clean", errors=0)
    project.write_result("zs3net", "official", errors=0)
    project.write_result("spnet", "clean", errors=3)
    project.write_result("spnet-c", "clean", errors=1)
    _, html = project.build()
    tables = re.findall(r'<table class="scores.*?</table>', html, flags=re.DOTALL)
    marked = re.findall(
        r'<tr><th scope="row">([^<]*)</th>(?:(?!</tr>).)*class="best"', tables[0], re.S
    )
    assert "SPNet-c" in marked
    assert "Supervised" not in marked
    assert "best" not in tables[1]


def test_what_is_in_print_stands_beside_ours_with_its_mark(project):
    published = BENCHMARK.model_copy(update={"name": "voc12"})
    _, html = build(project.inputs, published, ["u2"], BEGINNINGS, DECLARED, seed=0, pictures=3)
    table = html.split("Beside what is in print")[1].split("</table>")[0]
    assert "from memory: not checked against the paper" in table
    lines = [line for line in table.splitlines() if line.startswith("<tr><th scope")]
    assert [re.findall(r'row">([^<]*)', line)[0].strip() for line in lines] == [
        "SPNet", "ZS3Net", "ZS3Net", "Supervised",
    ]  # fmt: skip
    shown = re.findall(r'interval">([^<]*)', lines[1])
    assert shown == ["72.0", "35.4", "47.5", "68.5†", "92.7†", "81.9†", "\N{EN DASH}"]
    assert "Beside what is in print" not in project.build()[1]


def test_a_transductive_row_is_marked_everywhere_and_never_ranked(project):
    project.write_result("spnet", "clean", errors=3)
    project.write_result("zs3net+st", "clean", errors=0)
    lines = score_lines([r for r in project.results() if r.kind in ("clean", "transductive")])
    best = {line.result.scores.method for line in lines if any(cell.best for cell in line.cells)}
    transductive = next(line for line in lines if line.result.scores.method == "zs3net+st")
    assert all(transductive.cells[2].value > line.cells[2].value for line in lines[:3])
    assert best <= {"spnet", "spnet-c", "zs3net"}
    assert len(best) > 0
    _, html = project.build()
    table = re.search(r'<table class="scores.*?</table>', html, flags=re.DOTALL)[0]
    groups = re.findall(r'<tbody class="(\w+)">(.*?)</tbody>', table, flags=re.DOTALL)
    assert [kind for kind, _ in groups] == ["clean", "transductive", "ceiling"]
    assert "not ranked with the inductive rows" in groups[1][1]
    assert 'class="best"' not in groups[1][1]
    assert html.count(">transductive</text>") == 3
    assert html.count('fill-opacity="0.45"') == 3
    assert html.count('alt="ZS3Net + ST (transductive), picture ') == 3
    assert 'ZS3Net + ST <span class="soft">(transductive)</span>' in html
    assert '<span class="badge transductive">transductive</span></td>' in html


def test_the_page_tells_choices_protocols_and_neighbours(project):
    _, html = project.build()
    assert "ZS3Net: loss weight of unseen classes" in html
    assert html.count("chosen 1<") == 2
    assert "Without background" in html
    assert html.count("<h4>word2vec</h4>") == len(UNSEEN)


def test_a_choice_that_was_none_has_no_curve(project, monkeypatch):
    """Of an imported generator: no draw was held out."""
    none = CURVES | {"hiou": [], "held_out": []}
    monkeypatch.setitem(CHOICES, ("zs3net", "clean"), {"unseen_weight": none})
    project.write_result("zs3net", "clean")
    _, html = project.build()
    assert "ZS3Net: loss weight" not in html
    assert "SPNet-c: calibration gamma" in html


def test_details_of_an_imported_model_are_no_choice(project, monkeypatch):
    imported = {"imported_from": "spnet.pth", "xxh3": "00"}
    monkeypatch.setitem(CHOICES, ("zs3net", "clean"), imported)
    project.write_result("zs3net", "clean")
    _, html = project.build()
    assert "ZS3Net: loss weight" not in html
    assert "SPNet-c: calibration gamma" in html


def test_a_blind_choice_says_so(project, monkeypatch):
    blind = CURVES | {"hiou": [[0.0] * 3] * 2, "note": "cat, dog: <no> pixel"}
    monkeypatch.setitem(CHOICES, ("zs3net", "clean"), {"unseen_weight": blind})
    project.write_result("zs3net", "clean")
    _, html = project.build()
    assert html.count("<b>cat, dog: &lt;no&gt; pixel.</b>") == 1


def test_costs_are_shown_only_where_they_were_measured(project, tmp_path):
    assert "What it cost" not in project.build()[1]
    timings = tmp_path / "none"
    timings.write_text('{"out": "artifacts/toy/index", "seconds": 12.25}\n')
    assert "artifacts/toy/index" in project.build()[1]


def test_costs_are_the_last_entry_of_each_output_of_the_benchmark(tmp_path, caplog):
    entries = [
        ("artifacts/a/x", 9),
        ("artifacts/b/x", 5),
        ("artifacts/a/y", 4),
        ("artifacts/a/x", 3),
    ]
    lines = [json.dumps({"out": out, "seconds": seconds}) for out, seconds in entries]
    path = tmp_path / "timings.jsonl"
    path.write_text("\n".join([*lines, '{"out": "artif']))
    costs = read_costs(path, ["artifacts/a"])
    assert [(c.out, c.seconds) for c in costs] == [("artifacts/a/y", 4), ("artifacts/a/x", 3)]
    assert "timings.jsonl:5: left out" in caplog.text


# --- pseudo-labels -------------------------------------------------------------------------------


def pseudo_maps() -> list[np.ndarray]:
    """Three maps: 3 x 4 pixels of class 3, then 5 x 2 of class 5 and one of 3, then nothing."""
    maps = [np.full((20, 24), 255, np.uint8) for _ in range(3)]
    maps[0][:3, :4] = 3
    maps[1][:5, :2] = 5
    maps[1][10, 10] = 3
    return maps


def test_pseudo_labels_are_counted_and_shown(project):
    project.write_result("zs3net+st", "clean")
    project.write_pseudo_labels("zs3net", pseudo_maps())
    section = re.search(r'id="u2-pseudo".*?</section>', project.build()[1], flags=re.DOTALL)[0]
    cells = re.findall(r'<td>(\d+)<span class="interval">in (\d) images?<', section)
    assert cells == [("13", "2"), ("10", "1")]
    assert f"<td>{100 * 23 / (3 * 20 * 24):.1f} % of the pixels" in section
    shown = re.findall(r'alt="Pseudo-labels, picture (\w+)"', section)
    assert shown == ["picture0", "picture1", "picture2"]
    assert section.count('alt="Confidence, picture ') == 3


def test_without_self_training_there_is_no_section_of_it(project):
    project.write_pseudo_labels("zs3net", pseudo_maps())
    assert "Pseudo-labels" not in project.build()[1]


def test_pseudo_labels_of_other_unseen_classes_are_refused(project):
    project.write_result("zs3net+st", "clean")
    path = project.write_pseudo_labels("zs3net", pseudo_maps())
    path.unlink()
    other = Split.named("u2", CLASSES, unseen=("cat", "dog"), void=())
    project.write_pseudo_labels("zs3net", pseudo_maps(), split=other)
    with pytest.raises(InputError, match=r"st/pseudo_labels.h5: was made with other classes"):
        project.build()


# --- calibration ---------------------------------------------------------------------------------


def calibration_section(html: str) -> str:
    return re.search(r'id="u2-calibration".*?</section>', html, flags=re.DOTALL)[0]


def test_the_calibration_shows_every_strength_and_what_was_chosen(project):
    project.write_curve("joem", rule="apollonius", chosen=1.0)
    section = calibration_section(project.build()[1])
    assert "held-out seen classes chose" in section
    hints = re.findall(r"<title>(.*?)</title>", section)
    assert len(hints) == 6
    assert "SPNet, gamma = 0.5: seen 70.0 %, unseen 25.0 %, hIoU 36.8 %" in hints
    assert 'class="name" text-anchor="start">SPNet, gamma = 0.5</text>' in section
    assert 'class="name" text-anchor="start">JoEm, sigma = 1</text>' in section
    cells = re.sub(r"<.*?>", " ", section[section.index("<tbody>") :]).split()
    assert "SPNet without 80.0 0.0 0.0 SPNet gamma = 0.5 70.0 25.0 36.8" in " ".join(cells)


def test_without_curves_there_is_no_section_of_calibration(project):
    shutil.rmtree(project.inputs.calibration)
    assert "What calibration trades" not in project.build()[1]
    project.write_curve("spnet", split=replace(SPLIT, name="u9"))
    assert "What calibration trades" not in project.build()[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 7}, "curve of spnet, split 'u2': is of another seed"),
        (
            {"classes": dict.fromkeys(CLASSES, "seen")},
            "curve of spnet, split 'u2': .*other classes",
        ),
        ({"method": "mine"}, r"u2-spnet.json: is no calibration curve \(.*method 'mine'"),
        ({"chosen": 0.3}, r"u2-spnet.json: .*0.3 is not on the curve.*rerun the stage 'sweep'"),
        ({"points": []}, r"u2-spnet.json: is no calibration curve"),
    ],
    ids=["seed", "classes", "method", "chosen", "empty"],
)
def test_a_calibration_curve_that_does_not_belong_here_is_refused(project, changes, said):
    project.write_curve("spnet", **changes)
    with pytest.raises(InputError, match=said):
        project.build()


def test_contours_join_points_of_equal_hiou():
    plane = Plane(seen_top=0.8, unseen_top=0.4, right=500)
    contours = [part for part in plane.contours() if part.startswith("<polyline")]
    assert len(contours) == 5
    for level, contour in enumerate(contours, 1):
        for pair in re.search(r'points="([^"]*)"', contour)[1].split():
            x, y = map(float, pair.split(","))
            seen = (x - plane.left) / (plane.right - plane.left) * plane.seen_top
            unseen = (plane.lower - y) / (plane.lower - plane.upper) * plane.unseen_top
            assert unseen <= plane.unseen_top + 1e-3
            assert harmonic_mean(seen, unseen) == pytest.approx(level / 10, abs=1e-3)


# --- figures against K ---------------------------------------------------------------------------


def split_of(name: str) -> Split:
    return replace(SPLIT, name=name)


@pytest.fixture
def several(project):
    """Results of splits u2, u4, u10 and fold0; SPNet-c lacks u4."""
    project.write_result("zs3net+st", "clean")
    for name in ("u4", "u10", "fold0"):
        for method, protocol in [*ROWS, ("zs3net+st", "clean")]:
            if (name, method) != ("u4", "spnet-c"):
                project.write_result(method, protocol, split=split_of(name))
    return [r for name in ("u2", "u4", "u10", "fold0") for r in project.results(split_of(name))]


def test_trends_are_ordered_by_number_and_leave_out_official_rows(several):
    found = {trend.title: trend for trend in trends(several, "hiou")}
    assert list(found) == ["SPNet", "SPNet-c", "ZS3Net", "ZS3Net + ST", "Supervised"]
    assert [k for k, _ in found["ZS3Net"].points] == [2, 4, 10]
    assert [k for k, _ in found["SPNet-c"].points] == [2, 10]
    clean = next(r for r in several if (r.scores.method, r.kind) == ("zs3net", "clean"))
    assert found["ZS3Net"].points[0] == (2, clean.scores.hiou)


def test_the_chart_dashes_transductive_lines_and_names_every_line(several):
    (_, hiou), (_, seen), (_, unseen) = trend_charts(several)
    assert hiou.count('stroke-dasharray="6 4"') == 1
    for title in ("SPNet", "SPNet-c", "ZS3Net", "ZS3Net + ST", "Supervised"):
        assert f'class="name" text-anchor="start">{title}</text>' in hiou
    assert "official" not in hiou
    assert all(f"K = {k}</text>" in chart for k in (2, 4, 10) for chart in (hiou, seen, unseen))


def test_the_overview_shows_the_charts(several, project):
    benchmark = BENCHMARK.model_copy(update={"unseen": {"u2": UNSEEN, "u4": UNSEEN}})
    _, html = build(
        project.inputs, benchmark, ["u2", "u4"], BEGINNINGS, DECLARED, seed=0, pictures=5
    )
    assert html.count(" against K") == 4
    assert html.count("<summary>2 more pictures</summary>") == 2
    shown = [result for result in several if result.split.name in ("u2", "u4")]
    assert html.count('<details class="card">') == len(shown)


def test_one_split_that_tells_its_k_makes_no_chart(several):
    assert trend_charts([r for r in several if r.split.name in ("u4", "fold0")]) == []


@pytest.mark.parametrize(("name", "count"), [("u10", 10), ("fold0", None), ("u2b", None)])
def test_k_is_read_from_names_of_u_and_a_number(name, count):
    assert unseen_count(name) == count


def test_every_method_has_a_line_of_its_own():
    drawn = [method for method in METHODS if not is_fused(method)]
    styles = {
        Style.of(method, "transductive" if method.endswith("+st") else "inductive")
        for method in drawn
    }
    assert len(styles) == len(drawn)


def test_methods_without_a_colour_and_more_variants_than_marks_are_drawn(monkeypatch):
    several = [f"eszsl-{letter}" for letter in "abcdefgh"]
    for method in ("eszsl", "my-net", *several):
        monkeypatch.setitem(METHODS, method, method.upper())
    first, other, *variants = (Style.of(m, "inductive") for m in ("eszsl", "my-net", *several))
    assert {style.colour for style in (first, other, *variants)} == {"#000000"}
    assert first.mark != other.mark
    assert variants[-3].mark == first.mark, "they begin again where there are no more"
    assert len({style.mark for style in (first, other, *variants)}) == 7


def test_a_line_is_dashed_for_its_setting_and_not_for_its_name(project):
    for name in ("u2", "u4"):
        path = project.write_result("zs5net", "clean", split=split_of(name))
        path.write_text(path.read_text().replace('"inductive"', '"transductive"'))
    results = [r for name in ("u2", "u4") for r in project.results(split_of(name))]
    dashed = {trend.title: trend.style.dashed for trend in trends(results, "hiou")}
    assert dashed["ZS5Net"]
    assert not dashed["SPNet"]
    assert not Style.of("zs5net", "inductive").dashed


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10).map(sorted))
def test_names_are_spread_in_order_within_the_chart(places):
    moved = spread(places, gap=10, low=0, high=100)
    assert len(moved) == len(places)
    assert all(0 <= place <= 100 for place in moved)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(moved))


def test_names_with_room_stay_where_they_are():
    assert spread([5, 40, 80], gap=10, low=0, high=100) == [5, 40, 80]


# --- the parts -----------------------------------------------------------------------------------


def test_destinations_name_where_unseen_pixels_went():
    matrix = np.zeros((6, 6), int)
    matrix[3, [1, 3, 5]] = 60, 30, 10
    matrix[0, 0] = 5
    cow, horse = destinations(matrix, SPLIT, top=2)
    assert cow.shares == (("cat", 0.6, False), ("<cow> & calf", 0.3, True))
    assert horse.shares == ()


def test_rows_of_a_confusion_matrix_sum_to_one_and_absent_classes_are_grey():
    matrix = np.array([[3, 1], [0, 0]])
    shares = row_normalised(matrix, [0, 1])
    assert shares[0].tolist() == [0.75, 0.25]
    assert np.isnan(shares[1]).all()
    assert colours(shares)[1].tolist() == [[240, 238, 233]] * 2
    assert colours(np.eye(2))[0].tolist() == [[4, 30, 66], [255, 255, 255]]


def test_pictures_of_unseen_classes_come_first_then_the_others(project):
    truth = open_label_maps(project.inputs.artifacts / "val_labels.h5", schema=LABELS)
    chosen = choose_pictures(truth.ids, class_areas(truth), SPLIT, 6)
    assert chosen == [f"picture{index}" for index in (3, 4, 1, 0, 2, 5)]


def test_classes_of_one_picture_differ_in_colour():
    many = Split.named("u2", [f"c{i}" for i in range(60)], unseen=["c3", "c50"], void=())
    found = picture_colours([3, 50, 0, 13, 26, 39, 52, 7], many)
    assert len(set(found.values())) == 8
    assert picture_colours([50], many)[50] == found[50]


@pytest.mark.parametrize(("tiles", "columns"), [(3, 3), (7, 7), (8, 4), (13, 7), (15, 5)])
def test_tiles_wrap_into_lines_of_about_equal_length(tiles, columns):
    assert Row("a", (Tile("Image", "", ""),) * tiles, (), ()).columns == columns


def test_axes_end_above_every_value():
    assert shared_top([0.31, 0.62]) == pytest.approx(0.7)
    assert shared_top([0.3]) == pytest.approx(0.3)
    assert shared_top([0.0]) == pytest.approx(0.2)


def test_the_report_needs_no_torch():
    code = "import stages.report, zslib.report.build, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
