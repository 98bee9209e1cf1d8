"""The networks that look at single pixels, and what they learn from labelled ones (cagnet §4).

Every network has a loss and an optimiser of its own. All gradients are taken from one graph before
any network moves: the released code mixes weights of before and after (cagnet §10-B4).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.methods.cagnet.networks import DiscriminatorClassifier, FeatureGenerator
from zslib.methods.cagnet.objectives import adversarial_loss, reconstruction_loss
from zslib.params.cagnet import CagnetNetworks, CagnetObjectives, CagnetPlayers
from zslib.training import Checkpoint, build_optimiser


class Players(nn.Module):
    """Generator, and discriminator with classifier."""

    def __init__(
        self,
        embedding_dimension: int,
        dimension: int,
        num_classes: int,
        params: CagnetNetworks,
    ) -> None:
        super().__init__()
        self.generator = FeatureGenerator(embedding_dimension, dimension, params)
        self.discriminator = DiscriminatorClassifier(dimension, num_classes, params)

    def optimisers(self, params: CagnetPlayers) -> dict[str, Optimizer]:
        """Return a fresh optimiser for each player."""
        generator, discriminator = self.generator.parameters(), self.discriminator.parameters()
        return {
            "generator": build_optimiser(params.generator, generator),
            "discriminator": build_optimiser(params.discriminator, discriminator),
        }

    def classifier(self, split: Split) -> PixelClassifier:
        """Return the classifier, which reads gated maps; a dummy output stays behind."""
        shared, last = self.discriminator.shared, self.discriminator.classes
        hidden = (shared.weight.detach().cpu().clone(), shared.bias.detach().cpu().clone())
        weight, bias = (
            parameter.detach().cpu()[: len(split.classes)].clone()
            for parameter in (last.weight, last.bias)
        )
        return PixelClassifier(split, weight, bias, hidden=hidden, squash=True)


@dataclass(frozen=True)
class View:
    """Labelled pixels for the classifier alone."""

    squashed: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels of a batch, in raster order."""

    squashed: Float[Tensor, "n d"]
    """Sigmoid of the gated feature."""
    latent: Float[Tensor, "n d"]
    words: Float[Tensor, "n e"]
    """Class embeddings."""
    labels: Int64[Tensor, " n"]
    more: tuple[View, ...] = ()
    """The batch at other scales (cagnet §2)."""

    @property
    def views(self) -> tuple[View, ...]:
        """All that the classifier learns from."""
        return View(self.squashed, self.labels), *self.more


@dataclass(frozen=True)
class RealLosses:
    """The losses on labelled pixels: each player's, and the two that the contextual module shares."""

    discriminator: Float[Tensor, ""]
    generator: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]

    def of_players(self) -> dict[str, Tensor]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def curves(self) -> dict[str, Tensor]:
        """Return what a run logs."""
        return {
            "loss": self.classification.detach(),
            "discriminator": self.discriminator.detach(),
            "reconstruction": self.reconstruction.detach(),
        }


def losses_on_real(
    players: Players, pixels: Pixels, objectives: CagnetObjectives, params: CagnetPlayers
) -> RealLosses:
    """Return the losses on real features and on those generated for the same pixels (cagnet §4).

    Each pass through a network draws a dropout mask of its own (cagnet O2).
    """
    judge, kind = players.discriminator, objectives.adversarial
    real, labels = pixels.squashed.detach(), pixels.labels
    fake = players.generator(pixels.words, pixels.latent)
    found_fake = adversarial_loss(judge.discriminate(fake.detach()), 0, kind)
    found_real = adversarial_loss(judge.discriminate(real), 1, kind)
    scales = [F.cross_entropy(judge.classify(v.squashed), v.labels) for v in pixels.views]
    classification = torch.stack(scales).mean()
    discriminator = found_real + found_fake + params.real_weight * classification
    if params.fake_weight:
        on_fake = F.cross_entropy(judge.classify(fake), labels)
        discriminator = discriminator + params.fake_weight * on_fake
    reconstruction = reconstruction_loss(fake, real, labels, objectives.reconstruction)
    deceived = adversarial_loss(judge.discriminate(fake), 1, kind)
    generator = objectives.adversarial_weight * deceived
    generator = generator + objectives.reconstruction_weight * reconstruction
    return RealLosses(discriminator, generator, classification, reconstruction)


def checkpoint_of(kept: Checkpoint | None, training: str) -> Checkpoint | None:
    """Return where one of several trainings keeps its state: in a folder of its own in `kept`'s."""
    return kept and replace(kept, folder=kept.folder / training.replace(" ", "-"))


def take_steps(
    losses: Mapping[str, Tensor], optimisers: Mapping[str, Optimizer], *, step_idle: bool
) -> None:
    """Take the gradient of each loss for its own network, then step all of them.

    A parameter that its loss does not depend on rests; with `step_idle` its gradient is 0, and its
    optimiser moves it by momentum and weight decay (cagnet E6, O3).
    """
    parameters = {
        name: [p for group in optimisers[name].param_groups for p in group["params"]]
        for name in losses
    }
    gradients = {
        name: torch.autograd.grad(
            loss,
            parameters[name],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=step_idle,
        )
        for name, loss in losses.items()
    }
    for name, found in gradients.items():
        for parameter, gradient in zip(parameters[name], found, strict=True):
            # A fused optimiser pairs the two by place in memory, where `grad` may have another order.
            parameter.grad = (
                None if gradient is None else torch.empty_like(parameter).copy_(gradient)
            )
        optimisers[name].step()
