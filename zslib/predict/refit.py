"""Heads that learn new names: fitted once more on cached features, seconds on the world.

A published head holds one row per class, not the map from words to rows: with more dimensions of word
vectors than classes it cannot be told from them. The fit is the same as the stage's, with the choices
made there, so that the rows of the benchmark's classes come out again; the new names' stand beside.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import LabelMaps, open_labels
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.methods.joem import cells as joem_cells
from zslib.methods.joem.closed_form import Moments, solve
from zslib.methods.joem.objectives import consistency_classes
from zslib.methods.spnet import frozen as spnet
from zslib.predict.artifacts import Artifact
from zslib.predict.request import Request
from zslib.predict.words import embeddings_with
from zslib.prototypes import PrototypeClassifier

FEATURES = Artifact("{split}/features/train", "train_features@{split}")
SEEN_LABELS = Artifact("{split}/seen_labels.h5", "seen_labels@{split}")

_TOLERANCE = 0.01
"""Of rows that come out again, as a share of the largest entry."""


def with_spnet(head: PixelClassifier, names: Sequence[str], request: Request) -> PixelClassifier:
    """Return SPNet's classifier with new names, unseen ones (spnet §10).

    Raises:
        InputError: a word has no vector, an artifact is missing, or the old rows come out otherwise.
    """
    params, split = request.params.spnet, _with_unseen(head.split, names)
    features, labels = _training_data(request)
    embeddings = embeddings_with(names, head.split.classes, params.vectors, request)
    inputs = spnet.Inputs(
        PixelBank.open(features / "bank.h5"),
        DenseMaps.open(features / "maps.h5"),
        labels,
        embeddings,
    )
    fitted = spnet.fit_projection(
        inputs, split, params.training, allowed=None, seed=request.params.seed
    )
    _refuse_another(fitted.weight, head.weight, "spnet")
    return replace(head, split=split, weight=fitted.weight, bias=fitted.bias)


def with_joem(
    head: PrototypeClassifier, names: Sequence[str], request: Request
) -> PrototypeClassifier:
    """Return the closed form of JoEm with prototypes of new names, unseen ones (joem §10).

    Raises:
        InputError: a word has no vector, an artifact is missing, or the old rows come out otherwise.
    """
    params, split = request.params.joem, _with_unseen(head.split, names)
    features, labels = _training_data(request)
    embeddings = embeddings_with(names, head.split.classes, params.vectors, request)
    maps = DenseMaps.open(features / "maps.h5")
    inputs = joem_cells.Inputs(maps, labels, embeddings)
    prototypes = solve(
        Moments.of(joem_cells.labelled_cells(inputs, split, maps, params.objectives)),
        embeddings,
        consistency_classes(head.split),
        params.objectives,
        ridge=head.meta["ridge"]["chosen"],
        steps=params.closed_form.consistency_steps,
    )
    _refuse_another(prototypes, head.prototypes, "joem")
    return replace(head, split=split, prototypes=prototypes)


def _with_unseen(split: Split, names: Sequence[str]) -> Split:
    classes = (*split.classes, *names)
    new = range(len(split.classes), len(classes))
    return Split.from_ids(split.name, classes, (*split.unseen, *new), split.void)


def _training_data(request: Request) -> tuple[Path, LabelMaps]:
    """Return the folder of cached features, and the seen labels."""
    features = request.artifacts.find("features", FEATURES)
    return features, open_labels(request.artifacts.find("seen_labels", SEEN_LABELS))


def _refuse_another(found: Float[Tensor, "c1 d"], old: Float[Tensor, "c d"], method: str) -> None:
    if (found[: len(old)] - old).abs().max() > _TOLERANCE * old.abs().max():
        raise InputError(
            f"{method}: fitted once more, it is another classifier than the one there is; artifacts "
            "and params.yaml are not of one run, run `dvc repro`"
        )
