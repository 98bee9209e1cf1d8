"""JoEm's networks: the semantic encoder, and the visual head of its frozen form (joem §2.3, §10)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SemanticEncoder(nn.Module):
    """Class embeddings to prototypes in the space of pixel features: one affine layer (joem §2.3)."""

    def __init__(self, embedding_dimension: int, dimension: int) -> None:
        super().__init__()
        self.affine = nn.Linear(embedding_dimension, dimension)
        nn.init.xavier_uniform_(self.affine.weight)
        nn.init.constant_(self.affine.bias, 0.01)

    def forward(self, class_embeddings: Float[Tensor, "c e"]) -> Float[Tensor, "c d"]:
        """Return the prototype of each class."""
        return self.affine(class_embeddings)

    def table(self, class_embeddings: Float[Tensor, "c e"]) -> Float[Tensor, "c+1 d"]:
        """Return the prototypes and, as one row more, that of void."""
        return self(with_void(class_embeddings))


def with_void(class_embeddings: Float[Tensor, "c e"]) -> Float[Tensor, "c+1 e"]:
    """Append the embedding of void, the zero vector (joem §3.2)."""
    return F.pad(class_embeddings, (0, 0, 0, 1))


class VisualHead(nn.Module):
    """Cached features to the joint space, cell by cell: 1x1 convolution, batch norm, ReLU (joem §10).

    The auxiliary classifier serves the cross-entropy, and is left behind (joem §3.1).
    """

    def __init__(self, feature_dimension: int, dimension: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(feature_dimension, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)
        self.classifier = nn.Linear(dimension, num_classes)

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        return self.norm(self.project(features)).relu()

    @torch.no_grad()
    def folded(self) -> tuple[Float[Tensor, "d f"], Float[Tensor, " d"]]:
        """Return weight and bias of the linear layer that both are in eval mode, before the ReLU."""
        norm = self.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return scale[:, None] * self.project.weight, norm.bias - scale * norm.running_mean
