"""Faults 11 and 12: an unusable photograph or label map is one ImageError that names its path."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from zslib.datasets.decode import (
    IndexedFile,
    checksum,
    decode_image,
    decode_label_map,
    read_image,
    read_label_map,
)
from zslib.errors import ArtifactError, ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
IDS = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 21


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(**options: object) -> bytes:
    return encoded(Image.fromarray(PIXELS), "JPEG", **options)


def palette(ids: np.ndarray, colours: int = 256) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette([channel % 256 for channel in range(3 * colours)])
    return image


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return jpeg(exif=exif)


def png_header(width: int, height: int, depth: int, colour: int) -> bytes:
    """A PNG that claims a size; its pixel data is never looked at when the claim is refused."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


def rgb16() -> bytes:
    rows = b"".join(b"\0" + b"\x12\x34" * 3 * 4 for _ in range(4))
    data = png_header(4, 4, 16, 2)
    return data.replace(zlib.compress(b"\0" * 64), zlib.compress(rows))


BAD_IMAGES = {
    "empty": (b"", "empty file"),
    "text": (b"<html>404 not found</html>", "no readable JPEG or PNG"),
    "truncated": (jpeg()[:-40], "damaged"),
    "truncated progressive": (jpeg(progressive=True)[:-40], "damaged"),
    "cmyk": (encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), "CMYK"),
    "16-bit grey": (encoded(Image.fromarray(IDS.astype(np.uint16)), "PNG"), "16 bits"),
    "16-bit rgb": (rgb16(), "16 bits"),
    "palette": (encoded(palette(IDS), "PNG"), "mode P"),
    "transparent": (encoded(Image.fromarray(PIXELS).convert("RGBA"), "PNG"), "mode RGBA"),
    "turned": (with_orientation(6), "EXIF orientation tag (6)"),
    "1x1": (encoded(Image.new("RGB", (1, 1)), "JPEG"), "1x1 pixels"),
    "101 MP": (png_header(10_100, 10_000, 8, 2), "100 million pixels"),
    "bomb": (png_header(60_000, 60_000, 8, 2), "100 million pixels"),
    "gif": (encoded(Image.fromarray(IDS), "GIF"), "no readable JPEG or PNG"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_unusable_photograph_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "2007_000001.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="^" + re.escape(f"{path}: ")) as refused:
        read_image(path)
    assert reason in str(refused.value)
    assert "; " in str(refused.value), "says what to do"
    assert "\n" not in str(refused.value)


def test_missing_photograph_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is missing"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)


def test_turned_photograph_names_both_remedies() -> None:
    with pytest.raises(ImageError, match=r"exiftool.*mogrify"):
        decode_image(with_orientation(8), Path("a.jpg"))
    for upright in (0, 1):
        assert decode_image(with_orientation(upright), Path("a.jpg")).size == (32, 24)


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(Image.fromarray(PIXELS), "PNG"))
    image = read_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_grey_photograph_is_repeated_in_three_channels() -> None:
    image = decode_image(encoded(Image.fromarray(PIXELS[..., 0]), "PNG"), Path("grey.jpg"))
    np.testing.assert_array_equal(np.asarray(image), np.repeat(PIXELS[..., :1], 3, axis=2))


def test_broken_exif_neither_warns_nor_crashes() -> None:
    data = jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, Path("a.jpg")).size == (32, 24)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(kept=st.floats(0, 0.97), progressive=st.booleans())
def test_a_jpeg_cut_anywhere_is_refused(kept: float, progressive: bool) -> None:
    data = jpeg(progressive=progressive)
    with pytest.raises(ImageError, match=r"^cut\.jpg: "):
        decode_image(data[: int(kept * len(data))], Path("cut.jpg"))


@settings(max_examples=150, deadline=None)
@given(
    position=st.floats(0, 0.999), value=st.integers(0, 255), kind=st.sampled_from(["JPEG", "PNG"])
)
def test_an_altered_byte_gives_an_image_or_an_image_error(
    position: float, value: int, kind: str
) -> None:
    data = bytearray(encoded(Image.fromarray(PIXELS), kind))
    data[int(position * len(data))] = value
    try:
        assert decode_image(bytes(data), Path("x.jpg")).mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("x.jpg: ")  # noqa: PT017 (either outcome is right)


def mat(**content: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()


OUT_OF_RANGE = np.where(IDS == 3, 77, IDS).astype(np.uint8)
BAD_LABEL_MAPS = {
    "empty": ("m.png", b"", "empty file"),
    "truncated": ("m.png", encoded(palette(IDS), "PNG")[:-60], "damaged"),
    "colours": ("m.png", encoded(palette(IDS).convert("RGB"), "PNG"), "colours where class ids"),
    "jpeg": ("m.png", encoded(Image.fromarray(IDS), "JPEG"), "no readable PNG"),
    "16-bit": ("m.png", encoded(Image.fromarray(IDS.astype(np.uint16)), "PNG"), "16 bits"),
    "4-bit": ("m.png", encoded(palette(IDS % 16, 16), "PNG", bits=4), "4 bits"),
    "1-bit": ("m.png", encoded(Image.fromarray(IDS > 3), "PNG"), "1 bits"),
    "range": ("m.png", encoded(palette(OUT_OF_RANGE), "PNG"), "label values 77, outside 0..20"),
    "empty mat": ("m.mat", b"", "empty file"),
    "text mat": ("m.mat", b"<html>404 not found</html>" * 9, "damaged"),
    "cut mat": ("m.mat", mat(GTcls={"Segmentation": IDS})[:-64], "m.mat: "),
    "other mat": ("m.mat", mat(Boundaries=IDS), "no GTcls"),
    "flat mat": ("m.mat", mat(GTcls={"Segmentation": IDS.astype(float)}), "no GTcls"),
    "range mat": ("m.mat", mat(GTcls={"Segmentation": OUT_OF_RANGE}), "label values 77"),
}


@pytest.mark.parametrize(("name", "data", "reason"), BAD_LABEL_MAPS.values(), ids=BAD_LABEL_MAPS)
def test_unusable_label_map_is_refused(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match="^" + re.escape(f"{path}: ")) as refused:
        read_label_map(path, 21)
    assert reason in str(refused.value)


@pytest.mark.parametrize("make", [palette, Image.fromarray], ids=["palette", "grey"])
def test_label_map_is_read_as_ids_and_not_as_colours(make: object) -> None:
    ids = IDS.copy()
    ids[0, :5] = 255
    label_map = decode_label_map(encoded(make(ids), "PNG"), Path("m.png"), 21)  # type: ignore[operator]
    assert label_map.dtype == np.uint8
    np.testing.assert_array_equal(label_map, ids)


def test_every_illegal_value_is_named_but_the_line_stays_short() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(ImageError, match=r"21, 22, .* 28 and 226 more, outside 0\.\.20"):
        decode_label_map(encoded(palette(ids), "PNG"), Path("m.png"), 21)


def test_mat_value_beyond_the_names_is_refused() -> None:
    data = mat(LabelMap=IDS.astype(np.uint16))
    with pytest.raises(ImageError, match=r"label value 20, not one of 0\.\.5"):
        decode_label_map(data, Path("m.mat"), 60, lookup=[0] * 6)


def test_a_file_changed_after_indexing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    file = IndexedFile(path, checksum(jpeg()))
    assert read_image(file).size == (32, 24)
    path.write_bytes(jpeg(quality=20))
    with pytest.raises(ArtifactError, match="rerun the stage 'index'"):
        read_image(file)
