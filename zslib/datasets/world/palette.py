"""The colour palette of Pascal VOC masks."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def voc_palette() -> NDArray[np.uint8]:
    """Class id -> colour (256, 3): the bits of the id, dealt to red, green and blue in turn."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        channel, shift = bit % 3, 7 - bit // 3
        palette[:, channel] |= ((ids >> bit & 1) << shift).astype(np.uint8)
    return palette


def palette_image(label_map: NDArray[np.uint8]) -> Image.Image:
    """A label map (H, W) as an 8-bit palette picture whose pixel values are the class ids."""
    mask = Image.fromarray(label_map)
    mask.putpalette(voc_palette().tobytes())
    return mask
