"""ZS3Net as its authors released it: generator and classifier interleaved, leaks included (zs3net §4).

For comparison with the paper only. The ground truth of unseen classes decides which of them appear,
on how many pixels, and where (§9.1 L1); the network stays in train mode, so its batch statistics
move over images of unseen classes and end up in the evaluated model (L2).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zslib.backbones.network import Normalise, SegmentationNetwork, resize
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.classifier import PixelClassifier
from zslib.datasets.decode import ImageFile
from zslib.datasets.views import BatchOrder, TrainingViews, loader
from zslib.grids import floor_nearest
from zslib.losses import weighted_cross_entropy
from zslib.methods.zs3net.generator import Generator, mmd_loss
from zslib.methods.zs3net.graph import GraphGenerator
from zslib.methods.zs3net.official_graph import OfficialGraphBranch
from zslib.params.backbone import EncoderParams
from zslib.params.training import ComputeParams, OptimiserParams
from zslib.params.zs3net import OfficialParams
from zslib.training import (
    Checkpoint,
    Curves,
    Losses,
    Runtime,
    TrainState,
    build_optimiser,
    train,
)


def fit(
    network: SegmentationNetwork,
    encoder: EncoderParams,
    *,
    images: Sequence[ImageFile],
    label_maps: Sequence[np.ndarray],
    class_embeddings: Float[Tensor, "c e"],
    split: Split,
    params: OfficialParams,
    graph: bool = False,
    seed: int,
    compute: ComputeParams,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    curves: Curves | None = None,
) -> PixelClassifier:
    """Train on label maps that show unseen classes, with a graph branch (§5) or without.

    Moves the batch statistics of `network`, and the network to the runtime's device.

    Raises:
        InputError: fewer images than a batch, or a loss that is not finite.
    """
    order = BatchOrder(
        len(images),
        params.batch_size,
        section="zs3net.official",
        of=f"training images of split '{split.name}'",
        seed=seed,
    )
    steps = params.epochs * order.steps_per_epoch
    torch.manual_seed(seed)
    sizes = (class_embeddings.shape[1], network.classifier.in_channels, params.generator)
    network.to(runtime.device)
    generator = Generator(*sizes).to(runtime.device)
    head = _uniform_head(network, split).to(runtime.device)
    class_embeddings = class_embeddings.to(runtime.device)
    modules: dict[str, nn.Module] = {"network": network, "generator": generator, "head": head}
    adam = OptimiserParams(name="adam", lr=params.generator.lr, power=0.0)
    optimisers = {"generator": build_optimiser(adam, generator.parameters())}
    optimisers["head"] = build_optimiser(params.optimiser, head.parameters())
    branch = None
    if graph:
        modules["graph"] = second = GraphGenerator(*sizes).to(runtime.device)
        optimisers["graph"] = build_optimiser(adam, second.parameters())
        branch = OfficialGraphBranch(second, class_embeddings, split, params.generator)
    views = TrainingViews(
        images, label_maps, params.augmentation, seed=seed, cache_images=compute.cache_images
    )
    iteration = Iteration(
        network,
        encoder,
        generator=generator,
        head=head,
        class_embeddings=class_embeddings,
        split=split,
        params=params,
        branch=branch,
    )
    train(
        TrainState(modules, optimisers),
        lambda batch: iteration(batch, optimisers),
        lambda start: iter(loader(views, order, start, steps, workers=compute.workers)),
        steps=steps,
        seed=seed,
        name=f"official {split.name}",
        runtime=runtime,
        checkpoint=checkpoint,
        curves=curves,
    )
    weight, bias = (parameter.detach().cpu() for parameter in head.parameters())
    return PixelClassifier(split, weight[:, :, 0, 0], bias)


def _uniform_head(network: SegmentationNetwork, split: Split) -> nn.Conv2d:
    """Return a fresh classifier of the network's features, as released: U(0, 1) all over (zs3net §9.3)."""
    head = nn.Conv2d(network.classifier.in_channels, len(split.classes), 1)
    for parameter in head.parameters():
        nn.init.uniform_(parameter)
    return head


class Iteration:
    """One iteration of §4.4: many generator steps, then one classifier step.

    It works where the class embeddings are, as the modules do. Which rows are compared is drawn on
    the CPU.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        encoder: EncoderParams,
        *,
        generator: Generator,
        head: nn.Conv2d,
        class_embeddings: Float[Tensor, "c e"],
        split: Split,
        params: OfficialParams,
        branch: OfficialGraphBranch | None = None,
    ) -> None:
        self._network, self._generator, self._head = network, generator, head
        self._device = class_embeddings.device
        self._normalise = Normalise(encoder.mean, encoder.std).to(self._device)
        self._embeddings, self._split, self._params = class_embeddings, split, params
        self._branch = branch
        self._weights = torch.ones(len(split.classes), device=self._device)
        self._weights[list(split.unseen)] = params.unseen_weight

    def __call__(
        self, batch: Sequence[Tensor], optimisers: dict[str, torch.optim.Optimizer]
    ) -> Losses:
        images, labels = batch
        with torch.no_grad():
            real = self._network.train().features(self._normalise(images.to(self._device)))
        inputs, losses = [], []
        for features, label_map in zip(real, labels.numpy(), strict=True):
            grid = floor_nearest(label_map, tuple(features.shape[-2:]))
            shows_unseen = self._split.shows_unseen(grid)
            fake, steps = self._generate(
                features, grid, learn=not shows_unseen, optimisers=optimisers
            )
            inputs.append(fake if shows_unseen else features)
            losses += steps
        term = torch.zeros((), device=self._device)
        if self._branch is not None:
            term = self._branch.term(
                real, labels.numpy(), self._head, self._weights, optimisers["graph"]
            )
        targets = labels.to(self._device)
        loss = self._classify(torch.stack(inputs), targets, term, optimisers["head"])
        return {"loss": loss} | ({"mmd": torch.stack(losses).mean()} if losses else {})

    def _generate(
        self,
        real: Float[Tensor, "d h w"],
        grid: UInt8[np.ndarray, "h w"],
        *,
        learn: bool,
        optimisers: dict[str, torch.optim.Optimizer],
    ) -> tuple[Float[Tensor, "d h w"], list[Tensor]]:
        """Return the synthetic map of an image (0 where void), taking a step per seen class."""
        flat = real.flatten(1).T
        fake, losses = torch.zeros_like(flat), []
        for label in np.unique(grid[grid != IGNORE_INDEX]).tolist():
            cells = torch.from_numpy(np.flatnonzero(grid == label)).to(self._device)
            generated = self._generator.sample(self._embeddings[label].expand(len(cells), -1))
            fake = fake.index_copy(0, cells, generated.detach())
            if learn and label in self._split.seen:
                rows = torch.randint(len(cells), (self._params.generator.rows,)).to(self._device)
                target = flat.index_select(0, cells.index_select(0, rows))
                loss = mmd_loss(generated.index_select(0, rows), target, self._params.generator)
                optimisers["generator"].zero_grad(set_to_none=True)
                loss.backward()
                optimisers["generator"].step()
                losses.append(loss.detach())
        return fake.T.reshape(real.shape), losses

    def _classify(
        self,
        inputs: Float[Tensor, "b d h w"],
        labels: Tensor,
        term: Float[Tensor, ""],
        optimiser: torch.optim.Optimizer,
    ) -> Tensor:
        """Take one classifier step on the loss at full resolution, divided by the batch size, and
        on what else adds to it; return their sum."""
        logits = resize(self._head(inputs), labels.shape[-2:]).permute(0, 2, 3, 1).flatten(0, 2)
        total, weight = weighted_cross_entropy(logits, labels.flatten().long(), self._weights)
        loss = total / weight.clamp(min=1) / len(inputs) + term
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.detach()
