"""CaGNet's second version (arXiv 2009.12232): a class is told from a patch of 3x3 cells (cagnet §11).

A 3x3 convolution stands between the layer that discriminator and classifier share and the logits, so
the classifier sees a pixel among its eight neighbours; discriminator and reconstruction still see it
alone. A synthetic patch has one latent code, and only its centre is classified.

Released are layouts of synthetic patches drawn by a PixelCNN, whose training gives the answer away
and whose sampling makes them near-uniform. Here they are cut from label maps of seen classes. Beyond
an edge the nearest cell is repeated, so that cells there look like any other; released: zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.artifacts.features import DenseMaps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.classifier import PixelClassifier
from zslib.errors import InputError
from zslib.methods.cagnet.batches import Windows, WindowSampler
from zslib.methods.cagnet.networks import (
    ContextualModule,
    DiscriminatorClassifier,
    gate,
    sample_latent,
)
from zslib.methods.cagnet.objectives import synthetic_prior
from zslib.methods.cagnet.players import Pixels, Players, View
from zslib.params.cagnet import CagnetNetworks

CELLS, CENTRE = 9, 4
"""Of a patch, in raster order."""


# --- networks ------------------------------------------------------------------------------------


class PatchDiscriminatorClassifier(DiscriminatorClassifier):
    """Discriminator of pixels and classifier of patches, which share their first layer."""

    def __init__(self, dimension: int, num_classes: int, params: CagnetNetworks) -> None:
        super().__init__(dimension, num_classes, params)
        self.mixing = nn.Linear(CELLS * params.shared_hidden, params.shared_hidden)
        """The 3x3 convolution, which is linear (cagnet §11)."""
        nn.init.kaiming_normal_(self.mixing.weight)
        nn.init.zeros_(self.mixing.bias)

    def classify(self, squashed: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Return the logits of patches, each a row of nine features."""
        hidden = self._hidden(squashed.reshape(CELLS * len(squashed), -1))
        return self.classes(self.mixing(hidden.reshape(len(squashed), -1)))


class PatchPlayers(Players):
    """Generator of features, and discriminator with the classifier of patches."""

    discriminator: PatchDiscriminatorClassifier

    def __init__(
        self,
        embedding_dimension: int,
        dimension: int,
        num_classes: int,
        params: CagnetNetworks,
    ) -> None:
        super().__init__(embedding_dimension, dimension, num_classes, params)
        self.discriminator = PatchDiscriminatorClassifier(dimension, num_classes, params)

    def generate(
        self, words: Float[Tensor, "n 9 e"], latent: Float[Tensor, "n 9 d"]
    ) -> Float[Tensor, "n k"]:
        """Return patches of generated features, each a row."""
        return self.generator(words.flatten(0, 1), latent.flatten(0, 1)).reshape(len(words), -1)

    def classifier(self, split: Split) -> "PatchClassifier":
        """Return the classifier, which reads gated maps: two linear layers are one."""
        judge, pixelwise = self.discriminator, super().classifier(split)
        weight, bias = (p.detach().cpu() for p in (judge.mixing.weight, judge.mixing.bias))
        return PatchClassifier(
            split,
            pixelwise.weight @ weight,
            pixelwise.weight @ bias + pixelwise.bias,
            hidden=pixelwise.hidden,
            squash=True,
        )


@dataclass(frozen=True)
class PatchClassifier(PixelClassifier):
    """A classifier that reads whole maps: the hidden layers of nine cells make a cell's scores."""

    weight: Float[Tensor, "c k"]

    def scores(self, features: Float[Tensor, "h w d"]) -> Float[Tensor, "h w c"]:
        """Return the scores of all cells of a map."""
        assert self.hidden is not None
        hidden = F.linear(features.sigmoid(), *self.hidden).relu().permute(2, 0, 1)
        edged = F.pad(hidden[None], (1, 1, 1, 1), mode="replicate")
        kernel = self.weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        return F.conv2d(edged, kernel, self.bias)[0].permute(1, 2, 0)

    def reader(self) -> PixelClassifier:
        """Return the classifier that reads maps of these scores instead of features."""
        classes = len(self.bias)
        return PixelClassifier(self.split, torch.eye(classes), torch.zeros(classes), meta=self.meta)


# --- patches of training maps --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Patches(Pixels):
    """Labelled pixels, each amid its patch; neighbours may be void: features, but no word."""

    around: Float[Tensor, "n 9 d"]
    """Sigmoid of the gated features."""
    latent_around: Float[Tensor, "n 9 d"]
    words_around: Float[Tensor, "n 9 e"]

    @property
    def views(self) -> tuple[View, ...]:
        return (View(self.around.flatten(1), self.labels),)


class PatchSource:
    """Patches around some labelled pixels of training maps, the contextual module being fixed."""

    def __init__(
        self,
        maps: DenseMaps,
        grids: Sequence[UInt8[np.ndarray, "h w"]],
        context: ContextualModule,
        words: Float[Tensor, "256 e"],
        *,
        side: int,
        batch_size: int,
        rows: int | None,
    ) -> None:
        self._sampler = WindowSampler(
            maps, list(grids), side=side, batch_size=batch_size, rows=None
        )
        self._context, self._words, self._rows = context, words, rows
        self._outside = context.centre.cpu()

    def draw(self, rng: np.random.Generator) -> Windows:
        """Draw windows with all their labels."""
        return self._sampler.draw(self._outside, rng)

    @torch.no_grad()
    def patches(self, windows: Windows) -> Patches:
        """Return patches around at most `rows` of the labelled pixels, with latent codes drawn anew."""
        windows = windows.to(self._words.device)
        standardised = self._context.standardise(windows.features.permute(0, 2, 3, 1))
        moments = self._context(standardised.permute(0, 3, 1, 2))
        mean, log_variance = (moment.permute(0, 2, 3, 1) for moment in moments)
        latent = sample_latent(mean, log_variance)
        squashed = gate(standardised, latent).sigmoid()
        kept = torch.randperm(len(windows.cells))[: self._rows].sort().values
        cells = windows.cells.cpu().index_select(0, kept)
        around = neighbours(cells, *latent.shape[1:3]).flatten().to(latent.device)
        void = torch.full((latent[..., 0].numel(),), IGNORE_INDEX, device=latent.device)

        def cut(rows: Tensor, chosen: Tensor) -> Tensor:
            return rows.index_select(0, chosen).unflatten(0, (-1, CELLS))

        labels = cut(void.index_copy(0, windows.cells, windows.labels), around)
        features, codes = (cut(found.flatten(0, 2), around) for found in (squashed, latent))
        words = cut(self._words, labels.flatten())
        return Patches(
            features[:, CENTRE],
            codes[:, CENTRE],
            words[:, CENTRE],
            labels[:, CENTRE],
            around=features,
            latent_around=codes,
            words_around=words,
        )


def neighbours(cells: Int64[Tensor, " n"], height: int, width: int) -> Int64[Tensor, "n 9"]:
    """Return the patch around each cell of flattened maps (b, h, w); an edge repeats its cells."""
    step = torch.arange(-1, 2)
    rows = (cells[:, None] // width % height + step).clamp(0, height - 1)
    columns = (cells[:, None] % width + step).clamp(0, width - 1)
    images = cells // (height * width) * (height * width)
    return (images[:, None, None] + rows[:, :, None] * width + columns[:, None, :]).flatten(1)


# --- synthetic patches ---------------------------------------------------------------------------


class PatchLabels:
    """Draws label patches for synthesis: most of one class, some of an unseen one beside seen ones.

    The former follow the prior of the first version. The latter are patches of seen label maps in
    which one class has 7 or 8 of the 9 cells, and an unseen class in its place (cagnet §11).
    """

    def __init__(
        self,
        grids: Sequence[UInt8[np.ndarray, "h w"]],
        split: Split,
        *,
        unseen_boost: float,
        mixed_share: float,
    ) -> None:
        self._prior, self._unseen = synthetic_prior(split, unseen_boost), np.array(split.unseen)
        self._share = mixed_share
        self._layouts = mixed_layouts(grids)
        if mixed_share and not len(self._layouts):
            raise InputError(
                "cagnet.patches.mixed_share: no 3x3 patch of the training labels shows two classes "
                "and no void; set it to 0"
            )

    def draw(self, count: int, rng: np.random.Generator) -> Int64[Tensor, "n 9"]:
        """Draw the labels of some patches."""
        labels = rng.choice(len(self._prior), count, p=self._prior)[:, None].repeat(CELLS, 1)
        mixed = np.flatnonzero(rng.random(count) < self._share)
        if mixed.size:
            layouts = self._layouts[rng.integers(0, len(self._layouts), len(mixed))]
            unseen = rng.choice(self._unseen, len(mixed))[:, None]
            labels[mixed] = np.where(layouts == IGNORE_INDEX, unseen, layouts)
        return torch.from_numpy(labels)


def mixed_layouts(grids: Sequence[UInt8[np.ndarray, "h w"]]) -> UInt8[np.ndarray, "n 9"]:
    """Return the patches of label maps that one class fills but for 1 or 2 cells; it is void in them.

    Patches that show void already are left out.
    """
    found = [np.empty((0, CELLS), np.uint8)]
    for grid in grids:
        if min(grid.shape) < 3:
            continue
        patches = sliding_window_view(grid, (3, 3)).reshape(-1, CELLS)
        patches = patches[(patches != IGNORE_INDEX).all(1)]
        commonest = np.sort(patches, axis=1)[
            :, CENTRE, None
        ]  # of 5 cells or more, it is the median
        where = patches == commonest
        mixed = np.isin(where.sum(1), (7, 8))
        found.append(np.where(where, np.uint8(IGNORE_INDEX), patches)[mixed])
    return np.concatenate(found)
