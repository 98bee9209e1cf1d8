"""A tiny project with every artifact, and the command run in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from tests import tiny
from tests.unit.tiny_clip import tiny_clip
from tools.compose_params import compose
from zslib.artifacts.features import DenseMaps
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.cli import main
from zslib.embeddings.table import ClassVectors, save_class_vectors
from zslib.features import Photographs, plan_dense
from zslib.features import extract as extract_features
from zslib.methods.sazs.networks import Trained
from zslib.methods.simbaseline.network import MaskFormer, Proposer
from zslib.params.sazs import SazsModel
from zslib.params.simbaseline import MaskFormerParams, ProposalEncoder
from zslib.prototypes import PrototypeClassifier
from zslib.training import SingleProcess
from zslib.vision_language.prompts import Prompts

PROJECT = Path(__file__).resolve().parents[3]
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


def write_params(folder: Path) -> None:
    compose(folder / "params.yaml", "splits=[tiny]")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["benchmark"] |= {
        "name": "tiny",
        "classes": list(KNOWN),
        "unseen": {"tiny": [KNOWN[c] for c in SPLIT.unseen], "u9": [KNOWN[0]]},
    }
    params["compute"]["device"] = "cpu"
    params["features"]["short_side"] = 32
    params["selection"] = {"held_out": 1, "draws": 1, "candidates_from": "all"}
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
    torch.manual_seed(1)
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
    head.save(folder / "tiny/spnet/frozen/classifier.safetensors")
    head.save(folder / "tiny/zs3net/clean/classifier.safetensors")
    PrototypeClassifier(SPLIT, torch.randn(8, 8), sigma=0.8).save(
        folder / "tiny/joem/frozen/classifier.safetensors"
    )
    vectors = (tiny.EMBEDDINGS[:8], tiny.EMBEDDINGS.mean(0))
    model = SazsModel(architecture="seen_only", encoder=None, dropout=0.0)
    aligned = Trained.begin(model, backbone, SPLIT, vectors, "lseg")
    with torch.no_grad():  # margins that are close to each other
        aligned.network.embed.project.weight *= 0.01
        aligned.network.embed.project.bias *= 0.01
    aligned.save(folder / "tiny/sazs/trained/network.safetensors")
    head.save(folder / "tiny/sazs/trained/classifier.safetensors")


def write_project(folder: Path) -> None:
    """Write photographs, parameters, words and artifacts."""
    write_params(folder)
    write_words(folder)
    write_simbaseline(folder / "artifacts/tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    photograph = Image.fromarray(pixels).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
    photograph.save(folder / "photo.png")
    photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "other.png")
    write_heads(folder / "artifacts/tiny", folder / "photo.png")


# --- the command -----------------------------------------------------------------------------------


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


def refused(photograph: Path | str, out: Path, *options: str, **given: Any) -> str:
    """The one line that the command ends in, having written nothing."""
    result = invoke(photograph, out, *options, **given)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.endswith(f"{line}\n")
    assert not out.exists()
    assert not list(out.parent.glob(".*"))
    return line
