"""Label maps as training and evaluation may see them (DESIGN §4).

Training stages depend on this artifact and never on the masks themselves, so whatever an unseen
pixel was labelled cannot reach them: it is void here, or its image is not here at all.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from zslib.artifacts.maps import LABELS
from zslib.artifacts.publish import publish
from zslib.artifacts.store import allocate, finish, map_array
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.index import MaskIndex
from zslib.errors import InputError
from zslib.params.benchmark import UnseenImages


def write_seen_labels(masks: Path, split: Split, out: Path, *, unseen_images: UnseenImages) -> None:
    """Publish the seen labels of every image of a masks file.

    - `drop`: an image that shows an unseen class anywhere in its full-resolution label map is left
      out (zs3net §1.5).
    - `ignore`: its unseen pixels become void.
    - `drop_void`: they do, and an image without any seen pixel is left out (simbaseline §1.1).

    The masks are read twice, first for what is kept and its size: those of COCO do not fit in memory.

    Raises:
        InputError: no image is left.
    """
    index = MaskIndex.load(masks)
    sizes = {name: labels.shape for name, labels in _kept(index, index.ids(), split, unseen_images)}
    if not sizes:
        raise InputError(
            f"{masks}: every image shows an unseen class of split '{split.name}'; "
            "set benchmark.unseen_images to 'ignore' or choose another split"
        )
    meta = {
        **split.describe(),
        "dropped_images": len(index.ids()) - len(sizes),
        "ids": list(sizes),
    }
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "sizes": ((len(sizes), 2), np.dtype(np.int32)),
        "pixels": ((sum(height * width for height, width in sizes.values()),), np.dtype(np.uint8)),
    }
    with publish(out) as temporary:
        allocate(temporary, shapes)
        map_array(temporary, "sizes", mode="r+")[...] = list(sizes.values())
        pixels, start = map_array(temporary, "pixels", mode="r+"), 0
        for _, labels in _kept(index, tuple(sizes), split, "ignore"):
            pixels[start : start + labels.size] = labels.reshape(-1)
            start += labels.size
        finish(temporary, schema=LABELS, meta=meta)


def _kept(
    index: MaskIndex, ids: tuple[str, ...], split: Split, unseen_images: UnseenImages
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w"]]]:
    """Yield the seen labels of the images that a rule keeps, one at a time."""
    for image_id in ids:
        label_map = index.label_map(image_id)
        seen_labels = split.seen_labels(label_map)
        if unseen_images == "drop" and split.shows_unseen(label_map):
            continue
        if unseen_images == "drop_void" and (seen_labels == IGNORE_INDEX).all():
            continue
        yield image_id, seen_labels
