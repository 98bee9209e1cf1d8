"""What the benchmarks work on: a drawn pixel bank, drawn photographs, the published parameters."""

from pathlib import Path

import numpy as np
from PIL import Image

from zslib.artifacts.features import BANK, DENSE, DenseMaps, PixelBank
from zslib.artifacts.store import write_arrays
from zslib.benchmark import Split
from zslib.params import Params, load_params


def draw_bank(
    path: Path, *, images: int, rows_per_image: int, dimension: int, seed: int = 0
) -> PixelBank:
    """Write a bank of random features and labels, all classes seen, and open it."""
    rng = np.random.default_rng(seed)
    rows = images * rows_per_image
    classes = [f"class{index}" for index in range(20)]
    arrays: dict[str, np.ndarray] = {
        "features": rng.random((rows, dimension), dtype=np.float32).astype(np.float16),
        "labels": rng.integers(0, len(classes), rows, dtype=np.uint8),
        "pixels": np.ones(rows, np.float32),
        "offsets": np.arange(images + 1, dtype=np.int64) * rows_per_image,
    }
    split = Split.from_ids("drawn", classes, (), ())
    ids = [f"{index:06d}" for index in range(images)]
    write_arrays(path, arrays, schema=BANK, meta={"labels": split.describe(), "ids": ids})
    return PixelBank.open(path)


def draw_maps(
    path: Path, *, images: int, grid: tuple[int, int], dimension: int, seed: int = 0
) -> DenseMaps:
    """Write random feature maps of one size, and open them."""
    rng = np.random.default_rng(seed)
    cells = images * grid[0] * grid[1]
    arrays = {
        "features": rng.random((cells, dimension), dtype=np.float32).astype(np.float16),
        "grids": np.array([grid] * images, np.int32),
    }
    write_arrays(path, arrays, schema=DENSE, meta={"ids": [f"{i:06d}" for i in range(images)]})
    return DenseMaps.open(path)


def draw_photographs(
    folder: Path, *, count: int, width: int, height: int, seed: int = 0
) -> list[Path]:
    """Write JPEG files with smooth colours and some grain, so that they cost what others cost."""
    rng = np.random.default_rng(seed)
    paths = [folder / f"{index:06d}.jpg" for index in range(count)]
    for path in paths:
        coarse = rng.integers(30, 226, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.integers(-12, 13, (height, width, 1))
        picture = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(path, quality=90)
    return paths


def published_params(folder: Path) -> Params:
    """Return the parameters of Pascal VOC as published, composed from conf/."""
    return _composed(folder, "benchmark=voc12", "recipe=published")


def world_params(folder: Path) -> Params:
    """Return the parameters of the built-in world."""
    return _composed(folder, "benchmark=world", "recipe=published")


def _composed(folder: Path, *choices: str) -> Params:
    from tools.compose_params import compose

    path = folder / "params.yaml"
    compose(path, *choices)
    return load_params(path)
