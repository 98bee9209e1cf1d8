"""InverseForm's loss on edges: how far a shape would have to be moved and scaled (sazs §3.5).

The weights of its regressor were never part of SAZS's release: they come from a local file, or the
loss is left out.
"""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from zslib.errors import InputError

TILE = 224
"""Side of the maps that the regressor takes."""


class DistanceRegressor(nn.Module):
    """InverseForm's frozen network: two maps of 224x224 to the shift and scale between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(2 * TILE * TILE, 1000),
            nn.ReLU(),
            nn.Linear(1000, 32),
            nn.ReLU(),
            nn.Linear(32, 4),
        )

    def forward(self, pairs: Float[Tensor, "n m"]) -> Float[Tensor, "n 4"]:
        return self.fc(pairs)

    @classmethod
    def load(cls, path: Path) -> "DistanceRegressor":
        """Return it with the weights of a file, frozen. Raises InputError."""
        regressor = cls().requires_grad_(False)
        try:
            regressor.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(
                f"sazs.objectives.regressor: {path} does not hold InverseForm's weights "
                f"({' '.join(str(error).split())[:200]}); correct it, or set it to null"
            ) from error
        return regressor


def shape_loss(
    regressor: nn.Module,
    logits: Float[Tensor, "b h w"],
    edges: Bool[Tensor, "b h w"],
    form: Literal["clean", "released"],
) -> Float[Tensor, ""]:
    """Return the mean length of the regressor's outputs over tiles of both edge maps (sazs §3.5).

    Square maps give 2x2 tiles. The released form stretches them to 3x6, and takes the log-softmax of
    a single channel: zeros, whatever the logits, so that nothing is learned from it.
    """
    clean = form == "clean"
    shown = logits.sigmoid() if clean else logits[:, None].log_softmax(1)[:, 0]
    rows, columns = (2, 2) if clean else (3, 6)
    maps = torch.stack([shown, edges.to(logits.dtype)], dim=1)
    size = (rows * TILE, columns * TILE)
    stretched = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    tiles = stretched.unflatten(3, (columns, TILE)).unflatten(2, (rows, TILE))
    pairs = tiles.permute(0, 2, 4, 1, 3, 5).reshape(len(logits) * rows * columns, -1)
    return regressor(pairs).norm(dim=1).mean()
