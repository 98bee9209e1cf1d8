"""How the players of CaGNet's second version learn (cagnet §5, §11); what they see is in `patches.py`.

The contextual module is that of the first version's step 1, so both read the same gated maps. With it
fixed, players learn on patches of seen classes; then, as in `step2.py`, blocks of real and synthetic
patches alternate, and how much unseen classes are favoured is chosen on held-out seen ones.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from zslib.artifacts.features import DENSE, DenseMaps
from zslib.artifacts.maps import LabelMaps
from zslib.artifacts.resumable import ResumableFile
from zslib.artifacts.store import Room
from zslib.benchmark import Split
from zslib.methods.cagnet.batches import Windows, label_grids
from zslib.methods.cagnet.networks import ContextualModule
from zslib.methods.cagnet.objectives import word_table
from zslib.methods.cagnet.patches import (
    CELLS,
    CENTRE,
    PatchClassifier,
    Patches,
    PatchLabels,
    PatchPlayers,
    PatchSource,
)
from zslib.methods.cagnet.players import RealLosses, checkpoint_of, losses_on_real, take_steps
from zslib.params.cagnet import CagnetObjectives, CagnetPatches, CagnetPlayers
from zslib.selection import Choice, hiou_of, matrix_over, tuning_pairs
from zslib.training import Checkpoint, Curves, Losses, Runtime, TrainState, train


def fit(
    maps: DenseMaps,
    tuning: DenseMaps,
    labels: LabelMaps,
    context: ContextualModule,
    class_embeddings: Float[Tensor, "c e"],
    params: CagnetPatches,
    *,
    objectives: CagnetObjectives,
    draws: Sequence[Split],
    label_rule: str,
    seed: int,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> PatchClassifier:
    """Choose how much to favour unseen classes, then train on all seen ones.

    `maps` are of all training images, as the backbone made them; `tuning` are gated.

    Raises:
        InputError: no pixel has a label, or no patch of labels is mixed as `mixed_share` asks.
    """
    split = Split.described(dict(labels.meta))
    context = context.to(runtime.device).eval()
    words = word_table(class_embeddings).to(runtime.device)
    inside = set(tuning.ids)
    outside = [image_id for image_id in maps.ids if image_id not in inside]

    def training(name: str, of: Split, image_ids: Sequence[str]) -> PatchTraining:
        chosen = maps.only(image_ids)
        grids = list(label_grids(chosen, labels, of, label_rule))
        return PatchTraining(
            f"{split.name} {name}",
            of,
            chosen,
            grids,
            context=context,
            words=words,
            params=params,
            objectives=objectives,
            seed=seed,
            runtime=runtime,
            checkpoint=checkpoint,
        )

    table = []
    for number, draw in enumerate(draws):
        held_out = training(f"draw {number}", draw, outside)
        players = held_out.players()
        scored = (
            matrix_over(held_out.mixed(players, boost), tuning_pairs(tuning, labels, draw))
            for boost in params.step2.unseen_boosts
        )
        table.append(tuple(hiou_of(matrix, draw) for matrix in scored))
    boosts, hidden = tuple(params.step2.unseen_boosts), tuple(draw.unseen for draw in draws)
    choice, final = Choice(boosts, tuple(table), hidden), training("final", split, maps.ids)
    classifier = final.mixed(final.players(), choice.chosen, curves=curves)
    return replace(classifier, meta={"unseen_boost": choice.describe(split.classes)})


@dataclass(frozen=True)
class PatchTraining:
    """The trainings for a split, or for one with some seen classes held out."""

    name: str
    split: Split
    maps: DenseMaps
    grids: Sequence[UInt8[np.ndarray, "h w"]]
    """Seen labels of the maps' cells."""
    context: ContextualModule
    words: Float[Tensor, "256 e"]
    params: CagnetPatches
    objectives: CagnetObjectives
    seed: int
    runtime: Runtime
    checkpoint: Checkpoint | None = None
    """Each training keeps its state in a folder of its own in this one."""

    def players(self) -> PatchPlayers:
        """Train fresh players on real patches of seen classes."""
        torch.manual_seed(self.seed)
        players = PatchPlayers(
            self.words.shape[1], self.maps.dimension, len(self.split.classes), self.context.params
        ).to(self.runtime.device)
        self._train(players, self.params.step1, "players")
        return players

    def mixed(
        self, players: PatchPlayers, unseen_boost: float, *, curves: Curves | None = None
    ) -> PatchClassifier:
        """Train a copy of the players on real patches of seen and synthetic ones of all classes."""
        players = copy.deepcopy(players)
        synthetic = PatchLabels(
            self.grids,
            self.split,
            unseen_boost=unseen_boost,
            mixed_share=self.params.mixed_share,
        )
        self._train(players, self.params.step2, f"boost {unseen_boost:g}", synthetic, curves)
        return players.classifier(self.split)

    def _train(
        self,
        players: PatchPlayers,
        params: CagnetPlayers,
        kind: str,
        synthetic: PatchLabels | None = None,
        curves: Curves | None = None,
    ) -> None:
        """Train players on real patches, and in every other block on synthetic ones if there are any."""
        second, objectives = self.params.step2, self.objectives
        optimisers, name = players.optimisers(params), f"cagnet v2 {self.name} {kind}"
        source = PatchSource(
            self.maps,
            self.grids,
            self.context,
            self.words,
            side=self.params.crop,
            batch_size=params.batch_size,
            rows=params.rows,
        )

        def batches(start: int) -> Iterator[Windows | Tensor]:
            for step in range(start, params.steps):
                rng = np.random.default_rng([self.seed, step])
                if synthetic is not None and step // second.block % 2:
                    yield synthetic.draw(second.synthetic_rows, rng)
                else:
                    yield source.draw(rng)

        def step(batch: Windows | Tensor) -> Losses:
            if isinstance(batch, Windows):
                real = losses_on_patches(players, source.patches(batch), objectives, params)
                losses, found = real.of_players(), real.curves()
            else:
                loss = synthetic_loss(players, batch.to(self.runtime.device), self.words)
                losses = {"discriminator": second.synthetic_weight * loss}
                if second.generator_weight or objectives.step_idle:
                    losses["generator"] = second.generator_weight * loss
                found = {"loss": loss.detach(), "synthetic": loss.detach()}
            take_steps(losses, optimisers, step_idle=objectives.step_idle)
            return found

        train(
            TrainState({"players": players}, optimisers),
            step,
            batches,
            steps=params.steps,
            seed=self.seed,
            name=name,
            runtime=self.runtime,
            checkpoint=checkpoint_of(self.checkpoint, name),
            curves=curves,
        )


def losses_on_patches(
    players: PatchPlayers, patches: Patches, objectives: CagnetObjectives, params: CagnetPlayers
) -> RealLosses:
    """Return the losses on real pixels and those generated for them, classified amid their patches.

    The neighbours of a generated pixel are generated as well, void ones from no word (cagnet §4).
    """
    pixelwise = params.model_copy(update={"fake_weight": 0.0})
    found = losses_on_real(players, patches, objectives, pixelwise)
    if not params.fake_weight:
        return found
    fake = players.generate(patches.words_around, patches.latent_around)
    on_fake = F.cross_entropy(players.discriminator.classify(fake), patches.labels)
    return replace(found, discriminator=found.discriminator + params.fake_weight * on_fake)


def synthetic_loss(
    players: PatchPlayers, labels: Int64[Tensor, "n 9"], words: Float[Tensor, "256 e"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy at the centres of patches, each generated from one latent code."""
    embeddings = words.index_select(0, labels.flatten()).unflatten(0, (-1, CELLS))
    dimension = players.discriminator.shared.in_features
    latent = torch.randn(len(labels), 1, dimension, device=labels.device).expand(-1, CELLS, -1)
    logits = players.discriminator.classify(players.generate(embeddings, latent))
    return F.cross_entropy(logits, labels[:, CENTRE])


@torch.inference_mode()
def write_scores(out: Path, classifier: PatchClassifier, maps: DenseMaps, *, scratch: Path) -> None:
    """Publish the scores of gated maps as feature maps, for `classifier.reader()`.

    A classifier of single pixels cannot see neighbours; so it is told the outcome. A run that was
    killed resumes from `scratch`.
    """
    starts = np.cumsum([0, *maps.grids.astype(np.int64).prod(axis=1)])
    room = (int(starts[-1]), len(classifier.bias)), np.dtype(np.float16)
    arrays: dict[str, np.ndarray | Room] = {"features": room, "grids": maps.grids}
    file = ResumableFile.begin(scratch / "scores.h5", arrays, items=len(maps))
    for position in file.to_do:
        scores = classifier.scores(maps[position].float())
        start, stop = starts[position : position + 2]
        file["features"][start:stop] = scores.flatten(0, 1).half().numpy()
        file.note_done(position)
    file.publish(out, schema=DENSE, meta=maps.meta | {"ids": list(maps.ids)})
