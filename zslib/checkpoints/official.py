"""The released files of each method, and the artifacts that they become.

- `imagenet-encoder`: ResNet-101 of seen-only ImageNet (zs3net §2); for backbone.model.encoder.weights.
- `zs3net-backbone`: DeepLabV3+ after stage 1 or 2 (zs3net §2, §6); a folder as the stage `backbone` writes.
- `zs3net-generator`: the GMMN (zs3net §4.1); generator.safetensors, without held-out draws.
- `joem`: DeepLabV3+ and, as --semantic, its encoder (joem §2); a folder as JoEm's training writes.
- `spnet`: DeepLabV2 (spnet §2); a folder of the network and the classifier of its features at one scale.
- `cagnet-backbone`: the DeepLabV2 inside CaGNet's file (cagnet §2, §10.B6); network.safetensors.
- `vectors`: .npy or .pkl, one row per class (cagnet §1); one source of class vectors.

What the specs record of names: the encoder of DeepLabV3+ has torchvision's (624 of 626 match, joem
O19; `fc` is the rest); SPNet's names begin with `scale.`, CaGNet's backbone with `back.scale.`, where
names of the contextual module hold "contextual" but for the selector's (cagnet §10.A4, §10.B6). All
else is paired by order and shape (`zslib.checkpoints.mapping`): the dilated branches of an ASPP, alike
in shape, are taken in the order of their dilations, which the numbers in their names must confirm.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import save_tensors
from zslib.backbones.encoder import build_encoder
from zslib.backbones.network import SegmentationNetwork
from zslib.backbones.trained import Backbone, build_network
from zslib.checkpoints.files import ReleasedFile, read_checkpoint, read_table
from zslib.checkpoints.mapping import apart, by_name, fill, in_order, without_counters
from zslib.checkpoints.request import Request
from zslib.classifier import PixelClassifier
from zslib.datasets.decode import checksum, read_bytes
from zslib.embeddings.table import ClassVectors, save_class_vectors
from zslib.errors import InputError
from zslib.methods.joem.networks import SemanticEncoder
from zslib.methods.supervised import own_classifier
from zslib.methods.zs3net.generator import Generator, Generators, save_generators
from zslib.prototypes import PrototypeClassifier

ENCODER = Schema("encoder/1", "zslib import-checkpoint")
CAFFE_MEAN = (122.675, 116.669, 104.008)
"""Red, green, blue (spnet §5); there is no deviation to divide by."""

_CLASSIFIER_LAYER = ("fc.weight", "fc.bias")
_NO_DRAWS = (
    "comes without held-out draws: the classifier gives unseen classes the released weight, and "
    "self_training.zs3net.labels.candidates must have one value"
)

_CAFFE_STRIDE = (
    "these weights stride in the first 1x1 convolution of a stage, our ResNet in its 3x3 "
    "(joem O19): features of the stage of stride 2 differ from the published ones"
)


def import_encoder(request: Request) -> Sequence[str]:
    """Publish an encoder under timm's names; its classifier of ImageNet is left behind."""
    wanted = request.model.encoder
    with torch.device("meta"):
        encoder = build_encoder(wanted, output_stride=32, pretrained=False)
    tensors = by_name(
        request.checkpoint,
        encoder.state_dict(),
        left_out=_CLASSIFIER_LAYER,
        network=f"{wanted.name} (params.yaml:backbone.model.encoder.name)",
    )
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    save_tensors(request.out, arrays, schema=ENCODER, meta=_origin(request.file))
    return [f"now list it: backbone.model.encoder.weights: [{request.out}]"]


def import_zs3net_backbone(request: Request) -> Sequence[str]:
    """Publish DeepLabV3+ with its own classifier: of stage 1, or of stage 2 for its scores."""
    model, split = request.model_of("deeplab_v3_plus"), request.division
    network = build_network(model, len(split.classes), pretrained=False)
    fill(network, _deeplab(request.checkpoint, network))
    backbone = Backbone(network, model, split)
    _publish(request.out, backbone, own_classifier(backbone))
    return []


def import_joem(request: Request) -> Sequence[str]:
    """Publish JoEm's network, and the prototypes that its semantic encoder makes (joem §2.4).

    The auxiliary classifier is not used at test (joem §3.1), and may be missing.
    """
    if request.semantic is None:
        raise InputError("--semantic: missing; give the file of the semantic encoder")
    model, split = request.model_of("deeplab_v3_plus"), request.division
    words = request.class_embeddings
    network = build_network(model, len(split.classes), pretrained=False)
    fill(network, _deeplab(request.checkpoint, network, may_lack_classifier=True))
    encoder = SemanticEncoder(words.shape[1], model.feature_channels)
    fill(encoder, in_order(read_checkpoint(request.semantic), encoder.state_dict()))
    with torch.no_grad():
        prototypes = encoder(words)
    sigma = 1.0 if request.calibration is None else request.calibration
    classifier = PrototypeClassifier(split, prototypes, sigma, meta=_origin(request.file))
    _publish(request.out, Backbone(network, model, split), classifier)
    return []


def import_spnet(request: Request) -> Sequence[str]:
    """Publish SPNet's network; its classifier is the class embeddings, constants of no file (spnet §2)."""
    words = request.class_embeddings
    backbone = _caffe_backbone(request.checkpoint, request)
    width = backbone.params.feature_channels
    if words.shape[1] != width:
        raise InputError(
            f"{request.embeddings}: has {words.shape[1]} numbers per class, the network {width}; "
            "give embeddings of the sources that it was trained with"
        )
    with torch.no_grad():
        backbone.network.classifier.weight.copy_(words[:, :, None, None])
    classifier = replace(own_classifier(backbone), gamma=request.calibration or 0.0)
    _publish(request.out, backbone, replace(classifier, meta=_origin(request.file)))
    return [_CAFFE_STRIDE]


def import_cagnet_backbone(request: Request) -> Sequence[str]:
    """Publish the DeepLabV2 of a CaGNet file; say what of the file is left out."""
    everything = request.checkpoint
    inside = everything.below("back.scale.")
    own = {n: t for n, t in inside.tensors.items() if not _is_contextual(n, t)}
    backbone = _caffe_backbone(replace(inside, tensors=own), request)
    backbone.save(request.out)
    context, outside = len(inside.tensors) - len(own), len(everything.tensors) - len(inside.tensors)
    return [
        f"left out: {context} tensors of the contextual module, {outside} of generator, "
        "discriminator, classifier and embeddings",
        _CAFFE_STRIDE,
    ]


def import_generator(request: Request) -> Sequence[str]:
    """Publish a generator by itself: no seen classes were held out from it, to choose anything with."""
    params, found = request.params.zs3net.generator, request.checkpoint
    first, *_, last = found.tensors.values()
    inputs, outputs = first.shape[-1] if first.dim() else 0, len(last) if last.dim() else 0
    if inputs <= params.noise_dimension:
        raise InputError(
            f"{request.file}: its first layer takes {inputs} numbers, no more than "
            f"zs3net.generator.noise_dimension ({params.noise_dimension}); correct that"
        )
    generator = Generator(inputs - params.noise_dimension, outputs, params)
    fill(generator, in_order(found, generator.state_dict()))
    save_generators(request.out, Generators(generator, (), ()))
    return [_NO_DRAWS]


def import_vectors(request: Request) -> Sequence[str]:
    """Publish a table of class vectors; its rows are the benchmark's classes in their order."""
    rows, classes = read_table(request.file), tuple(request.params.benchmark.classes)
    if len(rows) != len(classes):
        raise InputError(
            f"{request.file}: has {len(rows)} rows, the benchmark "
            f"'{request.params.benchmark.name}' {len(classes)} classes; take the file of its classes"
        )
    vectors = ClassVectors(request.source, classes, rows, _origin(request.file))
    save_class_vectors(request.out, vectors)
    return []


IMPORTS: dict[str, Callable[[Request], Sequence[str]]] = {
    "imagenet-encoder": import_encoder,
    "zs3net-backbone": import_zs3net_backbone,
    "zs3net-generator": import_generator,
    "joem": import_joem,
    "spnet": import_spnet,
    "cagnet-backbone": import_cagnet_backbone,
    "vectors": import_vectors,
}
"""By kind; each publishes an artifact, and returns what its user should know."""

_NETWORK, _CLASSIFIER = _FILES = ("network.safetensors", "classifier.safetensors")
FOLDERS = dict.fromkeys(("zs3net-backbone", "joem", "spnet"), _FILES)
"""Kinds that become a folder, and its files; the others become a file."""


def _deeplab(
    found: ReleasedFile, network: SegmentationNetwork, *, may_lack_classifier: bool = False
) -> dict[str, Tensor]:
    """Return DeepLabV3+: the encoder by torchvision's names, the rest in the order of its layers."""
    encoder = network.encoder.state_dict()
    part, rest = apart(found, list(encoder))
    head = _head(network) | _classifier(network)
    if may_lack_classifier and len(without_counters(rest.tensors)) < len(without_counters(head)):
        others = in_order(rest, _head(network)) | _zeros(_classifier(network))
    else:
        others = in_order(rest, head)
    return {f"encoder.{name}": t for name, t in by_name(part, encoder).items()} | others


def _caffe_backbone(found: ReleasedFile, request: Request) -> Backbone:
    """Return DeepLabV2 with Caffe's weights: they take BGR in 0..255, without a deviation (spnet §5)."""
    model, split = request.model_of("deeplab_v2"), request.division
    network = build_network(model, len(split.classes), pretrained=False)
    encoder = {f"encoder.{name}": t for name, t in network.encoder.state_dict().items()}
    tensors = in_order(found, encoder | _head(network))
    stem = next(iter(tensors))
    tensors[stem] = tensors[stem].flip(1)
    fill(network, tensors | _zeros(_classifier(network)))
    mean = tuple(value / 255 for value in CAFFE_MEAN)
    picture = model.encoder.model_copy(update={"mean": mean, "std": (1 / 255,) * 3})
    return Backbone(network, model.model_copy(update={"encoder": picture}), split)


def _head(network: SegmentationNetwork) -> dict[str, Tensor]:
    """Return what lies between encoder and classifier, in the order of its layers."""
    apart_from = ("encoder.", "classifier.")
    return {n: t for n, t in network.state_dict().items() if not n.startswith(apart_from)}


def _classifier(network: SegmentationNetwork) -> dict[str, Tensor]:
    return {f"classifier.{name}": t for name, t in network.classifier.state_dict().items()}


def _zeros(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def _is_contextual(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is of the contextual module: the selector has one gate for each of 3 scales."""
    return "contextual" in name or (tensor.dim() == 4 and len(tensor) == 3)


def _publish(
    out: Path, backbone: Backbone, classifier: PixelClassifier | PrototypeClassifier
) -> None:
    with publish(out) as temporary:
        backbone.save(temporary / _NETWORK)
        classifier.save(temporary / _CLASSIFIER)


def _origin(file: Path) -> dict[str, str]:
    return {"imported_from": file.name, "xxh3": checksum(read_bytes(file))}
