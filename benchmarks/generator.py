"""One generator step of ZS3Net from the pixel bank, and one behind the backbone (§4.2, §4.4)."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.material import draw_bank, published_params
from benchmarks.measure import Result, time_side_by_side
from zslib.artifacts.features import PixelBank
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.backbones.network import Normalise
from zslib.methods.zs3net.generator import Generator, mmd_loss
from zslib.params.backbone import DeepLabParams
from zslib.params.training import OptimiserParams
from zslib.params.zs3net import GeneratorParams
from zslib.sampling import ClassRows
from zslib.training import build_optimiser

CACHE, BACKBONE = "step from the cache", "backbone pass and step"
EMBEDDING_DIMENSION = 300


class Steps:
    """Training steps of a generator on real features, wherever those come from."""

    def __init__(self, params: GeneratorParams, dimension: int) -> None:
        self.params = params
        self._generator = Generator(EMBEDDING_DIMENSION, dimension, params)
        adam = OptimiserParams(name="adam", lr=params.lr, power=0.0)
        self._optimiser = build_optimiser(adam, self._generator.parameters())
        self._embedding = torch.randn(EMBEDDING_DIMENSION)

    def take(self, real: Float[Tensor, "n d"]) -> None:
        """Take one step: sample, MMD, backward, Adam."""
        generated = self._generator.sample(self._embedding.expand(self.params.rows, -1))
        loss = mmd_loss(generated, real, self.params)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()


class FromCache:
    """Steps whose real features are gathered from the bank."""

    def __init__(self, steps: Steps, bank: PixelBank) -> None:
        self._steps, self._bank = steps, bank
        every = np.ones(len(bank.labels), bool)
        self._rows, self._rng = ClassRows(bank, every, bank.split.seen), np.random.default_rng(0)

    def __call__(self, count: int) -> None:
        for _ in range(count):
            label = int(self._rng.choice(self._rows.classes))
            rows = self._rows.draw(label, self._steps.params.rows, self._rng)
            self._steps.take(self._bank.gather(rows))


class BehindBackbone:
    """A pass of the backbone in train mode without gradient, as released, and one step on it."""

    def __init__(self, steps: Steps, model: DeepLabParams, *, batch: int, side: int) -> None:
        self._steps = steps
        self._network = DeepLabV3Plus(model, 21, pretrained=False).train()
        self._normalise = Normalise(model.encoder.mean, model.encoder.std)
        self._images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)

    def __call__(self) -> None:
        with torch.no_grad():
            maps = self._network.features(self._normalise(self._images))
        flat = maps[0].flatten(1).T
        self._steps.take(flat[torch.randint(len(flat), (self._steps.params.rows,))])


def measure(
    *,
    model: DeepLabParams | None = None,
    side: int = 312,
    batch: int = 8,
    images: int = 400,
    steps: int = 50,
    steps_per_pass: int = 20,
    repeats: int = 2,
) -> list[Result]:
    """Time a step both ways, at the sizes of the paper.

    The released loop takes a step per image and class, so its pass of 8 images serves about 20: VOC
    images show 2.5 classes, background included. The third row charges each step its share.
    """
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        params = published_params(Path(name))
        model = model or params.backbone.model
        dimension = model.feature_channels
        taken = Steps(params.zs3net.generator, dimension)
        path = Path(name) / "bank.h5"
        bank = draw_bank(path, images=images, rows_per_image=256, dimension=dimension)
        from_cache = FromCache(taken, bank)
        behind_backbone = BehindBackbone(taken, model, batch=batch, side=side)
        contestants = {CACHE: lambda _: from_cache(steps), BACKBONE: lambda _: behind_backbone()}
        seconds = time_side_by_side(contestants, lambda: None, repeats=repeats)
    cached = [total / steps for total in seconds[CACHE]]
    shares = [
        (whole - step) / steps_per_pass + step
        for whole, step in zip(seconds[BACKBONE], cached, strict=True)
    ]
    sizes: dict[str, int | str] = {"backbone": model.encoder.name, "batch": batch, "side": side}
    sizes |= {
        "dimension": dimension,
        "rows": taken.params.rows,
        "bank rows": len(bank.labels),
        "repeats": repeats,
    }
    rows = {CACHE: cached, BACKBONE: seconds[BACKBONE]}
    rows |= {f"if {steps_per_pass} steps share a pass": shares}
    title = "generator: one training step of ZS3Net"
    return [Result(title, sizes, rows, reference=CACHE, amount=1, unit="steps")]
