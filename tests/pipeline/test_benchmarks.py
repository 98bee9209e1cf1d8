"""Every benchmark of conf/ is the one that its specification describes, and DVC can build its graph."""

import functools
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

from tests.pipeline.trivial import Project
from tools.compose_params import PROJECT, compose
from zslib.benchmark import Split
from zslib.datasets.context import CONTEXT_33, CONTEXT_CLASSES
from zslib.errors import InputError
from zslib.methods.simbaseline.criterion import targets
from zslib.params import Params, load_params
from zslib.params.backbone import FeatureParams
from zslib.params.benchmark import BenchmarkParams

BENCHMARKS = sorted(path.stem for path in (PROJECT / "conf" / "benchmark").glob("*.yaml"))
TARGETS = {"ade20k": 150, "cityscapes": 19, "context59": 59}
COCO_UNSEEN = [20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171]
COCO_EMPTY = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]


@functools.cache
def params_of(benchmark: str) -> Params:
    """What a benchmark composes into, checked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        compose(path, f"benchmark={benchmark}")
        return load_params(path)


def split_of(benchmark: str) -> Split:
    """The only split of a benchmark."""
    params = params_of(benchmark)
    (name,) = params.splits
    described = params.benchmark
    unseen = described.unseen[name]
    return Split.named(name, described.classes, unseen=unseen, void=described.void)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_benchmark_is_named_after_its_file(benchmark: str) -> None:
    params = params_of(benchmark)
    assert params.benchmark.name == benchmark
    assert len(params.benchmark.classes) <= 255, "255 is void"


# --- who is seen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("benchmark", "seen", "unseen"),
    [
        ("voc12-spnet", 15, [16, 17, 18, 19, 20]),  # spnet §1.1
        ("voc12-simbaseline", 15, [16, 17, 18, 19, 20]),  # simbaseline §1.2
        ("context-cagnet", 29, [8, 10, 14, 18]),  # cagnet §1
        ("cocostuff", 167, COCO_UNSEEN),  # cagnet §1, spnet §1.2
        ("cocostuff-simbaseline", 156, COCO_UNSEEN),  # simbaseline §1.1
    ],
)
def test_seen_and_unseen_classes(benchmark: str, seen: int, unseen: list[int]) -> None:
    split = split_of(benchmark)
    assert len(split.seen) == seen
    assert list(split.unseen) == unseen


@pytest.mark.parametrize("benchmark", ["voc12", "context"])
def test_zs3net_section_1_3_splits_are_nested(benchmark: str) -> None:
    unseen = params_of(benchmark).benchmark.unseen
    for smaller, larger in [(2, 4), (4, 6), (6, 8), (8, 10)]:
        assert len(unseen[f"u{larger}"]) == larger
        assert set(unseen[f"u{smaller}"]) < set(unseen[f"u{larger}"])


@pytest.mark.parametrize(
    ("benchmark", "raw_ids"),
    [
        ("voc12-spnet", [13, 14, 15]),  # spnet §1.1
        ("cocostuff", [3, 21, 38, 45, 51, 61, 75, 81, 93, 129, 136, 139]),  # spnet §1.2
    ],
)
def test_free_choices_are_made_with_the_published_classes(
    benchmark: str, raw_ids: list[int]
) -> None:
    params = params_of(benchmark)
    names = [params.benchmark.classes[c] for c in raw_ids]
    assert params.selection.candidates_from == names
    assert params.selection.held_out == len(names)


@pytest.mark.parametrize(
    ("benchmark", "train", "val"),
    [
        ("voc12-spnet", 10582, 1449),  # spnet §1.1
        ("context-cagnet", 4998, 5105),  # cagnet §1
        ("cocostuff", 118287, 5000),  # spnet §1.2
        ("ade20k", 0, 2000),
        ("cityscapes", 0, 500),
    ],
)
def test_the_published_numbers_of_images_are_known(benchmark: str, train: int, val: int) -> None:
    assert params_of(benchmark).dataset.published == {"train": train, "val": val}


@pytest.mark.parametrize(("benchmark", "count"), TARGETS.items())
def test_simbaseline_section_1_3_targets_hold_unseen_classes_only(
    benchmark: str, count: int
) -> None:
    params = params_of(benchmark)
    described = params.benchmark
    assert described.unseen == {}
    assert len(set(described.classes) - set(described.void)) == count
    source = params_of(described.trained_on or "")
    assert described.source_splits == source.splits
    assert len(described.unseen_in("u15")) == count
    assert params.splits == params.trained == [], "nothing is trained here"


def test_splits_of_another_benchmark_are_not_merged_in() -> None:
    for benchmark in set(BENCHMARKS) - set(TARGETS):
        params = params_of(benchmark)
        if set(params.splits) <= {"u5", "u15"}:
            assert set(params.benchmark.unseen) == set(params.splits)


# --- label maps ----------------------------------------------------------------------------------


def ranks(labels: np.ndarray, ids: Sequence[int]) -> list[int]:
    """A row of labels as the proposal network is taught it: which of the classes, 255 for none."""
    masks, positions = targets(torch.from_numpy(labels), ids, ignore_void=False)
    found = torch.full(labels.shape, 255)
    for mask, position in zip(masks, positions, strict=True):
        found[mask.bool()] = position
    return found[0].tolist()


def test_simbaseline_check_1_coco_ids_are_ranks_of_stored_values() -> None:
    split = split_of("cocostuff-simbaseline")
    every, base = sorted(split.seen + split.unseen), split.seen
    stored, zebra = np.array([COCO_UNSEEN], np.uint8), np.array([[23]], np.uint8)
    contiguous = [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]
    assert ranks(split.scored_labels(stored), every) == contiguous
    assert ranks(split.seen_labels(stored), base) == [255] * 15
    assert (len(every), len(base)) == (171, 156)
    assert list(split.void) == COCO_EMPTY
    assert split.classes[23] == "zebra"
    assert ranks(split.scored_labels(zebra), every) == [22]
    assert ranks(split.seen_labels(zebra), base) == [21]


def test_simbaseline_check_1_voc_label_maps() -> None:
    split = split_of("voc12-simbaseline")
    stored = np.array([[0, 1, 15, 16, 20, 255]], np.uint8)
    every = sorted(split.seen + split.unseen)
    novel = Split.from_ids("novel", split.classes, split.seen, split.void)  # the other way round
    assert ranks(split.scored_labels(stored), every) == [255, 0, 14, 15, 19, 255]
    assert ranks(split.seen_labels(stored), split.seen) == [255, 0, 14, 255, 255, 255]
    assert novel.seen == split.unseen
    assert ranks(novel.seen_labels(stored), split.unseen) == [255, 255, 255, 0, 4, 255]


def test_simbaseline_section_1_1_names_are_verbatim() -> None:
    classes = params_of("cocostuff-simbaseline").benchmark.classes
    assert len(classes) == 182
    assert sum("-" in name for name in classes) == 29
    stated = {20: "cow", 99: "cardboard", 144: "playingfield", 171: "wall-concrete"}
    assert {index: classes[index] for index in stated} == stated
    assert [classes[c] for c in COCO_EMPTY] == [
        "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door",
        "blender", "hair brush",
    ]  # fmt: skip


def test_simbaseline_section_1_3_names_of_ade_keep_their_synonyms() -> None:
    classes = params_of("ade20k").benchmark.classes
    stated = {0: "other", 1: "wall", 7: "road, route", 9: "window", 150: "flag"}
    assert {index: classes[index] for index in stated} == stated
    assert all(name == name.strip() for name in classes)


def test_context_classes_are_those_of_the_adapter() -> None:
    for benchmark in ("context", "context59"):
        assert tuple(params_of(benchmark).benchmark.classes) == CONTEXT_CLASSES
    renamed = {"diningtable": "table"}
    classes = params_of("context-cagnet").benchmark.classes
    assert tuple(renamed.get(name, name) for name in classes) == CONTEXT_33


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_maps_are_left_to_learn_from_while_tuning_images_judge(benchmark: str) -> None:
    features = params_of(benchmark).features
    if features.train_maps is not None:
        assert features.train_maps >= 2 * features.tuning_images


def test_released_loops_run_where_they_were_published() -> None:
    """CaGNet's on ZS3Net's splits as well; in the world, ZS3Net's."""
    cagnet = {"voc12-spnet", "context-cagnet", "cocostuff", "voc12", "context"}
    for benchmark in BENCHMARKS:
        params = params_of(benchmark)
        zs3net = params.splits if benchmark in {"voc12", "context", "world"} else []
        assert params.zs3net.official_splits == zs3net, benchmark
        expected = params.splits if benchmark in cagnet else []
        assert params.cagnet.official_splits == expected, benchmark


@pytest.mark.parametrize("benchmark", ["voc12", "context"])
def test_zs3net_section_1_7_released_networks_are_evaluated_at_513(benchmark: str) -> None:
    params = params_of(benchmark)
    assert params.zs3net.official_short_side == 513
    assert params.zs3net.official.augmentation.crop_size == params.features.short_side == 312


def test_zs3net_section_5_the_released_graph_context_runs_where_it_was_published() -> None:
    for benchmark in BENCHMARKS:
        params = params_of(benchmark)
        expected = params.splits if benchmark == "context" else []
        assert params.zs3net.graph.official_splits == expected, benchmark
    context = params_of("context")
    assert context.splits == ["u2", "u4", "u6", "u8", "u10"]
    assert context.zs3net.graph.official_epochs == 100


@pytest.mark.parametrize(
    ("benchmark", "boost", "share"),
    [
        ("voc12-spnet", 9, 50 / 65),
        ("context-cagnet", 14, 60 / 89),
        ("cocostuff", 59, 900 / 1067),
    ],
)
def test_cagnet_check_6_synthetic_prior(benchmark: str, boost: float, share: float) -> None:
    (found,) = params_of(benchmark).cagnet.official.step2.unseen_boosts
    split = split_of(benchmark)
    unseen = len(split.unseen) * (1 + found)
    assert found == boost
    assert unseen / (unseen + len(split.seen)) == pytest.approx(share)


@pytest.mark.parametrize(
    ("benchmark", "steps", "lr", "start", "every", "factor"),
    [
        ("voc12-spnet", 6000, 5e-5, 3000, 1000, 0.1),
        ("context-cagnet", 10000, 5e-5, 5000, 1000, 0.3),
        ("cocostuff", 6000, 1e-5, 3000, 2000, 0.3),
    ],
)
def test_cagnet_section_5_second_phase(
    benchmark: str, steps: int, lr: float, start: int, every: int, factor: float
) -> None:
    cagnet = params_of(benchmark).cagnet
    for step2 in (cagnet.step2, cagnet.official.step2):
        assert step2.steps == steps
        for player in (step2.generator, step2.discriminator):
            assert player.lr == lr
            assert player.decay is not None
            assert player.decay.model_dump() == {"start": start, "every": every, "factor": factor}


@pytest.mark.parametrize(("benchmark", "steps"), [("voc12-spnet", 20000), ("cocostuff", 100000)])
def test_spnet_section_5_schedule(benchmark: str, steps: int) -> None:
    params = params_of(benchmark)
    assert params.spnet.end_to_end.steps == steps
    assert params.dataset.published is not None
    epochs = steps * params.backbone.batch_size / params.dataset.published["train"]
    assert params.backbone.epochs == pytest.approx(epochs, abs=0.5)


@pytest.mark.parametrize(
    ("benchmark", "steps", "batch_size", "crop_size", "long_side", "weight"),
    [
        ("voc12-simbaseline", 20000, 16, 512, 2048, 0.7),
        ("cocostuff-simbaseline", 60000, 32, 640, 2560, 0.8),
    ],
)
def test_simbaseline_section_2_3_schedule(
    benchmark: str, steps: int, batch_size: int, crop_size: int, long_side: int, weight: float
) -> None:
    simbaseline = params_of(benchmark).simbaseline
    training = simbaseline.proposals.training
    assert (training.steps, training.batch_size) == (steps, batch_size)
    assert training.augmentation.crop_size == crop_size
    assert training.augmentation.short_sides == list(range(320, 961, 64))
    assert simbaseline.test.short_sides == [crop_size]
    assert training.augmentation.long_side == simbaseline.test.long_side == long_side
    assert simbaseline.official.weight == weight


@pytest.mark.parametrize("benchmark", ["voc12-simbaseline", "cocostuff-simbaseline"])
def test_simbaseline_section_4_prompts_as_released(benchmark: str, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", f"benchmark={benchmark}", "+simbaseline=released")
    released = load_params(tmp_path / "params.yaml").vision_language.prompts
    assert (released.size, released.fill_stage) == ((244, 224), "normalised")
    assert released.lose_edge
    corrected = {"size": None, "fill_stage": "raw", "lose_edge": False}
    ours = params_of(benchmark).vision_language.prompts
    assert ours == released.model_copy(update=corrected), "nothing else differs"


@pytest.mark.parametrize(
    ("benchmark", "short_side", "weight"),
    [("ade20k", 512, 0.5), ("cityscapes", 1024, 0.4), ("context59", 512, 0.4)],
)
def test_simbaseline_section_3_targets(benchmark: str, short_side: int, weight: float) -> None:
    params = params_of(benchmark)
    source = params_of(params.benchmark.trained_on or "")
    assert params.simbaseline.test.short_sides == [short_side]
    assert params.simbaseline.official.weight == weight
    assert params.simbaseline.clean == source.simbaseline.clean, "nothing is tuned on a target"
    assert params.vision_language.regions == source.vision_language.regions


# --- what a wrong benchmark says -----------------------------------------------------------------


@pytest.mark.parametrize("train_maps", [1, 200])
def test_maps_of_tuning_images_alone_are_refused(train_maps: int) -> None:
    with pytest.raises(ValueError, match=r"train_maps must be more than tuning_images \(200\)"):
        FeatureParams(train_maps=train_maps, tuning_images=200)


def test_a_class_is_not_unseen_and_void() -> None:
    with pytest.raises(ValueError, match="u1: void as well: sky"):
        BenchmarkParams(name="x", classes=["sky", "cow"], void=["sky"], unseen={"u1": ["sky"]})


def test_a_target_has_no_splits_of_its_own() -> None:
    with pytest.raises(ValueError, match="leave it empty with trained_on"):
        BenchmarkParams(name="x", classes=["sky", "cow"], unseen={"u": ["cow"]}, trained_on="world")


def test_a_target_names_the_split_it_is_tried_with() -> None:
    with pytest.raises(ValueError, match="source_splits: name one split with trained_on"):
        BenchmarkParams(name="x", classes=["sky", "cow"], unseen={}, trained_on="world")


@pytest.mark.parametrize("key", ["splits", "trained"])
def test_nothing_is_trained_on_a_target(key: str, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", "benchmark=ade20k", f"{key}=[u15]")
    with pytest.raises(InputError, match=f"{key}: empty with benchmark.trained_on"):
        load_params(tmp_path / "params.yaml")


# --- DVC's graph ---------------------------------------------------------------------------------


def stages_of(folder: Path, benchmark: str, *overrides: str) -> dict[str, Any]:
    """DVC's stages of a benchmark in a copy of the pipeline files, by their addresses."""
    shutil.copy(PROJECT / "dvc.yaml", folder)
    shutil.copytree(PROJECT / "pipelines", folder / "pipelines")
    compose(folder / "params.yaml", f"benchmark={benchmark}", *overrides)
    Repo.init(str(folder), no_scm=True).close()
    with Repo(str(folder)) as repo:
        return {stage.addressing: stage for stage in repo.index.graph}


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tracked files that DVC reads; nothing has ever run."""
    project = Project(tmp_path_factory.mktemp("fresh_clone"))
    for name in project_files("dvc.yaml", "params.yaml", "pipelines", "conf", ".dvc"):
        project.write(name, (PROJECT / name).read_text())
    project.call("git", "init", "--quiet", "--initial-branch", "main")
    project.commit()
    return project


def project_files(*names: str) -> list[str]:
    """What git has under these names."""
    return Project(PROJECT).call("git", "ls-files", *names).splitlines()


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_one_command_shows_all_that_a_benchmark_would_run(
    benchmark: str, fresh_clone: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = fresh_clone.call(
        "dvc", "exp", "run", "-S", f"benchmark={benchmark}", "--dry", "--force"
    )
    names = set(re.findall(r"^Running stage '(.*)':$", shown, re.M))
    monkeypatch.chdir(tmp_path)
    stages = stages_of(tmp_path, benchmark)
    drawn = {"pipelines/world/dvc.yaml:draw"}  # in every graph, and behind nothing but the world
    assert names | drawn == set(stages)
    assert missing_parameters(stages.values()) == set()
    assert fresh_clone.call("git", "status", "--porcelain") == ""


@pytest.mark.parametrize("recipe", ["published", "laptop", "long"])
def test_a_target_has_the_stages_of_cross_dataset_evaluation_alone(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = stages_of(tmp_path, "ade20k", f"recipe={recipe}")
    names = ["source", "text", "learned_text", "proposals", "regions", "evaluate"]
    own = {f"pipelines/cross-dataset/dvc.yaml:{name}@u15" for name in names}
    draws_the_world = "pipelines/world/dvc.yaml:draw"
    shared = {"code", "index", "val_labels", "report_across@u15", draws_the_world}
    assert set(stages) == own | shared
    assert missing_parameters(stages.values()) == set()
    made = {str(out) for stage in stages.values() for out in stage.outs}
    read = {str(dep) for name in own for dep in stages[name].deps}
    taken = {path for path in read - made if path.startswith("artifacts/cocostuff-simbaseline/")}
    assert taken == {
        f"artifacts/cocostuff-simbaseline/{path}"
        for path in (
            "clip/model",
            "u15/simbaseline/network.safetensors",
            "u15/simbaseline/prompts/prompts.safetensors",
        )
    }


def missing_parameters(stages: Iterable[Any]) -> set[str]:
    """The parameters that stages depend on and params.yaml does not have."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    names = {
        name
        for stage in stages
        for dependency in stage.deps
        if isinstance(dependency, ParamsDependency)
        for name in dependency.params
    }
    return {name for name in names if not has(content, name)}


def has(content: dict, name: str) -> bool:
    """Whether a dotted name leads somewhere."""
    for key in name.split("."):
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True
