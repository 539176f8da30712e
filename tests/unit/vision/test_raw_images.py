"""Pixels that come without a file around them: their order, their size, and what is refused."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from tests.unit.vision.shown import shown_by

from retinue_server.errors import ImageError
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

SPEC = InputSpec(24, 32, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("order", "pixel", "expected"),
    [
        ("RGB", b"\1\2\3", [1, 2, 3]),
        ("BGR", b"\1\2\3", [3, 2, 1]),
        ("RGBA", b"\1\2\3\xff", [1, 2, 3]),
        ("RGBA", b"\1\2\3\0", [255, 255, 255]),
        ("GRAY", b"\7", [7, 7, 7]),
    ],
)
def test_each_channel_order_is_read(order, pixel, expected):
    out = np.empty((24, 32, 3), np.uint8)
    image = open_raw(pixel * 6, 2, 3, order, max_pixels=6)
    assert image.size == (3, 2)
    prepare(image, SPEC, out)
    np.testing.assert_array_equal(out, np.broadcast_to(np.array(expected, np.uint8), out.shape))


def test_rows_are_rows():
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    grey = InputSpec(2, 3, True, ResizeMode.STRETCH, Image.Resampling.BILINEAR)
    got = shown_by(lambda: open_raw(levels.tobytes(), 2, 3, "GRAY", max_pixels=6), grey)
    np.testing.assert_array_equal(got, levels)


@pytest.mark.parametrize(
    ("mode", "shorter_side"),
    [
        (ResizeMode.STRETCH, 0),
        (ResizeMode.LETTERBOX, 0),
        (ResizeMode.SHORTER_SIDE_CENTER_CROP, 16),
        # These pixels are enlarged, and their middle is shown.
        (ResizeMode.SHORTER_SIDE_CENTER_CROP, 20),
    ],
)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("order", ["RGB", "BGR", "GRAY"])
def test_raw_pixels_of_the_networks_size_come_out_as_those_of_a_file(order, grey, mode, shorter_side):
    spec = InputSpec(16, 16, grey, mode, Image.Resampling.BILINEAR, shorter_side=shorter_side)
    shape = (16, 16) if order == "GRAY" else (16, 16, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sent = pixels[..., ::-1] if order == "BGR" else pixels
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    raw, read = np.empty((2, 16, 16, spec.channels), np.uint8)
    raw_frame = prepare(open_raw(sent.tobytes(), 16, 16, order, max_pixels=256), spec, raw)
    assert raw_frame == prepare(open_encoded(file.getvalue(), max_pixels=256), spec, read)
    np.testing.assert_array_equal(raw, read)
    assert raw_frame.shows_the_whole_unscaled is (shorter_side != 20)


@pytest.mark.parametrize(
    ("bytes_sent", "order", "expected"), [(17, "RGB", 18), (19, "BGR", 18), (6, "RGBA", 24)]
)
def test_a_mismatch_is_refused_with_both_numbers(bytes_sent, order, expected):
    with pytest.raises(ImageError, match=rf"has {bytes_sent} bytes, but 3 x 2 .* are {expected}\.") as caught:
        open_raw(bytes(bytes_sent), 2, 3, order, max_pixels=100)
    assert caught.value.reason == "RAW_SIZE_MISMATCH"


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_are_called_empty(height, width):
    with pytest.raises(ImageError) as caught:
        open_raw(b"", height, width, "RGB", max_pixels=100)
    assert caught.value.reason == "IMAGE_EMPTY"


@pytest.mark.parametrize(("height", "width"), [(2**32 - 1, 2**32 - 1), (2**32 - 1, 1), (1, 2**31), (101, 1)])
def test_sizes_beyond_the_limit_are_refused(height, width):
    with pytest.raises(ImageError) as caught:
        open_raw(b"123", height, width, "RGB", max_pixels=100)
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def test_the_bytes_are_not_copied_before_they_are_used():
    data = bytes(3 * 4_000_000)
    tracemalloc.start()
    images = [open_raw(data, 2000, 2000, "RGB", max_pixels=10_000_000) for _ in range(10)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == 10
    assert peak < 1_000_000
