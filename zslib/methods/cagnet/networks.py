"""CaGNet's networks (cagnet §3, §4): contextual module, generator, discriminator with classifier.

Every convolution and linear layer starts from Kaiming's normal with fan-in, biases from 0 (cagnet O1).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zslib.params.cagnet import CagnetNetworks

DILATIONS = (1, 2, 5)


def gate(features: Float[Tensor, "*n"], latent: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the gated feature F (1 + sigmoid(z)); its sigmoid is what the players see (cagnet §3)."""
    return features * (1 + latent.sigmoid())


class ContextualModule(nn.Module):
    """Feature map -> mean and log-variance of each pixel's latent code (cagnet §3).

    The features of a backbone that end in a ReLU are standardised first, channel by channel: they
    stand in for the unbounded ones of the paper, half of which a sigmoid sends below 1/2.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, dimension: int, params: CagnetNetworks) -> None:
        super().__init__()
        self.params = params
        width = params.context_channels
        self.scales = nn.ModuleList(
            _conv3x3(channels, width, dilation=dilation)
            for channels, dilation in zip((dimension, width, width), DILATIONS, strict=True)
        )
        self.selector = _conv3x3(len(DILATIONS) * width, len(DILATIONS))
        self.fusion = nn.Conv2d(len(DILATIONS) * width, dimension, 1, bias=False)
        self.mean = _conv3x3(dimension, dimension)
        self.log_variance = _conv3x3(dimension, dimension)
        self.register_buffer("centre", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(dimension))
        self.apply(_initialise)

    def standardise(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return features with the mean and deviation of the training maps taken out."""
        return (features - self.centre) / self.scale

    def forward(
        self, features: Float[Tensor, "b d h w"]
    ) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d h w"]]:
        """Return mean and log-variance for standardised features."""
        at_scale, contexts = features.sigmoid(), []
        for convolution in self.scales:
            at_scale = convolution(at_scale).relu()
            contexts.append(at_scale)
        gates = scale_gates(self.selector(torch.cat(contexts, dim=1)))
        fused = self.fusion(select_scales(contexts, gates)).relu()
        log_variance = self.log_variance(fused)
        if not self.params.signed_log_variance:
            log_variance = log_variance.relu()
        return self.mean(fused), log_variance


def scale_gates(activations: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Return one gate per scale and pixel, each for itself: no softmax (cagnet §3)."""
    return activations.relu().sigmoid()


def select_scales(
    contexts: list[Float[Tensor, "b c h w"]], gates: Float[Tensor, "b k h w"]
) -> Float[Tensor, "b kc h w"]:
    """Weigh the context of each scale by its gate; they stay side by side."""
    pairs = zip(contexts, gates.split(1, dim=1), strict=True)
    return torch.cat([context * weight for context, weight in pairs], dim=1)


def sample_latent(
    mean: Float[Tensor, "*n"], log_variance: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Draw each pixel's latent code."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


class FeatureGenerator(nn.Module):
    """Class embedding and latent code -> the sigmoid of a gated feature, pixel by pixel (cagnet §4)."""

    def __init__(self, embedding_dimension: int, dimension: int, params: CagnetNetworks) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = embedding_dimension + dimension
        for hidden, dropout in zip(params.generator_hidden, params.generator_dropout, strict=True):
            layers += [nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension), nn.Sigmoid())
        self.apply(_initialise)

    def forward(
        self, class_embeddings: Float[Tensor, "n e"], latent: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n d"]:
        return self.layers(torch.cat([class_embeddings, latent], dim=1))


class DiscriminatorClassifier(nn.Module):
    """Discriminator and classifier, which share their first layer (cagnet §4)."""

    def __init__(self, dimension: int, num_classes: int, params: CagnetNetworks) -> None:
        super().__init__()
        self.shared = nn.Linear(dimension, params.shared_hidden)
        self.dropout = nn.Dropout(params.shared_dropout)
        self.realness = nn.Linear(params.shared_hidden, 1)
        self.classes = nn.Linear(params.shared_hidden, num_classes + params.dummy_class)
        self.apply(_initialise)

    def discriminate(self, squashed: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return how real each feature looks; of no bounded range."""
        return self.realness(self._hidden(squashed))[:, 0]

    def classify(self, squashed: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return the logits of all classes."""
        return self.classes(self._hidden(squashed))

    def _hidden(self, squashed: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        return self.dropout(self.shared(squashed).relu())


def _conv3x3(channels: int, width: int, *, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
