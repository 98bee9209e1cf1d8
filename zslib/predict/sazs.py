"""SAZS for any class names: it embeds pixels beside class vectors, and compares with those asked for."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.classifier import PixelClassifier
from zslib.methods.sazs.margins import cache_margins, of_margins
from zslib.methods.sazs.networks import Trained
from zslib.predict.artifacts import Artifact
from zslib.predict.heads import classified
from zslib.predict.output import Prediction
from zslib.predict.request import Request
from zslib.predict.words import embeddings_with
from zslib.training import start_runtime

STAGE = "pipelines/sazs/dvc.yaml:train@{split}"
NETWORK = Artifact("{split}/sazs/trained/network.safetensors", STAGE)
CLASSIFIER = Artifact("{split}/sazs/trained/classifier.safetensors", STAGE)


def predict(request: Request) -> Prediction:
    """Divide a photograph among names, with the method's calibration.

    A pixel's confidence is its class's probability.

    Raises:
        InputError: an artifact is missing, or a word has no vector.
    """
    trained = Trained.load(request.artifacts.find("network", NETWORK))
    calibration = PixelClassifier.load(request.artifacts.find("classifier", CLASSIFIER))
    split = request.split(trained.split)
    trained.network.classes = _vectors(trained, request)
    margins = _margins(replace(trained, split=split), request)
    classifier = replace(of_margins(split, corners=trained.corners), gamma=calibration.gamma)
    return classified(classifier, margins, request)


def _vectors(trained: Trained, request: Request) -> Float[Tensor, "c d"]:
    """Return the vectors of the names: those it was trained with, and new ones."""
    classes = trained.split.classes
    new = [name for name in request.names if name not in classes]
    rows = dict(zip(classes, trained.network.classes, strict=True))
    if new:
        table = embeddings_with(new, classes, request.params.sazs.vectors, request)
        rows |= dict(zip(new, table[len(classes) :], strict=True))
    return torch.stack([rows[name] for name in request.names])


def _margins(trained: Trained, request: Request) -> Float[Tensor, "h w c"]:
    name = request.photograph.stem
    out = request.scratch / "margins" / f"{name}.h5"
    cache_margins(
        trained,
        [name],
        [request.photograph],
        [request.image.size],
        input_size=request.params.sazs.input_size,
        short_side=request.params.features.short_side,
        batch_size=request.params.features.batch_size,
        out=out,
        runtime=start_runtime(request.params.compute.on_one_device()),
        scratch=request.scratch / "embedding",
    )
    return DenseMaps.open(out)[0]
