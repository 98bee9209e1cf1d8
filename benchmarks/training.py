"""Training of every generator from the cache, and with the backbone in the loop: an update, and all of them.

At the sizes of the built-in world, where a whole training from the cache is timed as it runs. Behind
the backbone each update first passes as many images through it as the update draws from; there the
whole training is the time of an update times their number. Images are decoded beforehand.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from benchmarks.graphs import draw_map
from benchmarks.material import draw_bank, draw_maps, world_params
from benchmarks.measure import Result, peak_memory, run_in_own_process, time_side_by_side
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.graphs import GraphBatch, ImageGraphs
from zslib.artifacts.maps import LabelMaps
from zslib.backbones.network import Normalise
from zslib.backbones.trained import build_network
from zslib.benchmark import Split
from zslib.graphs import image_graphs
from zslib.grids import feature_grid
from zslib.methods.cagnet import step1, step2
from zslib.methods.cagnet.networks import ContextualModule
from zslib.methods.cagnet.players import Players
from zslib.methods.zs3net.generator import fit_generator
from zslib.methods.zs3net.graph import fit_graph_generator
from zslib.params import Params
from zslib.params.backbone import ModelParams
from zslib.training import SingleProcess

CACHE, BACKBONE = "update from the cache", "update behind the backbone"
CLASSES = 21
SPLIT = Split.from_ids("drawn", [f"class{index}" for index in range(CLASSES)], (), ())

Pass = Callable[[int], Tensor]
"""Some images through the backbone; nothing at all where features are cached."""
Training = Callable[[int], object]
"""That many updates."""


@dataclass(frozen=True)
class LiveBank(PixelBank):
    """A bank before each read of which the images are passed through the backbone."""

    run: Pass
    images: int

    def gather(self, rows: np.ndarray) -> Tensor:
        self.run(self.images)
        return super().gather(rows)


@dataclass(frozen=True)
class LiveMaps(DenseMaps):
    """Maps that the backbone has to make each time."""

    run: Pass

    def __getitem__(self, position: int) -> Tensor:
        self.run(1)
        return super().__getitem__(position)


@dataclass(frozen=True)
class LiveGraphs(ImageGraphs):
    """Graphs before each read of which their images are passed through the backbone."""

    run: Pass

    def around(self, nodes: np.ndarray) -> tuple[GraphBatch, Tensor]:
        self.run(len(nodes))
        return super().around(nodes)


class Material:
    """Drawn features of some images, their labels, and class embeddings."""

    def __init__(self, folder: Path, params: Params, *, images: int) -> None:
        model, side = params.backbone.model, params.features.short_side
        self.folder, self.params, self.images = folder, params, images
        self.dimension = model.feature_channels
        self.grid = feature_grid((side, side), model.feature_stride)
        self.embeddings = torch.randn(CLASSES, 128)

    def bank(self, parts: int = 1) -> PixelBank:
        """Return a bank whose rows have that many parts of a feature's size."""
        path, width = self.folder / "bank.h5", parts * self.dimension
        return draw_bank(path, images=self.images, rows_per_image=128, dimension=width)

    def maps(self) -> DenseMaps:
        """Return whole feature maps."""
        return draw_maps(
            self.folder / "maps.h5", images=self.images, grid=self.grid, dimension=self.dimension
        )

    def labels(self) -> LabelMaps:
        """Return label maps of the same grid."""
        rng, side = np.random.default_rng(0), self.grid[0]
        grids = np.stack([draw_map(side, 3, rng) for _ in range(self.images)])
        ids = tuple(f"{index:06d}" for index in range(self.images))
        sizes = np.array([self.grid] * self.images)
        return LabelMaps(ids, sizes, grids.reshape(-1), SPLIT.describe())


def zs3net(material: Material, run: Pass | None) -> tuple[Training, int]:
    """Return the training of the pixel generator, and how many updates it has."""
    params, bank = material.params.zs3net.generator, material.bank()
    if run is not None:
        bank = LiveBank(**vars(bank), run=run, images=material.params.zs3net.official.batch_size)

    def train(steps: int) -> object:
        short = params.model_copy(update={"steps": steps})
        return fit_generator(bank, material.embeddings, bank.split, short, allowed=None, seed=0)

    return train, params.steps


def zs3net_gc(material: Material, run: Pass | None) -> tuple[Training, int]:
    """Return that of the graph generator."""
    graph = material.params.zs3net.graph
    graphs = image_graphs(
        material.maps(), material.labels(), label_rule="floor", node_features=graph.node_features
    ).only(SPLIT.seen)
    if run is not None:
        fields = (graphs.labels, graphs.features, graphs.edges, graphs.offsets, graphs.ids)
        graphs = LiveGraphs(*fields, graphs.split, run=run)

    def train(steps: int) -> object:
        short = graph.generator.model_copy(update={"steps": steps})
        return fit_graph_generator(
            graphs, material.embeddings, SPLIT, short, convolution=graph.convolution, seed=0
        )

    return train, graph.generator.steps


def cagnet_step1(material: Material, run: Pass | None) -> tuple[Training, int]:
    """Return that of all networks on windows of maps."""
    params, maps, labels = material.params.cagnet.step1, material.maps(), material.labels()
    if run is not None:
        maps = LiveMaps(**vars(maps), run=run)

    def train(steps: int) -> object:
        return step1.fit(
            maps,
            labels,
            material.embeddings,
            params.model_copy(update={"steps": steps}),
            label_rule="floor",
            seed=0,
            runtime=SingleProcess(),
        )

    return train, params.steps


def cagnet_step2(material: Material, run: Pass | None) -> tuple[Training, int]:
    """Return that of the players on rows of the bank; behind the backbone comes the contextual module."""
    first, params = material.params.cagnet.step1, material.params.cagnet.step2
    bank = material.bank(parts=3)
    if run is not None:
        context = ContextualModule(material.dimension, first.networks)

        @torch.no_grad()
        def with_context(count: int) -> Tensor:
            return context(run(count))[0]

        bank = LiveBank(**vars(bank), run=with_context, images=params.batch_size)
    players = Players(128, material.dimension, len(bank.split.classes), first.networks)

    # Blocks of one: any even number of updates has as many on real pixels as on synthetic ones.
    params = params.model_copy(update={"block": 1})

    def train(steps: int) -> object:
        return step2.fit_mixed(
            bank,
            players,
            material.embeddings[: len(bank.split.classes)],
            bank.split,
            params.model_copy(update={"steps": steps}),
            objectives=first.objectives,
            unseen_boost=1.0,
            allowed=np.ones(len(bank.labels), bool),
            seed=0,
            runtime=SingleProcess(),
        )

    return train, params.steps


METHODS: dict[str, Callable[[Material, Pass | None], tuple[Training, int]]] = {
    "ZS3Net's generator": zs3net,
    "ZS3Net-GC's generator": zs3net_gc,
    "CaGNet, step 1": cagnet_step1,
    "CaGNet, step 2": cagnet_step2,
}


def backbone_pass(model: ModelParams, *, side: int) -> Pass:
    """Return a frozen backbone on images that are there already."""
    network = build_network(model, CLASSES, pretrained=False).eval()
    normalise = Normalise(model.encoder.mean, model.encoder.std)
    images = torch.randint(256, (64, 3, side, side), dtype=torch.uint8)

    @torch.no_grad()
    def run(count: int) -> Tensor:
        return network.features(normalise(images[:count]))

    return run


def measure(
    *,
    only: str | None = None,
    params: Params | None = None,
    images: int = 100,
    steps: int = 20,
    whole: bool = True,
    repeats: int = 2,
) -> list[Result]:
    """Time `steps` updates from the cache and as many behind the backbone, set-up included.

    With `whole`, all updates from the cache are then made and timed; otherwise they are multiplied as
    well. Each method has a process of its own, in which peaks of resident memory are taken in this
    order: after updates from the cache, then after updates behind the backbone.
    """
    sizes = {"images": images, "steps": steps, "repeats": repeats}
    if only is None:
        options = sizes | {"params": params, "whole": whole}
        names = [options | {"only": name} for name in METHODS]
        return [result for given in names for result in run_in_own_process("training", given)]
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        params = params or world_params(folder)
        model, side = params.backbone.model, params.features.short_side
        material = Material(folder, params, images=images)
        cached, count = METHODS[only](material, None)
        cached(steps)
        notes = {"peak memory from the cache, MiB": peak_memory()}
        behind, _ = METHODS[only](material, backbone_pass(model, side=side))
        behind(steps)
        notes["peak memory behind the backbone, MiB"] = peak_memory()
        contestants = {CACHE: lambda _: cached(steps), BACKBONE: lambda _: behind(steps)}
        totals = time_side_by_side(contestants, lambda: None, repeats=repeats)
        if whole:
            started = time.perf_counter()
            cached(count)
            notes[f"all {count} updates from the cache, seconds"] = time.perf_counter() - started
    seconds = {way: [total / steps for total in taken] for way, taken in totals.items()}
    for way in [BACKBONE] if whole else seconds:
        notes[f"{count} times one {way}, seconds"] = count * median(seconds[way])
    return [
        Result(
            f"training: {only}",
            {"encoder": model.encoder.name, "view": f"{side}x{side}", **sizes},
            seconds,
            reference=CACHE,
            amount=1,
            unit="updates",
            notes=notes,
        )
    ]
