"""Feature extraction, from JPEG files to a finished cache file, against the bare forward pass."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.material import draw_photographs, published_params
from benchmarks.measure import Goal, Result, peak_memory, time_side_by_side
from zslib.backbones.network import Normalise
from zslib.backbones.trained import Backbone, build_network
from zslib.benchmark import Split
from zslib.datasets.decode import read_image
from zslib.datasets.views import size_with_short_side
from zslib.features import Photographs, Plan, extract, plan_bank, plan_dense
from zslib.params.backbone import EncoderParams, FeatureParams, ModelParams
from zslib.params.training import ComputeParams
from zslib.training import Runtime, start_runtime

BARE, BANK, DENSE = "bare forward", "pixel bank", "dense maps"
WIDTH, HEIGHT = 500, 375


def measure(
    *,
    model: ModelParams | None = None,
    images: int = 32,
    short_side: int = 160,
    batch: int = 8,
    compute: ComputeParams | None = None,
    repeats: int = 3,
) -> list[Result]:
    """Time decoding, resizing, forward, float16, writing and checksum of photographs of VOC's size.

    The bare forward gets them decoded, resized, normalised and in memory. Peaks of resident memory
    are the process's so far: the second tells what extraction adds to the first.
    """
    runtime = start_runtime(compute or ComputeParams())
    features = FeatureParams(short_side=short_side, batch_size=batch)
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = model or published_params(folder).backbone.model.model_copy(
            update={"encoder": EncoderParams(name="resnet50")}
        )
        paths = draw_photographs(folder, count=images, width=WIDTH, height=HEIGHT)
        photographs = Photographs.of(
            paths,
            [(WIDTH, HEIGHT)] * images,
            short_side=short_side,
            stride=model.feature_stride,
        )
        plans = planned(photographs, features)
        contestants = ways_to_run(photographs, plans, model, features, runtime)
        contestants[BARE](folder)
        notes = {"peak memory of the bare forward, MiB": peak_memory()}
        seconds = time_side_by_side(contestants, lambda: Path(mkdtemp(dir=folder)), repeats=repeats)
        notes["peak memory with extraction, MiB"] = peak_memory()
    height, width = photographs.views[0]
    sizes: dict[str, int | str] = {"encoder": model.encoder.name, "images": images}
    sizes |= {
        "size": f"{WIDTH}x{HEIGHT}",
        "view": f"{width}x{height}",
        "batch": batch,
        "device": str(runtime.device),
    }
    sizes |= {f"rows of the {kind}": sum(plan.counts) for kind, plan in plans.items()}
    return [
        Result(
            "extraction: JPEG files to a published feature file",
            sizes | {"repeats": repeats},
            seconds,
            reference=BARE,
            amount=images,
            unit="images",
            goal=Goal(BANK, 1 / 0.9, "pixel bank at 90 % of the bare forward's throughput or more"),
            notes=notes,
        )
    ]


def ways_to_run(
    photographs: Photographs,
    plans: dict[str, Plan],
    model: ModelParams,
    features: FeatureParams,
    runtime: Runtime,
) -> dict[str, Callable[[Path], None]]:
    """Return the contestants, which may write into the folder they are given."""
    split = Split.from_ids("drawn", [f"class{index}" for index in range(4)], (), ())
    network = build_network(model, len(split.classes), pretrained=False)
    features_of = Backbone(network, model, split).features_of(runtime)
    batches = in_memory(photographs.paths, features, model.encoder, runtime)

    @torch.inference_mode()
    def forward(_: Path) -> None:
        with runtime.autocast():
            for images in batches:
                network.features(images)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()

    def extraction(plan: Plan, folder: Path) -> None:
        extract(
            features_of,
            photographs,
            {folder / "published" / "features.h5": plan},
            dimension=model.feature_channels,
            batch_size=features.batch_size,
            runtime=runtime,
            scratch=folder,
        )

    ways = {kind: partial(extraction, plan) for kind, plan in plans.items()}
    return {BARE: forward, **ways}


def planned(photographs: Photographs, features: FeatureParams) -> dict[str, Plan]:
    """Plan a bank of four classes per image, and dense maps."""
    label_map = np.arange(4, dtype=np.uint8).repeat(WIDTH // 4)[None, :].repeat(HEIGHT, axis=0)
    label_maps = [label_map] * len(photographs.paths)
    ids = [path.stem for path in photographs.paths]
    return {
        BANK: plan_bank(photographs, label_maps, features, seed=0, meta={}),
        DENSE: plan_dense(photographs, ids),
    }


def in_memory(
    paths: Sequence[Path], features: FeatureParams, encoder: EncoderParams, runtime: Runtime
) -> list[Tensor]:
    """Return the network's input for all images, batch by batch, on its device."""
    size = size_with_short_side((WIDTH, HEIGHT), features.short_side)
    images = [np.array(read_image(path).resize(size, Image.Resampling.BILINEAR)) for path in paths]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    normalise = Normalise(encoder.mean, encoder.std)
    return [normalise(part).to(runtime.device) for part in stacked.split(features.batch_size)]
