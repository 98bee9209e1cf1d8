"""A contact sheet of the world: pictures beside their colour-coded masks, each with a legend."""

from pathlib import Path
from typing import TYPE_CHECKING

from zslib.datasets.world.facts import CLASSES
from zslib.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE, _GAP, _LINE = 192, 8, 13
_PANEL = (2 * _SIDE + _GAP, _SIDE + 3 * _LINE + _GAP)


def contact_sheet(root: Path, *, columns: int, rows: int) -> "Image":
    """Pictures of the val list of the world at `root`, evenly spaced in it, columns x rows of them.

    Raises:
        InputError: `root` holds no world.
    """
    from PIL import Image

    listing = root / "VOC2012/ImageSets/Segmentation/val.txt"
    if not listing.is_file():
        raise InputError(f"{listing}: missing; draw the world first (dvc repro dataset)")
    ids = listing.read_text(encoding="utf-8").split()
    shown = ids[:: max(1, len(ids) // (columns * rows))][: columns * rows]
    width, height = (
        count * (side + _GAP) + _GAP for count, side in zip((columns, rows), _PANEL, strict=True)
    )
    sheet = Image.new("RGB", (width, height), "white")
    for place, image_id in enumerate(shown):
        row, column = divmod(place, columns)
        corner = (_GAP + column * (_PANEL[0] + _GAP), _GAP + row * (_PANEL[1] + _GAP))
        sheet.paste(_panel(root / "VOC2012", image_id), corner)
    return sheet


def _panel(root: Path, image_id: str) -> "Image":
    """One picture, its mask, and the names and colours of the classes in it."""
    from PIL import Image

    with Image.open(root / f"JPEGImages/{image_id}.jpg") as image:
        picture = image.convert("RGB")
    with Image.open(root / f"SegmentationClass/{image_id}.png") as mask:
        ids, colours = _class_ids(mask), mask.convert("RGB")
    scale = _SIDE / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    panel = Image.new("RGB", _PANEL, "white")
    panel.paste(picture.resize(size, Image.Resampling.BICUBIC), (0, 0))
    panel.paste(colours.resize(size, Image.Resampling.NEAREST), (size[0] + _GAP // 2, 0))
    _write_legend(panel, ids, top=size[1] + 3)
    return panel


def _class_ids(mask: "Image") -> list[int]:
    return [value for value, count in enumerate(mask.histogram()[: len(CLASSES)]) if count]


def _write_legend(panel: "Image", ids: list[int], *, top: int) -> None:
    from PIL import ImageDraw, ImageFont

    from zslib.datasets.world.palette import voc_palette

    brush, font = ImageDraw.Draw(panel), ImageFont.load_default(size=11)
    x, y = 0, top
    for number in ids:
        needed = 14 + int(brush.textlength(CLASSES[number], font=font)) + 8
        if x + needed > panel.width:
            x, y = 0, y + _LINE
        colour = tuple(voc_palette()[number].tolist())
        brush.rectangle((x, y + 2, x + 9, y + 10), fill=colour, outline="black")
        brush.text((x + 13, y), CLASSES[number], fill="black", font=font)
        x += needed
