"""Methods that classify pixel features: the rows of the names asked for, on the photograph's features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zslib.artifacts.features import DenseMaps
from zslib.backbones.trained import Backbone
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.features import Photographs, extract, plan_dense
from zslib.heads import load_head
from zslib.predict.artifacts import Artifact
from zslib.predict.output import Prediction
from zslib.predict.request import Request
from zslib.prototypes import PrototypeClassifier
from zslib.training import start_runtime

BACKBONE = Artifact("{split}/backbone/network.safetensors", "backbone@{split}")


@dataclass(frozen=True)
class HeadMethod:
    """A trained head, and how it learns new names, if it can."""

    name: str
    classifier: Artifact
    calibrated: bool = True
    learn: Callable[[Any, Sequence[str], Request], Any] | None = None
    """From a head, new names and the request to a head that has them too."""

    def predict(self, request: Request) -> Prediction:
        """Divide a photograph among names, with the method's calibration.

        A pixel's confidence is its class's probability, or of a nearest prototype the share of the
        next one's squared distance in both.

        Raises:
            InputError: an artifact is missing, or the method cannot know a name.
        """
        backbone = Backbone.load(request.artifacts.find("backbone", BACKBONE))
        head = load_head(request.artifacts.find("classifier", self.classifier))
        if not self.calibrated:
            head = head.uncalibrated()
        if new := [name for name in request.names if name not in head.split.classes]:
            if self.learn is None:
                raise InputError(
                    f"--classes: '{new[0]}' is none of the classes that {self.name} was trained for "
                    f"({', '.join(head.split.classes)}); take another method for it"
                )
            head = self.learn(head, new, request)
        return classified(among(head, request), features_of(backbone, request), request)


def features_of(backbone: Backbone, request: Request) -> Float[Tensor, "h w d"]:
    """Return the photograph's feature map, in half precision as those that are scored."""
    params = request.params.features
    photographs = Photographs.of(
        [request.photograph],
        [request.image.size],
        short_side=params.short_side,
        stride=backbone.params.feature_stride,
    )
    name = request.photograph.stem
    out = request.scratch / "features" / f"{name}.h5"
    runtime = start_runtime(request.params.compute.on_one_device())
    extract(
        backbone.features_of(runtime),
        photographs,
        {out: plan_dense(photographs, [name])},
        dimension=backbone.params.feature_channels,
        batch_size=1,
        runtime=runtime,
        scratch=request.scratch / "extracting",
    )
    return DenseMaps.open(out)[0]


def among(
    head: PixelClassifier | PrototypeClassifier, request: Request
) -> PixelClassifier | PrototypeClassifier:
    """Return the head's rows of the names asked for, in their order.

    Raises:
        InputError: a class is void in the split, so that its row means nothing.
    """
    split = head.split
    ids = [split.classes.index(name) for name in request.names]
    if void := [c for c in ids if c in split.void]:
        raise InputError(
            f"--classes: '{split.classes[void[0]]}' is void in split '{split.name}', where nothing "
            "was learned of it; leave it out"
        )
    own, rows = request.split(split), torch.tensor(ids)
    if isinstance(head, PrototypeClassifier):
        return replace(head, split=own, prototypes=head.prototypes[rows])
    return replace(head, split=own, weight=head.weight[rows], bias=head.bias[rows])


def classified(
    head: PixelClassifier | PrototypeClassifier, features: Float[Tensor, "h w d"], request: Request
) -> Prediction:
    """Return what a head makes of a feature map at the size of the photograph."""
    label_map = head.predict(features, request.size)
    sure = _sure(head, features, torch.from_numpy(label_map).long())
    return Prediction(head.split, label_map, sure.numpy())


def _sure(
    head: PixelClassifier | PrototypeClassifier,
    features: Float[Tensor, "h w d"],
    labels: Tensor,
) -> Float[Tensor, "H W"]:
    """Return how sure the head is of each pixel's label; see `HeadMethod.predict`."""
    size = (labels.shape[0], labels.shape[1])
    if isinstance(head, PixelClassifier):
        return head.logits(features, size).softmax(0).gather(0, labels[None])[0]
    distances = head.squared_distances(features, size)
    own = distances.gather(0, labels[None])[0]
    next_best = distances.scatter(0, labels[None], torch.inf).amin(0)
    tiny = torch.finfo(own.dtype).tiny
    return next_best / (own + next_best).clamp(min=tiny)
