"""SimBaseline's per-pixel rows: a trained branch, CLIP's windows, both, and their stages (simbaseline §6)."""

import csv
import importlib
import io
import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor, nn

from tests import tiny
from tests.methods.maskformer import ENCODER, embedder, index_of, upsampled
from tests.unit.tiny_clip import tiny_clip
from tools.compose_params import PROJECT, compose
from zslib.artifacts.maps import LABELS, PREDICTIONS, open_label_maps, open_labels
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.index import ImageIndex
from zslib.datasets.views import read_view
from zslib.embeddings.table import load_class_vectors, save_class_vectors
from zslib.methods.simbaseline.extraction import TestImages, pad
from zslib.methods.simbaseline.fcn import PixelEmbedder
from zslib.methods.simbaseline.fcn_segmenters import by_pixels, by_windows, fused, segmenter
from zslib.params import load_params
from zslib.params.simbaseline import ViewParams, WindowParams, WindowScale
from zslib.report.leaderboard import leaderboard_rows
from zslib.segmenters import Segmenter
from zslib.training import SingleProcess
from zslib.vision_language.model import MEAN, STD, VisionLanguageModel
from zslib.vision_language.templates import TEMPLATES
from zslib.vision_language.text import TemplateText

# --- both branches ---------------------------------------------------------------------------------

VIEWS = ViewParams(short_sides=[40], long_side=80)
WINDOWS = WindowParams(scales=[WindowScale(short_side=40, tile=32)], batch_size=8)
ALL_TEXT = tiny.EMBEDDINGS


@pytest.fixture
def shown(tmp_path: Path) -> TestImages:
    index = index_of(tmp_path / "images", tiny.block_maps(2, range(9), side=20))
    return TestImages.of(index, index.ids("val"), VIEWS)


def test_embeddings_are_upsampled_then_normalised_then_told_by_softmax(shown: TestImages) -> None:
    found = embedder()
    probabilities = by_pixels(found, shown, ALL_TEXT, SingleProcess())(1, (40, 40))
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (ENCODER.mean, ENCODER.std))
    seen = pad(((read_view(shown.paths[1], (40, 40)) - mean) / std)[None])
    with torch.no_grad():
        vectors = upsampled(found.network(seen)[0].numpy())[:, :40, :40]
    unit = vectors / np.linalg.norm(vectors, axis=0)
    logits = torch.tensor(100 * np.einsum("dhw,kd->khw", unit, ALL_TEXT.numpy()))
    torch.testing.assert_close(probabilities, logits.softmax(0).float(), atol=1e-3, rtol=1e-2)
    assert probabilities.shape == (9, 40, 40)


def test_windows_say_what_clip_says_averaged_over_scales(shown: TestImages) -> None:
    clip = tiny_clip()
    text = torch.randn(9, clip.dimension, generator=torch.Generator().manual_seed(0))
    larger = TestImages(shown.ids, shown.paths, ((32, 32),) * 2)
    both = WINDOWS.model_copy(
        update={"scales": [*WINDOWS.scales, WindowScale(short_side=32, tile=32)]}
    )
    of_first = by_windows(clip, [shown], text, WINDOWS, SingleProcess())(0, (20, 30))
    second = WINDOWS.model_copy(update={"scales": both.scales[1:]})
    of_second = by_windows(clip, [larger], text, second, SingleProcess())(0, (20, 30))
    of_both = by_windows(clip, [shown, larger], text, both, SingleProcess())(0, (20, 30))
    torch.testing.assert_close(of_both, (of_first + of_second) / 2)
    torch.testing.assert_close(of_both.sum(0), torch.ones(20, 30))
    # The second scale is a single window, and so one distribution.
    mean, std = (255 * torch.tensor(row).view(3, 1, 1) for row in (MEAN, STD))
    vector = clip.embed_images((read_view(shown.paths[0], (32, 32))[None] - mean) / std)
    expected = (100 * vector @ nn.functional.normalize(text).T).softmax(-1)
    torch.testing.assert_close(
        of_second, expected.view(9, 1, 1).expand(9, 20, 30), atol=1e-4, rtol=1e-3
    )


TRAINED = torch.tensor([0.6, 0.3, 0.1]).view(3, 1, 1)
NAMED = torch.tensor([0.2, 0.3, 0.5]).view(3, 1, 1)
FLAG = torch.tensor([True, True, False])


def says(distribution: Tensor) -> Callable[[int, tuple[int, int]], Tensor]:
    return lambda position, size: distribution.expand(3, *size)


def never(position: int, size: tuple[int, int]) -> Tensor:
    raise AssertionError("this branch does not decide")


def test_section_5_fusion_pixel_by_pixel() -> None:
    found = fused(says(TRAINED), says(NAMED), FLAG, 0.7)(0, (2, 5))
    expected = [0.6**0.7 * 0.2**0.3, 0.3, 0.1**0.3 * 0.5**0.7]
    assert found.shape == (3, 2, 5)
    torch.testing.assert_close(found[:, 1, 3], torch.tensor(expected))


def test_at_its_ends_the_weight_leaves_each_class_to_one_branch() -> None:
    first, last = (fused(says(TRAINED), says(NAMED), FLAG, w)(0, (1, 1)) for w in (1.0, 0.0))
    torch.testing.assert_close(first.flatten(), torch.tensor([0.6, 0.3, 0.5]))
    torch.testing.assert_close(last.flatten(), torch.tensor([0.2, 0.3, 0.1]))


def test_beyond_its_ends_one_branch_decides_alone() -> None:
    clip_only = fused(never, says(NAMED), FLAG, -0.1)(0, (1, 1))
    trained_only = fused(says(TRAINED), never, FLAG, 1.1)(0, (1, 1))
    assert torch.equal(clip_only, NAMED)
    assert torch.equal(trained_only, TRAINED)


def test_both_networks_look_at_an_image_once_for_both_protocols(shown: TestImages) -> None:
    looked: list[int] = []

    def watched(position: int, size: tuple[int, int]) -> Tensor:
        looked.append(position)
        return torch.eye(9)[position + 3].view(9, 1, 1).expand(9, *size)

    found = segmenter("both", watched, watched, shown, tiny.SPLIT, 0.7)
    assert isinstance(found, Segmenter)
    assert (found.ids, found.view(0)) == (shown.ids, (40, 40))
    assert set(found.predict(0, (6, 5)).flat) == {3}
    assert set(found.among_unseen().predict(1, (6, 5)).flat) == {4}
    found.predict(1, (6, 5))
    assert looked == [0, 0, 1, 1]


# --- the stages ------------------------------------------------------------------------------------

ROWS = ("simbaseline-fcn", "simbaseline-fcn-clip", "simbaseline-fcn-fused")
SETTINGS = (
    *("benchmark.name=tiny", "evaluate.bootstrap=20"),
    "simbaseline.proposals.network={queries:6,channels:32,layers:2,heads:2,feedforward:64}",
    "simbaseline.fcn.training.augmentation={short_sides:[32],long_side:64,crop_size:32}",
    *("simbaseline.fcn.training.steps=40", "simbaseline.fcn.training.batch_size=4"),
    *("simbaseline.test.short_sides=[32]", "simbaseline.test.long_side=64"),
    "simbaseline.fcn.windows.scales=[{short_side:48,tile:32}]",
)


def write_inputs(root: Path) -> None:
    """What both stages read: photographs, labels, a CLIP with its text, and a backbone, all tiny."""
    artifacts = root / "artifacts/tiny"
    learned, kept = (tiny.block_maps(count, range(9), seed=count) for count in (8, 4))
    train, val = index_of(root / "train", learned, role="train"), index_of(root / "val", kept)
    entries = [
        entry.model_copy(update={"path": f"{entry.role}/{entry.path}"})
        for index in (train, val)
        for entry in index.images
    ]
    index = ImageIndex(root=str(root), images=tuple(entries))
    (artifacts / "index").mkdir(parents=True)
    index.save(artifacts / "index/images.json")
    (artifacts / "tiny").mkdir()
    meta = tiny.SPLIT.describe()
    seen = [tiny.SPLIT.seen_labels(known) for known in learned]
    tiny.write_label_maps(
        artifacts / "tiny/seen_labels.h5", index.ids("train"), seen, schema=LABELS, meta=meta
    )
    tiny.write_label_maps(
        artifacts / "val_labels.h5", index.ids("val"), kept, schema=LABELS, meta=meta
    )
    clip = tiny_clip()
    clip.save(artifacts / "clip/model")
    text = TemplateText.embed(clip, tiny.CLASSES, TEMPLATES["single"]).class_vectors("single")
    save_class_vectors(artifacts / "clip/text/single.safetensors", text)
    torch.manual_seed(0)
    network = build_network(tiny.deeplab(), 9, pretrained=False)
    Backbone(network, tiny.deeplab(), tiny.SPLIT).save(
        artifacts / "tiny/backbone/network.safetensors"
    )


def run(name: str) -> None:
    """Run a stage of the pipeline in this process."""
    entry = yaml.safe_load((PROJECT / "pipelines/simbaseline/dvc.yaml").read_text())["stages"][name]
    known = {"benchmark.name": "tiny", "item.split": "tiny"}
    filled = re.sub(r"\$\{([\w.]+)\}", lambda match: known[match[1]], entry["cmd"])
    module, *options = filled.split()[3:]
    result = CliRunner().invoke(importlib.import_module(module).main, options)
    assert result.exit_code == 0, (name, result.output)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both stages have run."""
    root = tmp_path_factory.mktemp("project")
    write_inputs(root)
    compose(root / "params.yaml", *SETTINGS)
    with chdir(root):
        run("fcn")
        run("evaluate_fcn")
    return root


def predicted(project: Path, row: str) -> np.ndarray:
    folder = project / f"evaluations/tiny/tiny/simbaseline-fcn/{row}-clean"
    return np.stack(list(open_label_maps(folder / "predictions.h5", schema=PREDICTIONS)))


def expected(project: Path, trust_with_seen: float, trust_with_unseen: float) -> np.ndarray:
    """By hand: both branches at the size of each photograph, the trained one trusted so much."""
    artifacts = project / "artifacts/tiny"
    index = ImageIndex.load(artifacts / "index/images.json")
    text = torch.from_numpy(load_class_vectors(artifacts / "clip/text/single.safetensors").rows)
    params = load_params(project / "params.yaml").simbaseline
    ids, runtime = index.ids("val"), SingleProcess()
    shown, larger = (TestImages.of(index, ids, params.test.at(side)) for side in (32, 48))
    network = PixelEmbedder.load(artifacts / "tiny/simbaseline/fcn.safetensors")
    clip = VisionLanguageModel.load(artifacts / "clip/model")
    pixels = by_pixels(network, shown, text, runtime)
    windows = by_windows(clip, [larger], text, params.fcn.windows, runtime)
    trust = torch.full((9, 1, 1), trust_with_seen)
    trust[list(tiny.UNSEEN)] = trust_with_unseen
    branches = [(pixels(i, (32, 32)), windows(i, (32, 32))) for i in range(len(ids))]
    fused_by_hand = [trained**trust * named ** (1 - trust) for trained, named in branches]
    return torch.stack(fused_by_hand).argmax(1).numpy()


@pytest.mark.parametrize(
    ("row", "trust"),
    [
        ("simbaseline-fcn", (1.0, 1.0)),
        ("simbaseline-fcn-clip", (0.0, 0.0)),
        ("simbaseline-fcn-fused", (0.7, 0.3)),
    ],
)
def test_each_row_trusts_its_branches(project: Path, row: str, trust: tuple[float, float]) -> None:
    found = predicted(project, row)
    assert (found != expected(project, *trust)).mean() < 0.001
    assert (found != expected(project, *(1 - share for share in trust))).mean() > 0.05


def test_the_stages_give_three_rows_of_the_leaderboard(project: Path) -> None:
    rows = leaderboard_rows(project / "results/tiny")
    assert tuple(row["method"] for row in rows) == ROWS
    assert {row["setting"] for row in rows} == {"inductive"}
    truth = open_labels(project / "artifacts/tiny/val_labels.h5").pixels
    known = truth != IGNORE_INDEX
    maps = [predicted(project, row).reshape(-1) for row in ROWS]
    for row, found in zip(rows, maps, strict=True):
        assert row["pixel_accuracy"] == pytest.approx((found == truth)[known].mean())
    assert len({found.tobytes() for found in maps}) == 3


def test_the_curve_of_the_training_falls(project: Path) -> None:
    text = (project / "curves/tiny/tiny/simbaseline-fcn/plots/metrics/loss.tsv").read_text()
    losses = [float(row["loss"]) for row in csv.DictReader(io.StringIO(text), delimiter="\t")]
    assert losses[-1] < losses[0]


# --- published settings ----------------------------------------------------------------------------


def test_section_6_published_settings(tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", "benchmark=cocostuff-simbaseline")
    section = load_params(tmp_path / "params.yaml").simbaseline
    training = section.fcn.training
    assert (training.steps, training.batch_size, training.gradient_clip) == (60_000, 32, 0.01)
    assert training.augmentation == section.proposals.training.augmentation
    assert training.optimiser == section.proposals.training.optimiser
    assert (section.fcn.prompts, section.fcn.weight) == ("single", 0.7)
    assert [scale.tile for scale in section.fcn.windows.scales] == [224]
    assert section.fcn.windows.tokens == "class"
    assert section.fcn.splits == ["u15"]


def test_on_the_built_in_world_it_is_off(project: Path) -> None:
    assert load_params(project / "params.yaml").simbaseline.fcn.splits == []
