"""SimBaseline for any class names: proposals and regions of one photograph, through the caches' own code."""

import logging

import torch
from transformers import MaskFormerConfig

from zslib.artifacts.proposals import Proposals
from zslib.artifacts.regions import Regions
from zslib.embeddings.table import ClassVectors
from zslib.methods.simbaseline.extraction import TestImages, extract
from zslib.methods.simbaseline.network import Proposer
from zslib.methods.simbaseline.segmenters import segmenter
from zslib.methods.simbaseline.views import resized
from zslib.predict.artifacts import Artifact
from zslib.predict.output import Prediction
from zslib.predict.request import Request
from zslib.predict.spelling import refuse_long, warn_of_spelled
from zslib.training import start_runtime
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.prompts import Prompts
from zslib.vision_language.regions import embed_regions
from zslib.vision_language.templates import TEMPLATES
from zslib.vision_language.text import TemplateText

CLIP = Artifact("clip/model", "vision_language@clip")
NETWORK = Artifact(
    "{split}/simbaseline/network.safetensors", "pipelines/simbaseline/dvc.yaml:network@{split}"
)
PROMPTS = Artifact(
    "{split}/simbaseline/prompts/prompts.safetensors",
    "pipelines/simbaseline/dvc.yaml:prompts@{split}",
)

# It warns of every encoder that is not a Swin, ours of timm among them.
logging.getLogger(MaskFormerConfig.__module__).setLevel(logging.ERROR)


def predict(request: Request) -> Prediction:
    """Divide a photograph among names: queries are trusted with those seen in training, regions with
    the others (simbaseline §5).

    A pixel's confidence is its class's share of the votes there, or of one vote where no mask is sure
    of the pixel and there are fewer.

    Raises:
        InputError: an artifact is missing, or a name is too long for the text tower.
    """
    params = request.params.simbaseline
    proposer = Proposer.load(request.artifacts.find("network", NETWORK))
    clip = VisionLanguageModel.load(request.artifacts.find("clip", CLIP))
    warn_of_spelled(clip, request.names)
    split = request.split(proposer.split)
    query_text = _text(params.query_prompts, clip, request)
    region_text = _text(params.region_prompts, clip, request)
    proposals = _proposals(proposer, request)
    found = segmenter(
        "both",
        proposals,
        query_text,
        split,
        params.clean,
        regions=_regions(clip, proposals, request),
        region_text=region_text,
    )
    votes = found.class_scores(0, request.size)
    most, winners = votes.max(0)
    confidence = most / votes.sum(0).clamp(min=1.0)
    return Prediction(split, winners.to(torch.uint8).numpy(), confidence.numpy())


def _text(prompts: str, clip: VisionLanguageModel, request: Request) -> ClassVectors:
    """Read the names in a set of templates, or in learned prompts."""
    if prompts == "learned":
        learned = Prompts.load(request.artifacts.find("prompts", PROMPTS), clip)
        return learned.class_vectors(request.names)
    templates = TEMPLATES[prompts]  # type: ignore[index]
    refuse_long(clip, request.names, templates)
    return TemplateText.embed(clip, request.names, templates).class_vectors(prompts)


def _proposals(proposer: Proposer, request: Request) -> Proposals:
    """Return the proposals of the photograph, in half precision as those that are scored."""
    test, path = request.params.simbaseline.test, request.photograph
    width, height = resized(request.image.size, test.short_sides[0], test.long_side)
    out = request.scratch / "proposals" / f"{path.stem}.h5"
    extract(
        proposer,
        TestImages((path.stem,), (path,), ((height, width),)),
        out,
        batch_size=1,
        runtime=start_runtime(request.params.compute.on_one_device()),
        scratch=request.scratch / "proposing",
    )
    return Proposals.open(out)


def _regions(clip: VisionLanguageModel, proposals: Proposals, request: Request) -> Regions:
    out = request.scratch / "regions" / f"{request.photograph.stem}.h5"
    embed_regions(
        clip,
        proposals,
        [request.photograph],
        out,
        request.params.vision_language.regions,
        runtime=start_runtime(request.params.compute.on_one_device()),
        scratch=request.scratch / "embedding",
    )
    return Regions.open(out, proposals=proposals.key)
