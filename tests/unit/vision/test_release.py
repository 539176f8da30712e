"""A failed image leaves nothing behind: not its pixels, and not through the error that tells of it."""

import gc
import io
import os
import traceback

import numpy as np
import pytest
from PIL import Image

from retinue_server.errors import ImageError
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

SIDE = 1500
PIXELS = SIDE * SIDE
FORMATS = ("JPEG", "progressive JPEG", "PNG", "WEBP", "BMP", "TIFF", "LZW TIFF", "GIF")
SPEC = InputSpec(24, 32, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR)


def damaged(kind):
    """A large image that fails when most of it is decoded."""
    options = {"progressive JPEG": {"progressive": True}, "LZW TIFF": {"compression": "tiff_lzw"}}
    ramp = np.arange(SIDE, dtype=np.uint16)
    levels = ((ramp[:, None] * 7 + ramp * 3) >> 4).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).convert("RGB").save(buffer, kind.split()[-1], **options.get(kind, {}))
    data = buffer.getvalue()
    if kind == "LZW TIFF":  # whose directory stands at the end
        return data[: len(data) // 2] + b"\xff" * 1000 + data[len(data) // 2 + 1000 :]
    return data[: len(data) * 4 // 5]


def float_levels():
    """A whole image that is refused for its levels, once they are there."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), 2, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def failed(image):
    """The error of preparing an image, as it comes out: with its frames, its cause and its context."""
    try:
        prepare(image, SPEC, np.empty((24, 32, 3), np.uint8))
    except ImageError as error:
        return error
    raise AssertionError("it can be read")


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_that_cannot_be_read_is_closed(kind):
    image = open_encoded(damaged(kind), max_pixels=PIXELS)
    failed(image)
    with pytest.raises(ValueError, match="closed"):
        _ = image.im
    with pytest.raises(ValueError, match="closed"):
        image.load()


@pytest.mark.parametrize("kind", [*FORMATS, "float TIFF"])
def test_errors_that_are_kept_keep_no_pixels(kind):
    """Eight of them would weigh 54 MB or more, and no collection is run that might untie cycles."""
    data = float_levels() if kind == "float TIFF" else damaged(kind)
    failed(open_encoded(data, max_pixels=PIXELS))
    gc.collect()
    gc.disable()
    try:
        before = resident_bytes()
        errors = [failed(open_encoded(data, max_pixels=PIXELS)) for _ in range(8)]
        grown = resident_bytes() - before
    finally:
        gc.enable()
    assert len(errors) == 8
    assert grown < 4 * PIXELS * 3


def test_an_error_still_says_where_it_happened():
    lines = traceback.format_exception(failed(open_encoded(damaged("PNG"), max_pixels=PIXELS)))
    assert "load_flat" in "".join(lines)


def test_pixels_are_released_where_something_else_fails_too(monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    image = open_raw(bytes(300), 10, 10, "RGB", max_pixels=100)
    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(MemoryError):
        prepare(image, SPEC, np.empty((24, 32, 3), np.uint8))
    assert not image.data
