"""Tiny artifacts, made on the spot: a zero-shot problem of 3 shapes x 3 colours with 2 unseen pairs.

A class is a shape and a colour; its embedding says which. Pixel features are a fixed linear map of the
embedding, cut at zero like real ones, plus a little noise: separable, and fit for transfer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zslib.artifacts.features import BANK, DENSE
from zslib.artifacts.maps import LABELS, open_labels
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import write_arrays
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.decode import checksum
from zslib.datasets.index import MaskEntry, MaskIndex
from zslib.fine_tuning import LabelledImages, Run
from zslib.params.backbone import BackboneParams, DeepLabParams, DeepLabV2Params, EncoderParams
from zslib.params.training import AugmentationParams, ComputeParams, OptimiserParams
from zslib.training import Curves, SingleProcess

CLASSES = tuple(f"{colour} {shape}" for shape in ("disc", "box", "bar") for colour in "rgb")
UNSEEN = (4, 8)
SCHEMA = Schema("test/1", "test")
SPLIT = Split.from_ids("tiny", CLASSES, UNSEEN, ())
DIMENSION = 12
CPU = ComputeParams(device="cpu")

EMBEDDINGS = torch.tensor(
    [[float(s == i) for i in range(3)] + [float(c == i) for i in range(3)]
     for s in range(3) for c in range(3)]
) / 2**0.5  # fmt: skip

_MIXING = np.random.default_rng(3).normal(size=(DIMENSION, 6))


def features(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Return float16 features (..., d) for labels of any shape; void looks like class 0."""
    rows = EMBEDDINGS.numpy()[np.where(labels == IGNORE_INDEX, 0, labels)] @ _MIXING.T * 3
    noise = np.random.default_rng([seed, 1]).normal(scale=0.1, size=rows.shape)
    return np.maximum(rows + noise, 0).astype(np.float16)


def label_maps(count: int, classes: Sequence[int], *, seed: int, side: int = 6) -> list[np.ndarray]:
    """Return random label maps over some classes, with a void corner."""
    rng = np.random.default_rng(seed)
    maps = [rng.choice(classes, (side, side)).astype(np.uint8) for _ in range(count)]
    for label_map in maps:
        label_map[0, 0] = IGNORE_INDEX
    return maps


def image_ids(count: int) -> tuple[str, ...]:
    return tuple(f"image{index:02}" for index in range(count))


def write_bank(path: Path, *, images: int = 16, rows: int = 40, split: Split = SPLIT) -> Path:
    """Publish a pixel bank of the split's seen classes."""
    labels = np.random.default_rng(0).choice(split.seen, (images, rows)).astype(np.uint8)
    arrays = {
        "features": features(labels.reshape(-1), seed=0),
        "labels": labels.reshape(-1),
        "pixels": np.ones(images * rows, np.float32),
        "offsets": np.arange(images + 1, dtype=np.int64) * rows,
    }
    meta = {"labels": split.describe(), "ids": list(image_ids(images))}
    write_arrays(path, arrays, schema=BANK, meta=meta)
    return path


def write_maps(path: Path, maps: Sequence[np.ndarray], *, seed: int = 5) -> Path:
    """Publish the dense feature maps that belong to label maps of the same grid."""
    content = [features(label_map, seed=seed + i) for i, label_map in enumerate(maps)]
    arrays = {
        "grids": np.array([m.shape for m in maps], np.int32),
        "features": np.concatenate([m.reshape(-1, DIMENSION) for m in content]),
    }
    views = [list(m.shape) for m in maps]
    meta = {"ids": list(image_ids(len(maps))), "views": views}
    write_arrays(path, arrays, schema=DENSE, meta=meta)
    return path


def write_labels(path: Path, maps: Sequence[np.ndarray], *, split: Split = SPLIT) -> Path:
    """Publish label maps as they are."""
    write_label_maps(path, image_ids(len(maps)), maps, schema=LABELS, meta=split.describe())
    return path


def write_label_maps(
    path: Path,
    ids: Sequence[str],
    maps: Sequence[np.ndarray],
    *,
    schema: Schema,
    meta: Mapping[str, Any],
) -> None:
    """Publish label maps all at once."""
    arrays = {
        "sizes": np.array([m.shape for m in maps], np.int32).reshape(-1, 2),
        "pixels": np.concatenate([m.reshape(-1) for m in maps]),
    }
    write_arrays(path, arrays, schema=schema, meta={**meta, "ids": list(ids)})


def write_masks(folder: Path, maps: Sequence[np.ndarray], *, num_classes: int) -> Path:
    """Write mask files, and the index document that lists them; return the document's path."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for image_id, label_map in zip(image_ids(len(maps)), maps, strict=True):
        file = folder / f"{image_id}.png"
        Image.fromarray(label_map).save(file)
        entries.append(MaskEntry(id=image_id, path=file.name, xxh3=checksum(file.read_bytes())))
    index = MaskIndex(
        root=str(folder), role="train", num_classes=num_classes, lookup=None, masks=tuple(entries)
    )
    index.save(folder / "masks.json")
    return folder / "masks.json"


def block_maps(
    count: int, classes: Sequence[int], *, seed: int = 0, side: int = 32
) -> list[np.ndarray]:
    """Return label maps of four quarters, with a void margin that differs from map to map."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(count):
        quarters = rng.choice(classes, (2, 2)).astype(np.uint8)
        label_map = np.kron(quarters, np.ones((side // 2, side // 2), np.uint8))
        label_map[: rng.integers(0, side // 2)] = IGNORE_INDEX
        maps.append(label_map)
    return maps


def write_images(folder: Path, maps: Sequence[np.ndarray]) -> list[Path]:
    """Draw each class in a colour of its own, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    palette = np.random.default_rng(1).integers(40, 216, (256, 3))
    paths = []
    for index, label_map in enumerate(maps):
        noise = np.random.default_rng([2, index]).integers(-20, 20, (*label_map.shape, 3))
        paths.append(folder / f"{index:02}.png")
        Image.fromarray((palette[label_map] + noise).astype(np.uint8)).save(paths[-1])
    return paths


def deeplab(*, dropout: float = 0.0) -> DeepLabParams:
    """Return a network of a few thousand parameters."""
    return DeepLabParams(
        encoder=EncoderParams(name="test_resnet"),
        multi_grid=None,
        aspp_rates=(1, 2, 3),
        aspp_channels=8,
        low_level_channels=8,
        feature_channels=8,
        dropout=(dropout, dropout, dropout),
    )


def deeplab_v2() -> DeepLabV2Params:
    """Return the other architecture, as small."""
    return DeepLabV2Params(encoder=EncoderParams(name="test_resnet"), feature_channels=8)


def backbone(
    *, epochs: int, dropout: float = 0.0, frozen_batch_norm: bool = False
) -> BackboneParams:
    """Return the training of that network on 32-pixel crops."""
    return BackboneParams(
        model=deeplab(dropout=dropout),
        augmentation=AugmentationParams(base_size=32, crop_size=32),
        optimiser=OptimiserParams(name="sgd", lr=0.05),
        head_lr_factor=2.0,
        frozen_batch_norm=frozen_batch_norm,
        epochs=epochs,
        batch_size=4,
    )


def labelled_images(
    folder: Path, images: Sequence[Path], maps: Sequence[np.ndarray]
) -> LabelledImages:
    """Return images with their seen labels, which are published in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = open_labels(write_labels(folder / "labels.h5", [SPLIT.seen_labels(m) for m in maps]))
    return LabelledImages.of(dict(zip(labels.ids, images, strict=True)).__getitem__, labels)


def run(folder: Path, curves: Curves | None = None, *, seconds: float = 60) -> Run:
    """Return a run that saves a checkpoint every so many seconds."""
    compute = CPU.model_copy(update={"checkpoint_seconds": seconds})
    return Run("tiny", 0, compute, SingleProcess(), folder / "run", curves)


class RecordedCurves(Curves):
    """Keeps every loss; stops the run as a kill would after `dies_after` steps."""

    def __init__(self, *, dies_after: int | None = None) -> None:
        super().__init__(Path("never-written"), every=1)
        self.losses: list[dict[str, float]] = []
        self._dies_after = dies_after

    def add(self, step: int, values: dict[str, float]) -> None:
        super().add(step, values)
        self.losses.append(dict(values))
        if self._dies_after is not None and len(self.losses) >= self._dies_after:
            raise KilledError

    def series(self, key: str) -> list[float]:
        return [values[key] for values in self.losses if key in values]


class KilledError(Exception):
    """The run was stopped from outside."""
