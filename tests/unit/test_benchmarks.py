"""Each benchmark runs at a tiny size and reports what it promises. No time is ever asserted."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import (
    NAMES,
    __main__,
    cagnet,
    confusion,
    eigenvectors,
    extraction,
    generator,
    graphs,
    pseudo_labels,
    regions,
    sampling,
    training,
)
from benchmarks.material import published_params, world_params
from benchmarks.measure import Goal, Result, run_in_own_process, time_side_by_side
from tests import tiny
from tests.unit.tiny_clip import TRAINING
from zslib.params import Params


def contestants(result: Result) -> list[str]:
    return list(result.seconds)


def assert_complete(result: Result, *, repeats: int) -> None:
    assert result.reference in result.seconds
    for name, seconds in result.seconds.items():
        assert len(seconds) == repeats
        assert all(taken > 0 for taken in seconds)
        assert name in result.table()


# --- measuring -----------------------------------------------------------------------------------


def test_contestants_take_turns_on_inputs_of_their_own():
    inputs, runs = iter(range(100)), []
    timed = time_side_by_side(
        {
            "a": lambda given: runs.append(("a", given)),
            "b": lambda given: runs.append(("b", given)),
        },
        lambda: next(inputs),
        repeats=2,
    )
    assert [given for _, given in runs] == list(range(6))
    assert [name for name, _ in runs] == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(seconds) for name, seconds in timed.items()} == {"a": 2, "b": 2}


@pytest.fixture
def result() -> Result:
    return Result(
        "a race",
        {"laps": 3},
        {"hare": [1.0, 2.0, 9.0], "tortoise": [2.0, 6.0, 9.0]},
        reference="hare",
        amount=10,
        unit="laps",
        goal=Goal("tortoise", 1.5, "within 1.5x of the hare"),
        notes={"spectators": 12},
    )


def test_ratios_are_taken_round_by_round(result):
    assert result.ratios("tortoise") == [2.0, 3.0, 1.0]
    row = result.as_json()["rows"]["tortoise"]
    assert row["ratio"] == 2.0  # the ratio of the medians would be 3
    assert row["ratio_range"] == [1.0, 3.0]
    assert row["median_seconds"] == 6.0
    assert row["laps_per_second"] == pytest.approx(10 / 6)


def test_a_table_shows_sizes_medians_ratios_notes_and_the_goal(result):
    table = result.table()
    for text in ("a race", "laps 3", "6.00 s", "1.67", "2.00 (1.00 to 3.00)", "spectators: 12"):
        assert text in table
    assert "within 1.5x of the hare: missed (2.00)" in table


# --- the benchmarks ------------------------------------------------------------------------------


def test_sampling():
    (result,) = sampling.measure(images=6, rows_per_image=8, dimension=4, rows=32, repeats=2)
    assert_complete(result, repeats=2)
    assert len(contestants(result)) == 5
    assert result.sizes["bank rows"] == 48
    assert "within 2x of np.memmap" in result.table()


def test_every_way_to_sample_is_checked_against_the_others():
    ways = {"right": lambda rows: rows * 2.0, "wrong": lambda rows: rows * 3.0}
    with pytest.raises(AssertionError):
        sampling.refuse_disagreement(ways, np.arange(3))


def test_confusion():
    results = confusion.measure(side=20, class_counts=(3, 5), repeats=2)
    assert [result.title.split(":")[1].split()[0] for result in results] == ["3", "5"]
    for result in results:
        assert_complete(result, repeats=2)
        assert {"zslib", "torchmetrics", "scikit-learn"} <= set(contestants(result))


def test_drawn_maps_hold_void_and_every_kind_of_class():
    labels, predictions = confusion.draw_maps(200, 5, np.random.default_rng(0))
    assert labels.shape == predictions.shape == (200, 200)
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 255}
    assert set(np.unique(predictions)) == {0, 1, 2, 3, 4}


def test_generator():
    (result,) = generator.measure(
        model=tiny.deeplab(), side=32, batch=2, images=3, steps=2, steps_per_pass=4, repeats=2
    )
    assert_complete(result, repeats=2)
    cached, whole, shared = result.seconds.values()
    assert shared == pytest.approx([(w + 3 * c) / 4 for c, w in zip(cached, whole, strict=True)])
    assert {"batch", "side", "dimension", "rows"} <= set(result.sizes)


def test_cagnet(tmp_path):
    published = published_params(tmp_path).cagnet.step1
    sizes = {"context_channels": 4, "generator_hidden": [8], "generator_dropout": [0.0]}
    networks = published.networks.model_copy(update=sizes | {"shared_hidden": 8})
    small = {"networks": networks, "batch_size": 2, "crop": 8, "rows": 20}
    (result,) = cagnet.measure(
        model=tiny.deeplab(), params=published.model_copy(update=small), images=3, repeats=2
    )
    assert_complete(result, repeats=2)
    assert contestants(result) == [cagnet.ROWS, cagnet.MAPS, cagnet.BACKBONE]
    assert result.sizes["crop"] == "8 cells"
    peaks = list(result.notes.values())
    assert peaks[0] > 0
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("method", list(training.METHODS))
def test_training(method, tmp_path):
    params = world_params(tmp_path)
    backbone = params.backbone.model_copy(update={"model": tiny.deeplab()})
    params = params.model_copy(update={"backbone": backbone, **few_updates(params)})
    (result,) = training.measure(only=method, params=params, images=20, steps=2, repeats=2)
    assert_complete(result, repeats=2)
    assert result.title == f"training: {method}"
    assert contestants(result) == [training.CACHE, training.BACKBONE]
    before, after, whole, behind = result.notes.values()
    assert 0 < before <= after
    assert whole > 0
    assert behind == pytest.approx(3 * np.median(result.seconds[training.BACKBONE]))


def test_a_training_too_long_to_be_timed_is_multiplied(tmp_path):
    params = world_params(tmp_path)
    params = params.model_copy(update=few_updates(params))
    (result,) = training.measure(
        only="ZS3Net's generator", params=params, images=20, steps=2, whole=False
    )
    for way, note in zip(result.seconds, list(result.notes)[2:], strict=True):
        assert way in note
        assert result.notes[note] == pytest.approx(3 * np.median(result.seconds[way]))


def few_updates(params: Params) -> dict[str, object]:
    """Whole trainings of three updates."""

    def shortened(section):
        return section.model_copy(update={"steps": 3})

    graph = params.zs3net.graph
    graph = graph.model_copy(update={"generator": shortened(graph.generator)})
    generator = shortened(params.zs3net.generator)
    zs3net = params.zs3net.model_copy(update={"generator": generator, "graph": graph})
    step1, step2 = shortened(params.cagnet.step1), shortened(params.cagnet.step2)
    cagnet = params.cagnet.model_copy(update={"step1": step1, "step2": step2})
    return {"zs3net": zs3net, "cagnet": cagnet}


def test_extraction():
    (result,) = extraction.measure(
        model=tiny.deeplab(), images=3, short_side=32, batch=2, compute=tiny.CPU, repeats=1
    )
    assert_complete(result, repeats=1)
    assert contestants(result) == ["bare forward", "pixel bank", "dense maps"]
    assert result.sizes["rows of the dense maps"] == 3 * 8 * 11  # views of 42x32 at stride 4
    before, after = result.notes.values()
    assert 0 < before <= after
    assert "90 %" in result.table()


def test_graphs():
    (result,) = graphs.measure(side=12, objects=2, repeats=2)
    assert_complete(result, repeats=2)
    assert len(contestants(result)) == 3


def test_graphs_that_differ_are_refused():
    ways = {"right": graphs.ours, "wrong": lambda label_map: (graphs.ours(label_map)[0], set())}
    with pytest.raises(AssertionError):
        graphs.refuse_disagreement(ways, np.eye(3, dtype=np.uint8))


def test_eigenvectors_as_published_of_a_laplacian_that_rounding_leaves_singular() -> None:
    """A path's pivots are all 1, and the last is 0."""
    path = np.eye(12, k=1, dtype=np.float32) + np.eye(12, k=-1, dtype=np.float32)
    exact, roots = eigenvectors.dense(path), np.sqrt(path.sum(axis=1))
    assert eigenvectors.subspace_error(eigenvectors.published(path), exact, roots) < 1e-4


def test_eigenvectors():
    graph, many = eigenvectors.measure(sides=(8,), pooled=(6,), dimension=12, images=2, repeats=1)
    assert_complete(graph, repeats=1)
    assert_complete(many, repeats=1)
    assert len(contestants(graph)) == 4
    assert max(graph.notes.values()) <= 100  # millionths


def test_solvers_that_are_off_are_found_out(monkeypatch):
    monkeypatch.setattr(eigenvectors, "ours", lambda affinity: np.eye(5, len(affinity)))
    with pytest.raises(AssertionError, match="subspace error of zslib"):
        eigenvectors.measure(sides=(8,), pooled=(), dimension=12, repeats=1)


def test_regions():
    encoding, sweeping = regions.measure(
        training=TRAINING, images=2, queries=4, side=24, prompts=2, repeats=2
    )
    assert_complete(encoding, repeats=2)
    assert_complete(sweeping, repeats=2)
    assert len(contestants(encoding)) == 3
    assert sweeping.sizes["prompts"] == 2


def test_pseudo_labels():
    results = pseudo_labels.measure(width=24, height=20, classes=5, unseen=2, repeats=2)
    assert [len(contestants(result)) for result in results] == [3, 3]
    for result in results:
        assert_complete(result, repeats=2)
        assert "zslib" in contestants(result)


def test_every_way_to_choose_pixels_is_checked_against_the_others():
    logits = pseudo_labels.draw_logits(5, 20, 24, np.random.default_rng(0))
    ways = pseudo_labels.ways_to_rank((3, 4))
    pseudo_labels.refuse_disagreement(ways, logits)
    with pytest.raises(AssertionError):
        pseudo_labels.refuse_disagreement(
            ways | {"wrong": lambda given: [given.argmin(0).numpy()] * 3}, logits
        )


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_tables_and_writes_json(result, monkeypatch, tmp_path):
    asked = []

    def instead(name: str, options: dict[str, int]) -> list[Result]:
        asked.append((name, options))
        return [result]

    monkeypatch.setattr(__main__, "run_in_own_process", instead)
    out = tmp_path / "new" / "bench.json"
    run = CliRunner().invoke(__main__.main, ["--json", str(out), "--repeats", "7"])
    assert run.exit_code == 0, run.output
    assert asked == [(name, {"repeats": 7}) for name in NAMES]
    assert run.output.count("a race") == len(NAMES)
    written = json.loads(out.read_text())
    assert written["machine"]["cores"] >= 1
    assert "torch" in written["machine"]
    assert set(written["benchmarks"]) == set(NAMES)


def test_a_benchmark_comes_back_from_a_process_of_its_own():
    options = {"images": 2, "rows_per_image": 4, "dimension": 2, "rows": 3, "repeats": 1}
    (result,) = run_in_own_process("sampling", options)
    assert_complete(result, repeats=1)


def test_every_benchmark_is_on_the_list():
    files = {path.stem for path in Path(sampling.__file__).parent.glob("*.py")}
    assert files - {"__init__", "__main__", "measure", "material"} == set(NAMES)
