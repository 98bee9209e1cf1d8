"""`zslib predict` on tiny models: any names, one photograph, four files or none."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from tests import tiny
from tests.unit.tiny_clip import tiny_clip
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import open_labels
from zslib.artifacts.proposals import Proposals
from zslib.artifacts.regions import Regions
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.cli import main
from zslib.embeddings.corpus import train_word_vectors
from zslib.embeddings.table import ClassVectors, class_embeddings, save_class_vectors
from zslib.embeddings.words import class_table
from zslib.errors import InputError
from zslib.features import Photographs, plan_dense
from zslib.features import extract as extract_features
from zslib.methods.joem import cells as joem
from zslib.methods.joem.closed_form import Moments, solve
from zslib.methods.joem.objectives import consistency_classes
from zslib.methods.sazs.networks import Trained
from zslib.methods.simbaseline.extraction import TestImages, extract
from zslib.methods.simbaseline.network import MaskFormer, Proposer
from zslib.methods.simbaseline.segmenters import segmenter
from zslib.methods.simbaseline.views import resized
from zslib.methods.spnet import frozen as spnet
from zslib.params import MaskFormerParams, Params, ProposalEncoder, SazsModel, load_params
from zslib.predict import Artifacts, chosen_params, class_names, refit
from zslib.predict.request import Request
from zslib.predict.words import embeddings_with
from zslib.prototypes import PrototypeClassifier
from zslib.training import SingleProcess
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.prompts import Prompts
from zslib.vision_language.regions import embed_regions
from zslib.vision_language.templates import TEMPLATES
from zslib.vision_language.text import TemplateText

PROJECT = Path(__file__).resolve().parents[2]
CPU = SingleProcess()
SIZE = (44, 30)
"""Of the photograph, height and width."""
NAMES = ("g box", "polar bear", "r disc", "g disc")
"""One unseen, one new, two seen."""
KNOWN = tiny.CLASSES[:8]
"""What the benchmark names; the ninth class is new to it."""
SPLIT = Split.from_ids("tiny", KNOWN, tiny.UNSEEN[:1], ())
NEW = tiny.CLASSES[8]
MANY = (*KNOWN, "polar bear", "grass")
SMALL = MaskFormerParams(
    queries=6, channels=32, layers=1, heads=2, feedforward=64, class_hidden=32, dropout=0.0
)
ENCODER = ProposalEncoder(name="test_resnet", output_stride=16, multi_grid=None)
FILES = {"picture.png", "labels.png", "confidence.png", "prediction.json"}


# --- a tiny project --------------------------------------------------------------------------------


def write_params(folder: Path) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["benchmark"] |= {
        "name": "tiny",
        "classes": list(KNOWN),
        "unseen": {"tiny": [KNOWN[c] for c in SPLIT.unseen]},
    }
    params |= {"splits": ["tiny"], "compute": params["compute"] | {"device": "cpu"}}
    params["features"]["short_side"] = 32
    params["vectors"]["sources"] = {"words": {"input": "words.txt", "format": "text"}}
    for method in ("spnet", "zs3net", "cagnet", "joem", "sazs"):
        params[method]["vectors"] = {"sources": ["words"], "normalise": "unit"}
    params["spnet"]["training"] |= {"steps": 30, "batch_size": 64}
    params["simbaseline"]["test"] = {"short_sides": [40], "long_side": 80}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def write_words(folder: Path) -> None:
    """Each colour and each shape is an axis: names are as far apart as in `tiny.EMBEDDINGS`."""
    words = ("disc", "box", "bar", *"rgb")
    lines = [
        f"{word} {' '.join(map(str, row))}" for word, row in zip(words, np.eye(6), strict=True)
    ]
    (folder / "words.txt").write_text("\n".join([f"{len(words)} 6", *lines]))
    rows = tiny.EMBEDDINGS.numpy()[:8] / 2**0.5
    path = folder / "artifacts/tiny/vectors/words.safetensors"
    save_class_vectors(path, ClassVectors("words", KNOWN, rows, {}))


def write_simbaseline(folder: Path) -> None:
    model = tiny_clip()
    model.save(folder / "clip/model")
    torch.manual_seed(0)
    network = MaskFormer(SMALL, ENCODER, torch.randn(len(SPLIT.seen), model.dimension))
    for name, tensor in network.encoder.state_dict().items():
        if name.endswith("weight") and tensor.ndim == 1:
            tensor.fill_(1.0)  # timm begins each residual branch at zero
    with torch.no_grad():  # queries that differ, and decide
        network.body.model.transformer_module.queries_embedder.weight *= 100
        network.head.layers[-1].weight *= 1000
        network.body.mask_embedder.layers[-1].layers[0].weight *= 300
    Proposer(network, SMALL, ENCODER, SPLIT).save(folder / "tiny/simbaseline/network.safetensors")
    Prompts(model, 4).save(folder / "tiny/simbaseline/prompts/prompts.safetensors", meta={})


def features_of(backbone: Backbone, photograph: Path, folder: Path) -> Tensor:
    """The feature map of the photograph, through a cache."""
    stride = backbone.params.feature_stride
    photographs = Photographs.of([photograph], [(SIZE[1], SIZE[0])], short_side=32, stride=stride)
    extract_features(
        backbone.features_of(CPU),
        photographs,
        {folder / "maps.h5": plan_dense(photographs, ["photo"])},
        dimension=8,
        batch_size=1,
        runtime=CPU,
        scratch=folder / "scratch",
    )
    return DenseMaps.open(folder / "maps.h5")[0]


def write_heads(folder: Path, photograph: Path) -> None:
    torch.manual_seed(0)
    network = build_network(tiny.deeplab(), 8, pretrained=False)
    backbone = Backbone(network, tiny.deeplab(), SPLIT)
    backbone.save(folder / "tiny/backbone/network.safetensors")
    features = features_of(backbone, photograph, folder / "features").float().flatten(0, 1)
    weight = torch.randn(8, 8) / features.std()
    # No class has an advantage over the photograph as a whole.
    head = PixelClassifier(SPLIT, weight, -weight @ features.mean(0), gamma=0.2)
    head.save(folder / "tiny/spnet/classifier.safetensors")
    head.save(folder / "tiny/zs3net/clean/classifier.safetensors")
    PrototypeClassifier(SPLIT, torch.randn(8, 8), sigma=0.8).save(
        folder / "tiny/joem/frozen.safetensors"
    )
    vectors = (tiny.EMBEDDINGS[:8], tiny.EMBEDDINGS.mean(0))
    model = SazsModel(architecture="seen_only", encoder=None, dropout=0.0)
    aligned = Trained.begin(model, backbone, SPLIT, vectors, "lseg")
    with torch.no_grad():  # margins that are close to each other
        aligned.network.embed.project.weight *= 0.01
        aligned.network.embed.project.bias *= 0.01
    aligned.save(folder / "tiny/sazs/trained/network.safetensors")
    head.save(folder / "tiny/sazs/trained/classifier.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every artifact; tests only read it."""
    folder = tmp_path_factory.mktemp("project")
    write_params(folder)
    write_words(folder)
    write_simbaseline(folder / "artifacts/tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    photograph = Image.fromarray(pixels).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
    photograph.save(folder / "photo.png")
    photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "other.png")
    write_heads(folder / "artifacts/tiny", folder / "photo.png")
    return folder


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def invoke(
    photograph: Path | str, out: Path, *options: str, names: Sequence[str] = NAMES
) -> Result:
    arguments = ["predict", str(photograph), "--classes", ",".join(names), "--out", str(out)]
    return CliRunner().invoke(main, [*arguments, *options])


def predicted(photograph: Path | str, out: Path, *options: str, **given: Any) -> np.ndarray:
    """The label map that the command writes."""
    result = invoke(photograph, out, *options, **given)
    assert result.exit_code == 0, result.output
    return np.asarray(Image.open(out / "labels.png"))


def facts(out: Path) -> dict[str, Any]:
    return json.loads((out / "prediction.json").read_text())


def refusal(result: Result, out: Path) -> str:
    """The one line that the command ends in, having written nothing."""
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.endswith(f"{line}\n")
    assert not out.exists()
    assert not list(out.parent.glob(".*"))
    return line


# --- what is written -------------------------------------------------------------------------------


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


def test_a_broken_photograph_is_refused(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    Image.open("photo.png").save(path, exif=b"Exif\x00\x00broken")
    path.write_bytes(path.read_bytes()[:-200])
    assert "broken.jpg: is damaged" in refusal(invoke(path, tmp_path / "out"), tmp_path / "out")


def test_a_missing_photograph_is_refused(project: Path, tmp_path: Path) -> None:
    result = invoke("nowhere.jpg", tmp_path / "out")
    assert "nowhere.jpg: is missing" in refusal(result, tmp_path / "out")


# --- what goes wrong -------------------------------------------------------------------------------


def test_a_missing_artifact_names_its_stage(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refusal(invoke("photo.png", out, "--split", "u9"), out)
    assert "artifacts/tiny/u9/simbaseline/network.safetensors" in line
    assert "dvc repro pipelines/simbaseline/dvc.yaml:network@u9" in line


def test_an_artifact_can_be_elsewhere(project: Path, tmp_path: Path) -> None:
    network = project / "artifacts/tiny/tiny/simbaseline/network.safetensors"
    options = ("--split", "u9", "--artifact", f"network={network}")
    found = predicted("photo.png", tmp_path / "out", *options)
    np.testing.assert_array_equal(found, predicted("photo.png", tmp_path / "own"))


@pytest.mark.parametrize(
    ("option", "message"), [("network", "is not NAME=PATH"), ("netwrk=x", "it reads clip, network")]
)
def test_an_artifact_that_is_not_read_is_refused(
    project: Path, tmp_path: Path, option: str, message: str
) -> None:
    out = tmp_path / "out"
    assert message in refusal(invoke("photo.png", out, "--artifact", option), out)


@pytest.mark.parametrize(
    ("names", "message"),
    [("a", "is one class"), ("a,,b", "empty name"), ("a,b, a", "'a' is listed twice")],
)
def test_names_are_checked(names: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_names(names)


def test_an_unknown_method_is_told_which_there_are(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refusal(invoke("photo.png", out, "--method", "cagnet"), out)
    assert "for any names take simbaseline, " in line
    assert "for the benchmark's own also joem-frozen-head, zs3net, " in line


def test_an_unknown_benchmark_is_refused(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refusal(invoke("photo.png", out, "--benchmark", "voc12"), out)
    assert "there is no 'voc12'; there are only that of params.yaml, 'tiny'" in line


def test_parameters_of_another_benchmark_are_composed() -> None:
    params = chosen_params(PROJECT / "params.yaml", "voc12")
    assert (params.benchmark.name, params.splits[0]) == ("voc12", "u2")
    own = load_params(PROJECT / "params.yaml")
    assert chosen_params(PROJECT / "params.yaml", own.benchmark.name) == own


def test_a_folder_of_something_else_is_left_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    result = invoke("photo.png", tmp_path)
    assert result.exit_code == 2
    assert "is not a folder of an earlier prediction" in result.stderr
    assert (tmp_path / "holiday.txt").read_text() == "mine"


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


# --- classifiers of pixel features -----------------------------------------------------------------


def head_among(path: Path, classes: Sequence[str]) -> np.ndarray:
    """What a published head makes of the photograph once all other classes are void."""
    root = Path("artifacts/tiny/tiny")
    backbone = Backbone.load(root / "backbone/network.safetensors")
    head = PixelClassifier.load(root / "spnet/classifier.safetensors")
    others = [c for c, name in enumerate(KNOWN) if name not in classes]
    unseen = [c for c in SPLIT.unseen if c not in others]
    kept = Split.from_ids("tiny", KNOWN, unseen, others)
    return head.for_split(kept).predict(features_of(backbone, Path("photo.png"), path), SIZE)


@pytest.mark.parametrize("method", ["spnet-c", "zs3net"])
def test_a_classifier_chooses_among_the_names_alone(
    project: Path, tmp_path: Path, method: str
) -> None:
    names = ("r disc", "g box", "b disc")
    labels = predicted("photo.png", tmp_path / "out", "--method", method, names=names)
    expected = head_among(tmp_path, names)
    np.testing.assert_array_equal(np.array(sorted(names))[labels], np.array(KNOWN)[expected])
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("method", ["spnet", "joem-frozen", "sazs"])
def test_confidence_of_a_calibrated_classifier_is_a_share(
    project: Path, tmp_path: Path, method: str
) -> None:
    labels = predicted("photo.png", tmp_path / "out", "--method", method, names=KNOWN)
    assert labels.shape == SIZE
    assert 0 < facts(tmp_path / "out")["mean_confidence"] < 1


def test_a_generative_method_knows_its_own_classes_only(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refusal(invoke("photo.png", out, "--method", "zs3net"), out)
    assert "'polar bear' is none of the classes that zs3net was trained for" in line


def test_an_unknown_word_is_named_with_its_source(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refusal(invoke("photo.png", out, "--method", "sazs"), out)
    assert "words (words.txt): no vector for 'bear', needed by class 'polar bear'" in line or (
        "words (words.txt): no vector for 'polar', needed by class 'polar bear'" in line
    )


def test_fasttext_composes_a_word_that_no_text_has(project: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a r disc by a g box and a b bar\n" * 20)
    training = {"algorithm": "fasttext", "dimension": 6, "window": 3, "epochs": 2, "negative": 2}
    training |= {"min_count": 1, "subword_buckets": 500, "seed": 0}
    content = yaml.safe_load((project / "params.yaml").read_text())
    source = {"input": str(tmp_path / "corpus.txt"), "train": training}
    content["vectors"]["sources"] = {"words": source}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    params = load_params(tmp_path / "params.yaml")
    words = train_word_vectors(tmp_path / "corpus.txt", **training)
    rows = class_table(KNOWN, words, aliases={}, multiword="mean", source="words")
    known = ClassVectors("words", KNOWN, rows, {})
    save_class_vectors(tmp_path / "vectors.safetensors", known)
    artifacts = Artifacts(tmp_path, "tiny", {"vectors-words": tmp_path / "vectors.safetensors"})
    request = Request.read(Path("photo.png"), NAMES, params, artifacts, scratch=tmp_path)
    recipe = params.spnet.vectors
    found = embeddings_with(["discs"], KNOWN, recipe, request)
    torch.testing.assert_close(found[:8], torch.from_numpy(class_embeddings([known], "unit")))
    assert "discs" not in words.key_to_index
    assert found[8].norm() == pytest.approx(1, abs=1e-5)


# --- names learned later are as names known before -------------------------------------------------


@pytest.fixture
def request_for_new(project: Path, tmp_path: Path) -> Request:
    """A request whose artifacts hold features and labels of the benchmark's seen classes."""
    maps = tiny.label_maps(6, SPLIT.seen, seed=0)
    train = tmp_path / "train"
    tiny.write_bank(train / "bank.h5", split=SPLIT)
    tiny.write_maps(train / "maps.h5", maps)
    labels = tiny.write_labels(tmp_path / "labels.h5", maps, split=SPLIT)
    given = {"features": train, "seen_labels": labels}
    artifacts = Artifacts(project / "artifacts/tiny", "tiny", given)
    params = load_params(Path("params.yaml"))
    return Request.read(Path("photo.png"), (NEW, "r disc"), params, artifacts, scratch=tmp_path)


def spnet_inputs(request: Request, embeddings: Tensor) -> spnet.Inputs:
    train = request.artifacts.given["features"]
    return spnet.Inputs(
        PixelBank.open(train / "bank.h5"),
        DenseMaps.open(train / "maps.h5"),
        open_labels(request.artifacts.given["seen_labels"]),
        embeddings,
    )


def test_spnet_learns_a_name_as_if_it_had_been_unseen_all_along(request_for_new: Request) -> None:
    params = request_for_new.params.spnet.training

    def fitted(split: Split) -> PixelClassifier:
        inputs = spnet_inputs(request_for_new, tiny.EMBEDDINGS[: len(split.classes)])
        return spnet.fit_projection(inputs, split, params, allowed=None, seed=0)

    found = refit.with_spnet(fitted(SPLIT), [NEW], request_for_new)
    expected = fitted(tiny.SPLIT)
    assert found.split == tiny.SPLIT
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias, expected.bias, rtol=1e-4, atol=1e-5)
    assert found.weight[8].abs().max() > 0.01


def joem_fitted(request: Request, split: Split, *, ridge: float = 0.001) -> PrototypeClassifier:
    params = request.params.joem
    embeddings = tiny.EMBEDDINGS[: len(split.classes)]
    spnets = spnet_inputs(request, embeddings)
    inputs = joem.Inputs(spnets.tuning, spnets.labels, embeddings)
    cells = joem.labelled_cells(inputs, split, inputs.maps, params.objectives)
    rows = solve(
        Moments.of(cells),
        embeddings,
        consistency_classes(split),
        params.objectives,
        ridge=ridge,
        steps=params.closed_form.consistency_steps,
    )
    return PrototypeClassifier(split, rows, meta={"ridge": {"chosen": ridge}})


def test_joem_learns_a_name_as_if_it_had_been_unseen_all_along(request_for_new: Request) -> None:
    found = refit.with_joem(joem_fitted(request_for_new, SPLIT), [NEW], request_for_new)
    expected = joem_fitted(request_for_new, tiny.SPLIT)
    assert found.split == tiny.SPLIT
    torch.testing.assert_close(found.prototypes, expected.prototypes, rtol=1e-3, atol=1e-4)


def test_a_head_of_another_run_is_not_taught(request_for_new: Request) -> None:
    other = joem_fitted(request_for_new, SPLIT, ridge=1.0)
    told = PrototypeClassifier(SPLIT, other.prototypes, meta={"ridge": {"chosen": 0.001}})
    with pytest.raises(InputError, match="joem: fitted once more, it is another classifier"):
        refit.with_joem(told, [NEW], request_for_new)


def test_vectors_of_another_file_are_refused(request_for_new: Request, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    rows = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    save_class_vectors(path, ClassVectors("words", KNOWN, rows, {}))
    request_for_new.artifacts.given["vectors-words"] = path  # type: ignore[index]
    with pytest.raises(InputError, match=r"vectors.sources.words: words.txt now gives other"):
        refit.with_spnet(
            PixelClassifier(SPLIT, torch.ones(8, 12), torch.ones(8)), [NEW], request_for_new
        )


def test_sazs_compares_with_a_new_name_by_its_vector(project: Path, tmp_path: Path) -> None:
    root = project / "artifacts/tiny/tiny"
    own = Trained.load(root / "sazs/trained/network.safetensors")
    own.network.classes = tiny.EMBEDDINGS.clone()
    knowing = Trained(own.network, own.model, own.backbone, tiny.SPLIT)
    knowing.save(tmp_path / "knowing.safetensors")
    options = ("--method", "sazs")
    names = (NEW, "r disc", "b disc", "g bar")
    found = predicted("photo.png", tmp_path / "new", *options, names=names)
    options = (*options, "--artifact", f"network={tmp_path / 'knowing.safetensors'}")
    expected = predicted("photo.png", tmp_path / "known", *options, names=names)
    np.testing.assert_array_equal(found, expected)
    sure = [np.asarray(Image.open(tmp_path / name / "confidence.png")) for name in ("new", "known")]
    np.testing.assert_array_equal(*sure)
    assert sure[0].min() < 250  # so the others, the new one among them, count for something
