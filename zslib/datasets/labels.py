"""Label maps as training and evaluation may see them (DESIGN §4).

Training stages depend on this artifact and never on the masks themselves, so whatever an unseen
pixel was labelled cannot reach them: it is void here, or its image is not here at all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from zslib.artifacts.maps import LABELS, LabelMaps, write_label_maps
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.index import MaskIndex
from zslib.errors import InputError
from zslib.params.benchmark import UnseenImages


def write_labels(masks: Path, split: Split, out: Path, *, unseen_images: UnseenImages) -> None:
    """Publish the label maps of a masks file in which a split's seen classes show, and nothing else.

    Void classes are void in all of them, also where the split has no unseen class. Where it has:

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
        "unseen_images": unseen_images,
        "dropped_images": len(index.ids()) - len(sizes),
    }
    ids = tuple(sizes)
    kept = (labels for _, labels in _kept(index, ids, split, "ignore"))
    write_label_maps(out, ids, list(sizes.values()), kept, schema=LABELS, meta=meta)


def unlabelled_ids(labels: LabelMaps, train: Sequence[str]) -> tuple[str, ...]:
    """Return which of all training images self-training labels, by the rule that wrote their labels.

    - `drop`: those that were left out (zs3net §6); all, where no image shows an unseen class.
    - `ignore`, `drop_void`: all, since unseen pixels of any may be void (cagnet §6, simbaseline §7).
    """
    if labels.meta["unseen_images"] != "drop":
        return tuple(train)
    labelled = set(labels.ids)
    return tuple(image_id for image_id in train if image_id not in labelled) or tuple(train)


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
