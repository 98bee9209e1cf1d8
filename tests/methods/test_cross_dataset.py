"""A tiny benchmark's model, tried on another by the commands of pipelines/cross-dataset (simbaseline §1.3).

The target has other classes, of which one has two names and one is void. Its scores are recomputed here
from the cached proposals and regions, with the formula of the specification and plain counting.
"""

import csv
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.tiny_clip import tiny_clip
from tools.compose_params import PROJECT, compose
from zslib.artifacts.maps import PREDICTIONS, open_label_maps, open_labels
from zslib.artifacts.proposals import Proposals
from zslib.artifacts.regions import Regions
from zslib.benchmark import Split
from zslib.embeddings.table import load_class_vectors
from zslib.methods.simbaseline.network import MaskFormer, Proposer
from zslib.params.simbaseline import MaskFormerParams, ProposalEncoder
from zslib.report import aggregate, read_leaderboard
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.prompts import Prompts
from zslib.vision_language.templates import VILD

SOURCE = Split.named("u1", ("zebra", "water", "red bus"), unseen=["red bus"], void=[])
CLASSES = ("other", "polar bear, bear", "road, route", "sky", "grass")
SETTINGS = (
    *("benchmark=ade20k", "benchmark.name=target", "benchmark.trained_on=source"),
    *("benchmark.source_splits=[u1]", f"benchmark.classes={json.dumps(CLASSES)}"),
    *("dataset.root=data", "simbaseline.test.short_sides=[64]", "simbaseline.test.long_side=96"),
    *("vision_language.regions.threshold=0.5", "evaluate.bootstrap=20", "report.pictures=2"),
)
SIZES = ((40, 48), (64, 40), (33, 64))
NETWORK = MaskFormerParams(
    queries=6, channels=32, layers=2, heads=2, feedforward=64, class_hidden=32, dropout=0.0
)
ENCODER = ProposalEncoder(name="test_resnet", output_stride=16, multi_grid=None)


def write_source(artifacts: Path) -> None:
    """What the source benchmark has trained: a CLIP, prompts and a network, all random."""
    clip = tiny_clip()
    clip.save(artifacts / "clip/model")
    torch.manual_seed(1)
    network = MaskFormer(NETWORK, ENCODER, torch.randn(2, clip.dimension))
    _tell_apart(network)
    trained = artifacts / "u1/simbaseline"
    Proposer(network, NETWORK, ENCODER, SOURCE).save(trained / "network.safetensors")
    Prompts(clip, 4).save(trained / "prompts/prompts.safetensors", meta={})


def _tell_apart(network: MaskFormer) -> None:
    """Make what a random network says of its queries as different as if it had learned."""
    last = [m for m in network.body.mask_embedder.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= 400
        network.head.layers[-1].weight *= 20
        for name, tensor in network.encoder.state_dict().items():
            if name.endswith("weight") and tensor.ndim == 1:
                tensor.fill_(1.0)  # timm begins each residual branch at zero


def write_target(root: Path) -> None:
    """Photographs and masks as ADE20k has them, 255 at the edge of each mask."""
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        files = [root / kind / "validation" for kind in ("images", "annotations")]
        for folder in files:
            folder.mkdir(parents=True, exist_ok=True)
        photograph = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        Image.fromarray(photograph).resize((width, height)).save(files[0] / f"{index}.jpg")
        mask = np.kron(rng.integers(0, 5, (3, 3)), np.ones((22, 22)))[:height, :width]
        mask[0] = 255
        Image.fromarray(mask.astype(np.uint8)).save(files[1] / f"{index}.png")


def commands() -> Iterator[tuple[str, list[str]]]:
    """The stages that a target stands on, in their order, and the words of their commands."""
    shared = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    own = yaml.safe_load((PROJECT / "pipelines/cross-dataset/dvc.yaml").read_text())["stages"]
    before = {name: shared[name] for name in ("index", "val_labels")}
    known = {"benchmark.name": "target", "benchmark.trained_on": "source", "item.split": "u1"}
    for name, entry in (before | own | {"report": shared["report_across"]}).items():
        filled = re.sub(r"\$\{([\w.]+)\}", lambda match: known[match[1]], entry["cmd"])
        yield name, filled.split()[3:]


def run(name: str) -> Result:
    """Run one of them in this process."""
    module, *options = dict(commands())[name]
    return CliRunner().invoke(importlib.import_module(module).main, options)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every stage of the target has run."""
    root = tmp_path_factory.mktemp("project")
    write_source(root / "artifacts/source")
    write_target(root / "data")
    shutil.copy(PROJECT / "dvc.yaml", root)
    shutil.copytree(PROJECT / "pipelines", root / "pipelines")
    compose(root / "params.yaml", *SETTINGS)
    with chdir(root):
        for name, _ in commands():
            result = run(name)
            assert result.exit_code == 0, (name, result.output)
        yield root


@pytest.fixture(autouse=True)
def in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def scores(protocol: str) -> dict:
    return json.loads(Path(f"results/target/u1-simbaseline-{protocol}.json").read_text())


def expected_maps(weight: float) -> list[np.ndarray]:
    """By hand: p_q^(1-w) p_r^w of each query, times its mask, summed, at the size of the picture."""
    folder = Path("artifacts/target/u1/simbaseline")
    proposals, regions = (
        Proposals.open(folder / "proposals/val.h5"),
        Regions.open(folder / "regions/val.h5"),
    )
    text = torch.from_numpy(load_class_vectors(folder / "text/vild.safetensors").rows[1:])
    maps = []
    for position, size in enumerate(SIZES):
        queries = proposals[position]
        with_none = torch.cat([text, torch.tensor(proposals.no_object)[None]])
        asked = softmax_of_cosines(queries.vectors, with_none)[:, :-1]
        embeddings, valid = regions[position]
        looked_at = softmax_of_cosines(embeddings, text)
        votes = asked ** (1 - weight) * looked_at**weight * valid[:, None]
        large = F.interpolate(queries.logits[None], queries.padded, mode="bilinear")[0]
        masks = large[:, : queries.view[0], : queries.view[1]].sigmoid()
        found = (votes.T @ masks.flatten(1)).reshape(len(text), *queries.view)
        found = F.interpolate(found[None], size, mode="bilinear")[0]
        maps.append(found.argmax(0).numpy() + 1)
    return maps


def softmax_of_cosines(vectors: Tensor, text: Tensor) -> Tensor:
    cosines = vectors @ text.T / (vectors.norm(dim=1)[:, None] * text.norm(dim=1)).clamp(min=1e-12)
    return (100 * cosines).softmax(-1)


@pytest.mark.parametrize(("protocol", "weight"), [("clean", 0.8), ("official", 0.5)])
def test_section_5_no_class_counts_as_seen(protocol: str, weight: float) -> None:
    folder = Path(f"evaluations/target/u1/simbaseline/simbaseline-{protocol}")
    predicted = open_label_maps(folder / "predictions.h5", schema=PREDICTIONS)
    expected = expected_maps(weight)
    for found, wanted in zip(predicted, expected, strict=True):
        assert (found != wanted).mean() < 0.001  # two scores may be equal but for rounding


def test_seen_classes_would_have_been_trusted_otherwise() -> None:
    unseen, seen = (np.concatenate([m.reshape(-1) for m in expected_maps(w)]) for w in (0.8, 0.2))
    assert len(np.unique(unseen)) > 1
    assert (unseen != seen).mean() > 0.05


@pytest.mark.parametrize("protocol", ["clean", "official"])
def test_every_class_but_void_is_scored_over_all_pixels(protocol: str) -> None:
    folder = Path(f"evaluations/target/u1/simbaseline/simbaseline-{protocol}")
    predicted = open_label_maps(folder / "predictions.h5", schema=PREDICTIONS).pixels
    truth = open_labels(Path("artifacts/target/val_labels.h5")).pixels
    counted = truth != 255
    predicted, truth = predicted[counted], truth[counted]
    assert set(truth) == {1, 2, 3, 4}, "the class `other` is void"
    iou = {}
    for class_id, name in enumerate(CLASSES[1:], start=1):
        union = ((truth == class_id) | (predicted == class_id)).sum()
        iou[name] = ((truth == class_id) & (predicted == class_id)).sum() / union
    found = scores(protocol)
    assert found["class_iou"] == pytest.approx(iou)
    assert found["miou"] == pytest.approx(np.mean(list(iou.values())))
    assert found["pixel_accuracy"] == pytest.approx((truth == predicted).mean())
    shares = [(truth == class_id).mean() for class_id in (1, 2, 3, 4)]
    assert found["fwiou"] == pytest.approx(np.dot(shares, list(iou.values())))
    low, high = found["interval95"]["miou"]
    assert 0 <= low <= high <= 1


def test_there_are_no_seen_and_unseen_figures() -> None:
    found = scores("clean")
    assert found["setting"] == "cross-dataset"
    assert [found[name] for name in ("miou_seen", "miou_unseen", "hiou")] == [None] * 3
    assert found["interval95"]["hiou"] is None
    assert "restricted_to_unseen" not in found["protocols"]
    assert found["protocols"]["absent_classes_zero"]["miou"] == pytest.approx(found["miou"])
    assert found["protocols"]["absent_classes_zero"]["miou_unseen"] is None


def test_section_1_3_synonyms_stand_in_one_sentence() -> None:
    model = VisionLanguageModel.load(Path("artifacts/source/clip/model"))
    read = load_class_vectors(Path("artifacts/target/u1/simbaseline/text/vild.safetensors"))
    assert read.classes == CLASSES
    sentences = [template.format("road, route") for template in VILD]
    mean = model.embed_texts(sentences).numpy().mean(0)
    np.testing.assert_allclose(read.rows[2], mean / np.linalg.norm(mean), atol=1e-5)


def test_learned_prompts_read_the_names_of_the_target() -> None:
    model = VisionLanguageModel.load(Path("artifacts/source/clip/model"))
    path = Path("artifacts/source/u1/simbaseline/prompts/prompts.safetensors")
    read = load_class_vectors(Path("artifacts/target/u1/simbaseline/prompts/text.safetensors"))
    expected = Prompts.load(path, model).class_vectors(CLASSES)
    np.testing.assert_allclose(read.rows, expected.rows, atol=1e-6)
    assert (read.classes, read.made_from) == (CLASSES, expected.made_from)


def test_the_row_is_in_the_leaderboard() -> None:
    text = Path("report/leaderboard.csv").read_text()
    clean, official = csv.DictReader(text.splitlines())
    assert (clean["benchmark"], clean["split"], clean["method"]) == ("target", "u1", "simbaseline")
    assert clean["setting"] == official["setting"] == "cross-dataset"
    assert (clean["miou_unseen"], clean["hiou"], clean["miou_unseen_restricted"]) == ("", "", "")
    found = scores("clean")
    assert float(clean["miou"]) == pytest.approx(found["miou"], abs=1e-6)
    bounds = [float(clean[f"miou_{bound}"]) for bound in ("low", "high")]
    assert bounds == pytest.approx(found["interval95"]["miou"], abs=1e-6)


def test_figures_that_do_not_exist_come_back_as_none_and_print_as_a_dash() -> None:
    rows = read_leaderboard(Path("report/leaderboard.csv"))
    assert rows[0]["hiou"] is rows[0]["miou_seen_low"] is None
    assert rows[0]["miou"] == pytest.approx(scores("clean")["miou"], abs=1e-6)
    line = next(line for line in aggregate(rows).splitlines() if "| clean |" in line)
    assert line.count("\N{EN DASH}") == 4


def test_the_report_calls_no_class_unseen() -> None:
    html = Path("report/index.html").read_text()
    body = html[html.index("<body>") :]
    assert "A model that was trained on source" in body
    assert "road, route" in body
    assert f"{100 * scores('clean')['miou']:.1f}" in body
    assert not re.search(r"\bunseen\b(?!\.)", re.sub(r"no class is called unseen", "", body))


@pytest.mark.parametrize(
    "missing",
    [
        "clip/model",
        "u1/simbaseline/network.safetensors",
        "u1/simbaseline/prompts/prompts.safetensors",
    ],
)
def test_what_the_source_lacks_is_said_in_one_line(missing: str) -> None:
    path, aside = Path("artifacts/source") / missing, Path("aside")
    path.rename(aside)
    try:
        result = run("source")
    finally:
        aside.rename(path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: missing; train the source first")
    assert "`dvc exp run -S benchmark=source" in line
