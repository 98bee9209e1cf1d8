"""`zslib predict` on tiny models: any names, one photograph, four files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.unit.predict.project import (
    CPU,
    FILES,
    KNOWN,
    MANY,
    NAMES,
    PROJECT,
    SIZE,
    facts,
    invoke,
    predicted,
)
from zslib.artifacts.proposals import Proposals
from zslib.artifacts.regions import Regions
from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.methods.simbaseline.extraction import TestImages, extract
from zslib.methods.simbaseline.network import Proposer
from zslib.methods.simbaseline.segmenters import segmenter
from zslib.methods.simbaseline.views import resized
from zslib.params import Params, load_params
from zslib.predict import chosen_params
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.prompts import Prompts
from zslib.vision_language.regions import embed_regions
from zslib.vision_language.templates import TEMPLATES
from zslib.vision_language.text import TemplateText


def test_every_pixel_has_one_of_the_names(project: Path, tmp_path: Path) -> None:
    labels = predicted("photo.png", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    written = facts(tmp_path / "out")
    assert labels.shape == SIZE
    values = {entry["value"]: entry for entry in written["classes"]}
    assert {entry["name"] for entry in values.values()} == set(NAMES)
    for value, entry in values.items():
        assert entry["share"] == pytest.approx(np.mean(labels == value))
    assert sum(entry["share"] for entry in values.values()) == pytest.approx(1)
    assert [entry["name"] for entry in values.values() if entry["seen"]] != []
    assert {entry["name"] for entry in values.values() if not entry["seen"]} == set(NAMES[:2])


def test_confidence_is_a_picture_of_the_same_size(project: Path, tmp_path: Path) -> None:
    labels = predicted("photo.png", tmp_path / "out")
    sure = np.asarray(Image.open(tmp_path / "out/confidence.png")) / 255
    assert sure.shape == SIZE
    for entry in facts(tmp_path / "out")["classes"]:
        if entry["share"]:
            mean = sure[labels == entry["value"]].mean()
            assert entry["mean_confidence"] == pytest.approx(mean, abs=0.003)
    assert sure.std() > 0.01


def test_the_legend_stands_beside_the_photograph(project: Path, tmp_path: Path) -> None:
    labels = predicted("photo.png", tmp_path / "out")
    picture = Image.open(tmp_path / "out/picture.png")
    assert picture.height >= SIZE[0]
    beside = np.asarray(picture)[:, SIZE[1] :].reshape(-1, 3)
    for entry in facts(tmp_path / "out")["classes"]:
        shown = (labels == entry["value"]).any()
        assert (entry["colour"] is not None) == shown
        if shown:
            assert (beside == list(bytes.fromhex(entry["colour"][1:]))).all(1).any()


def test_the_order_of_names_does_not_matter(project: Path, tmp_path: Path) -> None:
    predicted("photo.png", tmp_path / "a")
    predicted("photo.png", tmp_path / "b", names=NAMES[::-1])
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_it_says_what_it_was_made_with(project: Path, tmp_path: Path) -> None:
    predicted("photo.png", tmp_path / "out")
    written = facts(tmp_path / "out")
    assert (written["method"], written["benchmark"], written["split"]) == (
        *("simbaseline", "tiny", "tiny"),
    )
    assert set(written["artifacts"]) == {"clip", "network"}
    predicted("photo.png", tmp_path / "again")
    assert facts(tmp_path / "again") == written
    predicted("photo.png", tmp_path / "spnet", "--method", "spnet", names=KNOWN)
    assert set(facts(tmp_path / "spnet")["artifacts"]) == {"backbone", "classifier"}


def test_an_earlier_prediction_is_replaced_as_a_whole_or_not_at_all(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predicted("photo.png", out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fails(*_: object, **__: object) -> str:
        raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("zslib.predict.output.json.dumps", fails)
        assert invoke("other.png", out).exit_code == 2
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    predicted("other.png", out)
    assert facts(out)["photograph"] == "other.png"


def test_an_artifact_can_be_elsewhere(project: Path, tmp_path: Path) -> None:
    network = project / "artifacts/tiny/tiny/simbaseline/network.safetensors"
    options = ("--split", "u9", "--artifact", f"network={network}")
    found = predicted("photo.png", tmp_path / "out", *options)
    np.testing.assert_array_equal(found, predicted("photo.png", tmp_path / "own"))


def test_parameters_of_another_benchmark_are_composed() -> None:
    params = chosen_params(PROJECT / "params.yaml", "voc12")
    assert (params.benchmark.name, params.splits[0]) == ("voc12", "u2")
    own = load_params(PROJECT / "params.yaml")
    assert chosen_params(PROJECT / "params.yaml", own.benchmark.name) == own


def test_names_and_paths_of_any_letters_are_written_in_any_locale(
    project: Path, tmp_path: Path
) -> None:
    """In a process of its own, with the locale that containers have."""
    photograph, out = tmp_path / "größe.png", tmp_path / "größe"
    photograph.write_bytes((project / "photo.png").read_bytes())
    arguments = ["predict", str(photograph), "--classes", "zèbre,r disc", "--out", str(out)]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "zslib.cli", *arguments],
        check=False,
        env=os.environ | locale,
        capture_output=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    written = facts(out)
    assert written["photograph"] == str(photograph)
    assert {entry["name"] for entry in written["classes"]} == {"zèbre", "r disc"}
    assert "zèbre (unseen): " in run.stdout
    assert run.stdout.endswith(f"{out}: written\n")
    lines = [line for line in run.stderr.splitlines() if line and "it/s]" not in line]
    assert [line.partition(" CLIP can only spell ")[0] for line in lines] == ["warning: --classes:"]


# --- photographs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("orientation", "turn"), [(3, "180"), (6, "90"), (8, "270")])
def test_a_turned_photograph_is_segmented_upright(
    project: Path, tmp_path: Path, orientation: int, turn: str
) -> None:
    stored = Image.open("photo.png").transpose(Image.Transpose[f"ROTATE_{turn}"])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    found = predicted(tmp_path / "turned.png", tmp_path / "turned")
    np.testing.assert_array_equal(found, predicted("photo.png", tmp_path / "upright"))


# --- SimBaseline -----------------------------------------------------------------------------------


def scored(project: Path, folder: Path, params: Params, learned: bool) -> np.ndarray:
    """What the cached route makes of the photograph beside another one."""
    root, names = project / "artifacts/tiny", tuple(sorted(MANY))
    paths = (project / "photo.png", project / "other.png")
    proposer = Proposer.load(root / "tiny/simbaseline/network.safetensors")
    model = VisionLanguageModel.load(root / "clip/model")
    width, height = resized((SIZE[1], SIZE[0]), 40, 80)
    images = TestImages(("photo", "other"), paths, ((height, width),) * 2)
    options = {"runtime": CPU, "scratch": folder / "scratch"}
    extract(proposer, images, folder / "p.h5", batch_size=1, **options)
    proposals = Proposals.open(folder / "p.h5")
    regions = params.vision_language.regions
    embed_regions(model, proposals, paths, folder / "r.h5", regions, **options)
    text = TemplateText.embed(model, names, TEMPLATES["vild"]).class_vectors("vild")
    prompts = root / "tiny/simbaseline/prompts/prompts.safetensors"
    named = Prompts.load(prompts, model).class_vectors(names) if learned else text
    split = Split.named("tiny", names, unseen=("g box", "polar bear", "grass"), void=[])
    found = segmenter(
        "both",
        proposals,
        text,
        split,
        params.simbaseline.clean,
        regions=Regions.open(folder / "r.h5"),
        region_text=named,
    )
    return found.predict(0, SIZE)


@pytest.mark.parametrize("learned", [False, True])
def test_one_photograph_alone_is_segmented_as_among_others(
    project: Path, tmp_path: Path, learned: bool
) -> None:
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["simbaseline"]["region_prompts"] = "learned" if learned else "vild"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    labels = predicted("photo.png", tmp_path / "out", "--params", str(path), names=MANY)
    assert len(np.unique(labels)) > 1
    expected = scored(project, tmp_path, load_params(path), learned)
    np.testing.assert_array_equal(labels, expected)
