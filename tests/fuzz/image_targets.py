"""Images: headers that are read at the door, pixels, EXIF blocks, and pixels that need no decoding.

Whatever the bytes are, nothing but an ImageError comes out, and no more memory is taken than the pixels that are
accepted need. Pillow's own C code is not instrumented; the parsers in front of it are.
"""

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image
from tests import pictures
from tests.fuzz.target import Target

from retinue_server.errors import ImageError
from retinue_server.vision.crops import cut
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.directories import exif_orientation
from retinue_server.vision.readers import ChannelOrder
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

_MAX_PIXELS = 1_000_000
_BILINEAR = Image.Resampling.BILINEAR
_SPECS = (
    InputSpec(24, 32, False, ResizeMode.STRETCH, _BILINEAR, draft_decoding=True),
    InputSpec(24, 24, True, ResizeMode.LETTERBOX, Image.Resampling.BICUBIC, pad_value=114),
    InputSpec(16, 16, False, ResizeMode.SHORTER_SIDE_CENTER_CROP, _BILINEAR, shorter_side=20),
    InputSpec(8, 8, True, ResizeMode.STRETCH, Image.Resampling.NEAREST),
)
_ORDERS: tuple[ChannelOrder, ...] = ("RGB", "BGR", "RGBA", "GRAY")
_INTERNALS = re.compile(r"PIL|Pillow|[a-z]Error|0x|object at|Traceback")


def _told(error: ImageError) -> None:
    assert not _INTERNALS.search(error.message), error.message
    assert error.message.endswith(".")


def _header(data: bytes) -> None:
    try:
        image = open_encoded(data, max_pixels=_MAX_PIXELS)
    except ImageError as error:
        _told(error)
        return
    assert 0 < image.width * image.height <= _MAX_PIXELS
    image.close()


def _pixels(data: bytes) -> None:
    spec = _SPECS[data[0] % len(_SPECS)] if data else _SPECS[0]
    out = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    try:
        prepare(open_encoded(data[1:], max_pixels=_MAX_PIXELS), spec, out)
    except ImageError as error:
        _told(error)


def _cut(data: bytes) -> None:
    if len(data) < 4:
        return
    left, top, *size = data[:4]
    try:
        image = open_encoded(data[4:], max_pixels=_MAX_PIXELS)
        box = min(left, image.width - 1), min(top, image.height - 1)
        ends = [min(start + side + 1, most) for start, side, most in zip(box, size, image.size, strict=True)]
        made = cut(image, [(*box, *ends)], _SPECS[0])
    except ImageError as error:
        _told(error)
        return
    assert made.shape == (1, 24, 32, 3)


def _exif(data: bytes) -> None:
    assert 1 <= exif_orientation(data) <= 8


def _raw(data: bytes) -> None:
    if len(data) < 3:
        return
    height, width, order = data[0], data[1], _ORDERS[data[2] % len(_ORDERS)]
    spec = _SPECS[data[2] % len(_SPECS)]
    out = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    try:
        prepare(open_raw(data[3:], height, width, order, max_pixels=10_000), spec, out)
    except ImageError as error:
        _told(error)


def _files() -> Sequence[bytes]:
    """A small file of every kind that is read."""
    upright, _ = pictures.quarters(16, 12)
    grey = upright.convert("L")
    return [
        *(pictures.encode(upright, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")),
        *(pictures.turned_file(upright, 6, form) for form in ("JPEG", "PNG", "TIFF", "WEBP")),
        pictures.encode(upright, "JPEG", progressive=True),
        pictures.encode(upright.convert("CMYK"), "JPEG"),
        pictures.encode(upright, "WEBP", lossless=True),
        pictures.encode(upright.convert("RGBA"), "WEBP", exif=Image.Exif()),
        pictures.encode(upright.quantize(16), "PNG", transparency=1),
        pictures.encode(upright.quantize(16), "BMP"),
        pictures.deep_png(np.full((4, 5), 40_000, np.uint16)),
        pictures.deep_png(np.full((4, 5, 3), 40_000, np.uint16)),
        pictures.encode(grey.convert("I;16"), "TIFF"),
        pictures.encode(grey.convert("F").point(lambda level: level / 255), "TIFF"),
        pictures.encode(upright, "TIFF", compression="tiff_lzw"),
        pictures.encode(upright, "TIFF", compression="tiff_adobe_deflate", tile=(16, 16)),
        pictures.encode(upright, "TIFF", big_tiff=True),
        pictures.encode(grey.convert("1"), "TIFF", compression="group4"),
        *(pictures.animation(form, pictures.RED, pictures.GREEN) for form in ("GIF", "WEBP", "PNG")),
    ]


def _exif_blocks() -> Sequence[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    block = exif.tobytes()
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "TIFF")
    return [block, block.removeprefix(b"Exif\0\0"), b"Exif\0\0" + block, file.getvalue()]


TARGETS = (
    Target("image-header", _header, _files),
    Target("image-pixels", _pixels, lambda: [bytes((n,)) + one for n, one in enumerate(_files())]),
    Target("image-crops", _cut, lambda: [b"\1\2\5\4" + one for one in _files()]),
    Target("exif-block", _exif, _exif_blocks),
    Target(
        "raw-image", _raw, lambda: [bytes((2, 3, n)) + bytes(6 * size) for n, size in enumerate((3, 3, 4, 1))]
    ),
)
