"""Label maps as training and evaluation may see them (DESIGN §4).

Training stages depend on this artifact and never on the masks themselves, so whatever an unseen
pixel was labelled cannot reach them: it is void here, or its image is not here at all.
"""

from pathlib import Path

from zslib.artifacts.maps import LABELS, write_label_maps
from zslib.benchmark import Split
from zslib.datasets.index import MaskIndex
from zslib.errors import InputError


def write_seen_labels(masks: Path, split: Split, out: Path, *, drop_images: bool) -> None:
    """Publish the seen labels of every image of a masks file.

    With `drop_images`, an image that shows an unseen class anywhere in its full-resolution label map
    is left out (zs3net §1.5); otherwise its unseen pixels become void.

    Raises:
        InputError: no image is left.
    """
    index = MaskIndex.load(masks)
    ids, label_maps = [], []
    for image_id in index.ids():
        label_map = index.label_map(image_id)
        if not (drop_images and split.shows_unseen(label_map)):
            ids.append(image_id)
            label_maps.append(split.seen_labels(label_map))
    if not ids:
        raise InputError(
            f"{masks}: every image shows an unseen class of split '{split.name}'; "
            "set benchmark.unseen_images to 'ignore' or choose another split"
        )
    meta = {**split.describe(), "dropped_images": len(index.ids()) - len(ids)}
    write_label_maps(out, ids, label_maps, schema=LABELS, meta=meta)
