"""Label maps as training and evaluation may see them (DESIGN §4).

Training stages depend on this artifact and never on the masks themselves, so whatever an unseen
pixel was labelled cannot reach them: it is void here, or its image is not here at all.
"""

from pathlib import Path

from zslib.artifacts.maps import LABELS, write_label_maps
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

    Raises:
        InputError: no image is left.
    """
    index = MaskIndex.load(masks)
    ids, label_maps = [], []
    for image_id in index.ids():
        label_map = index.label_map(image_id)
        seen_labels = split.seen_labels(label_map)
        if unseen_images == "drop" and split.shows_unseen(label_map):
            continue
        if unseen_images == "drop_void" and (seen_labels == IGNORE_INDEX).all():
            continue
        ids.append(image_id)
        label_maps.append(seen_labels)
    if not ids:
        raise InputError(
            f"{masks}: every image shows an unseen class of split '{split.name}'; "
            "set benchmark.unseen_images to 'ignore' or choose another split"
        )
    meta = {**split.describe(), "dropped_images": len(index.ids()) - len(ids)}
    write_label_maps(out, ids, label_maps, schema=LABELS, meta=meta)
