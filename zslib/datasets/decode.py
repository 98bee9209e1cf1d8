"""The one reader of photographs and the one reader of label maps.

Every file that cannot be used as it is ends in one `ImageError` that starts with its path; nothing
is repaired or skipped silently, and no warning of the decoder leaks out.

Photographs: 8-bit RGB or grey (the grey value is repeated three times), JPEG or PNG. The content
decides, not the suffix: a sound PNG named .jpg is read. Refused: anything truncated, CMYK, 16-bit,
palette and transparent pictures (converting them changes colours silently), an EXIF orientation
other than upright (the label map would not turn with the photograph), fewer than 2 pixels on a
side, more than `MAX_PIXELS`.

Label maps: 8-bit palette or grey PNG whose pixel values are class ids or 255, and the MAT files of
SBD (`GTcls`) and Pascal-Context (`LabelMap`).
"""

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from zslib.benchmark import IGNORE_INDEX
from zslib.errors import ArtifactError, ImageError

MAX_PIXELS = 100_000_000
"""Larger pictures are refused: decoded, they would not fit beside a network."""

_MIN_SIDE = 2
_EXIF_ORIENTATION = 0x0112
_COPY_AGAIN = "get an intact copy of the file"

# warnings.catch_warnings changes the state of the whole process, so threads must take turns.
_WARNINGS = threading.Lock()


@dataclass(frozen=True)
class IndexedFile:
    """A file of which only the content that was indexed will do."""

    path: Path
    xxh3: str


ImageFile = Path | IndexedFile
"""A photograph or a label map, whatever it holds or as it was indexed."""


def read_image(file: ImageFile) -> Image.Image:
    """Return a photograph as a loaded PIL image of mode RGB.

    Raises:
        ImageError: it is missing, damaged, or of a kind refused above.
        ArtifactError: it is no longer the one that was indexed.
    """
    return decode_image(read_bytes(file), _path(file))


def read_label_map(
    file: ImageFile, num_classes: int, *, lookup: Sequence[int] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Return the class ids of a label map: values 0..num_classes-1, or 255 for void.

    `lookup` maps the values of a Pascal-Context MAT file to class ids (zs3net §1.2).

    Raises:
        ImageError: it is missing, damaged, not 8-bit class ids, or has an id out of range.
        ArtifactError: it is no longer the one that was indexed.
    """
    return decode_label_map(read_bytes(file), _path(file), num_classes, lookup=lookup)


def read_bytes(file: ImageFile) -> bytes:
    """Return the content of a file, after comparing it with what was indexed."""
    path = _path(file)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise _refusal(path, "is missing", "get it again, or take its id off the list") from error
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})", _COPY_AGAIN) from error
    if isinstance(file, IndexedFile) and checksum(data) != file.xxh3:
        raise ArtifactError(
            f"{path}: changed since it was indexed; restore it or rerun the stage 'index'"
        )
    return data


def _path(file: ImageFile) -> Path:
    return file.path if isinstance(file, IndexedFile) else file


def checksum(data: bytes) -> str:
    """Return the xxh3 (128 bit) of a file's content, as the index stores it."""
    return xxhash.xxh3_128_hexdigest(data)


def decode_image(data: bytes, path: Path) -> Image.Image:
    """Return the photograph whose file content is `data`; see `read_image`."""
    image = _open(data, path, formats=("JPEG", "PNG"))
    _check_colours(image, data, path)
    _load(image, path)
    _check_upright(image, path)
    return image.convert("RGB")


def decode_label_map(
    data: bytes, path: Path, num_classes: int, *, lookup: Sequence[int] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Return the class ids whose file content is `data`; see `read_label_map`."""
    is_mat = Path(path).suffix.lower() == ".mat"
    label_map = _mat_label_map(data, path, lookup) if is_mat else _png_label_map(data, path)
    present = np.flatnonzero(np.bincount(label_map.reshape(-1), minlength=256))
    if illegal := [int(v) for v in present if v >= num_classes and v != IGNORE_INDEX]:
        raise _refusal(
            path,
            f"holds label values {_enumerate(illegal)}, outside 0..{num_classes - 1} and not 255",
            "correct the mask or the benchmark's class list",
        )
    return label_map


# --- photographs ---------------------------------------------------------------------------------


def _check_colours(image: Image.Image, data: bytes, path: Path) -> None:
    if _png_depth(image, data) == 16 or image.mode.startswith("I"):
        raise _refusal(path, "has 16 bits per channel", "convert it to 8 bits per channel")
    if image.mode == "CMYK":
        raise _refusal(
            path, "is CMYK, whose colours depend on a print profile", "convert it to sRGB"
        )
    if image.mode not in ("RGB", "L"):
        raise _refusal(
            path,
            f"has PIL mode {image.mode}, neither RGB nor grey",
            "convert it to 8-bit RGB without palette or transparency",
        )


def _check_upright(image: Image.Image, path: Path) -> None:
    with _decoding(path), _silent():
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    # 0 is written by some cameras for "unknown"; every viewer shows such a picture as stored.
    if orientation not in (0, 1):
        raise _refusal(
            path,
            f"is turned by its EXIF orientation tag ({orientation}), the label map is not",
            "remove the tag if the label map fits the stored pixels (exiftool -Orientation= FILE), "
            "otherwise turn the pixels (mogrify -auto-orient FILE)",
        )


# --- label maps ----------------------------------------------------------------------------------


def _png_label_map(data: bytes, path: Path) -> UInt8[np.ndarray, "h w"]:
    image = _open(data, path, formats=("PNG",))
    if image.mode not in ("P", "L", "1", "I;16", "I"):
        raise _refusal(
            path,
            f"is an {image.mode} picture with colours where class ids belong",
            "save the class ids themselves as an 8-bit palette or grey PNG",
        )
    if (depth := _png_depth(image, data)) != 8:
        # Tools that pack masks into fewer bits also renumber the palette, i.e. the class ids.
        raise _refusal(
            path,
            f"has {depth} bits per pixel",
            "save the class ids as an 8-bit palette or grey PNG",
        )
    _load(image, path)
    _check_upright(image, path)
    return np.array(image, dtype=np.uint8)


def _mat_label_map(
    data: bytes, path: Path, lookup: Sequence[int] | None
) -> UInt8[np.ndarray, "h w"]:
    from scipy.io import loadmat

    _check_not_empty(data, path)
    variable = "GTcls" if lookup is None else "LabelMap"
    with _decoding(path), _silent():
        content = loadmat(io.BytesIO(data), variable_names=[variable])
        found = content.get(variable)
        is_struct = found is not None and found.dtype.names is not None
        values = np.asarray(found["Segmentation"][0, 0] if is_struct else found)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "ui":
        raise _refusal(path, f"holds no {variable} with a map of class ids", _COPY_AGAIN)
    table = np.arange(256) if lookup is None else np.asarray(lookup)
    if (wrong := int(values.max())) >= len(table) or (wrong := int(values.min())) < 0:
        raise _refusal(
            path, f"holds label value {wrong}, not one of 0..{len(table) - 1}", _COPY_AGAIN
        )
    return table.astype(np.uint8)[values]


# --- the foreign decoders, kept in their place ---------------------------------------------------


def _open(data: bytes, path: Path, *, formats: tuple[str, ...]) -> Image.Image:
    """Read the header only, and refuse impossible sizes before anything is decoded."""
    _check_not_empty(data, path)
    with _decoding(path, formats), _silent():
        image = Image.open(io.BytesIO(data), formats=formats)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(path)
    if min(width, height) < _MIN_SIDE:
        raise _refusal(path, f"has only {width}x{height} pixels", "remove it from the image list")
    return image


def _load(image: Image.Image, path: Path) -> None:
    with _decoding(path):
        image.load()


@contextmanager
def _decoding(path: Path, formats: tuple[str, ...] = ()) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        kinds = " or ".join(formats)
        raise _refusal(path, f"is no readable {kinds} picture", _COPY_AGAIN) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Exception as error:  # decoders raise anything on damaged input
        reason = " ".join(f"{error}".replace(";", ",").split())
        raise _refusal(path, f"is damaged ({reason})", _COPY_AGAIN) from error


@contextmanager
def _silent() -> Iterator[None]:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _png_depth(image: Image.Image, data: bytes) -> int:
    """Bits per channel as stored; PIL shows 16-bit RGB as 8-bit and stretches 1..4-bit grey."""
    return data[24] if image.format == "PNG" else 8


def _check_not_empty(data: bytes, path: Path) -> None:
    if not data:
        raise _refusal(path, "is an empty file", _COPY_AGAIN)


def _too_large(path: Path) -> ImageError:
    return _refusal(
        path,
        f"has more than {MAX_PIXELS // 10**6} million pixels",
        "downscale it and its label map",
    )


def _enumerate(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def _refusal(path: Path, what: str, remedy: str) -> ImageError:
    return ImageError(f"{path}: {what}; {remedy}")
