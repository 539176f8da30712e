"""Images are opened in the event loop: that costs little, however large the file and whatever it claims."""

import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.unit.vision.shown import shown

from retinue_server.errors import ImageError
from retinue_server.vision.decode import open_encoded
from retinue_server.vision.headers import jpeg_scans

# Some 20 lines of Python run in a microsecond: about two milliseconds.
MAX_LINES = 40_000
MAX_BYTES = 2_000_000


def file_of(image_format, **options):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, image_format, **options)
    return buffer.getvalue()


def segment(marker, body):
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(body)) + body


def jpeg(*segments):
    """A JPEG with segments put in front of its own."""
    return b"\xff\xd8" + b"".join(segments) + file_of("JPEG")[2:]


def png(chunk, count):
    """A PNG with copies of a chunk put between its header and its pixels."""
    kind, body = chunk
    data = file_of("PNG")
    one = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:33] + one * count + data[33:]


def gif(extensions, pixels=b"\2\x4c\1"):
    frame = b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\2" + pixels + b"\0;"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + extensions + frame


def tiff(width, height, *tags):
    """A grey TIFF whose tags' values, 32-bit integers, all stand behind the header; one value stands in its entry."""
    plain = [(256, [width]), (257, [height]), (258, [8]), (262, [1])]
    values = b""
    entries = []
    for tag, numbers in sorted([*plain, *tags]):
        packed = np.asarray(numbers, "<u4").tobytes()
        at = packed if len(numbers) == 1 else struct.pack("<I", 8 + len(values))
        values += packed if len(numbers) > 1 else b""
        entries.append(struct.pack("<HHI", tag, 4, len(numbers)) + at)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + directory


def strips(count, height, rows=1):
    positions = np.full(count, 8)
    return tiff(8, height, (273, positions), (278, [rows]), (279, positions))


def tiles(count, side):
    positions = np.full(count, 8)
    return tiff(side, side, (322, [16]), (323, [16]), (324, positions), (325, positions))


def bmp(colours):
    header = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 4 * colours)
    header += struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, 0, 0, 0, colours, 0)
    return header + b"".join(bytes((level & 255,) * 3) + b"\0" for level in range(colours))


PHOTOSHOP = b"Photoshop 3.0\0" + b"8BIM\0\0\0\0\0\0\0\0" * 5_400
HOSTILE = {
    "JPEG segments": lambda: jpeg(segment(0xFE, b"") * 900),
    "JPEG quantization tables": lambda: jpeg(segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 50),
    "JPEG frame headers": lambda: jpeg(segment(0xC0, b"\x08\0\1\0\1\3" + bytes(60_000)) * 50),
    "JPEG Photoshop resources": lambda: jpeg(segment(0xED, PHOTOSHOP) * 50),
    "JPEG junk": lambda: jpeg(segment(0xFE, b""), b"\0" * 60_000, segment(0xFE, b"") + b"\0" * 60_000),
    "JPEG of 8 MB": lambda: file_of("JPEG", progressive=True) + bytes(8_000_000),
    "PNG text": lambda: png((b"tEXt", bytes(54)), 60_000),
    "PNG palettes": lambda: png((b"PLTE", bytes(54)), 60_000),
    "PNG pixels": lambda: png((b"IDAT", bytes(54)), 60_000),
    "PNG EXIF of 8 MB": lambda: png((b"eXIf", bytes(8_000_000)), 1),
    "GIF blocks": lambda: gif(b"\x21\xfe" + b"\1x" * 500_000 + b"\0"),
    "GIF extensions": lambda: gif(b"\x21\xfe\0" * 300_000),
    "GIF frame of 8 MB": lambda: gif(b"", b"\1x" * 4_000_000),
    "TIFF strips": lambda: strips(199_000, 60_000),
    "TIFF strips that are needed": lambda: strips(20_000, 20_000),
    "TIFF tiles": lambda: tiles(199_000, 8000),
    "TIFF tiles that are needed": lambda: tiles(16_384, 2048),
    "TIFF tags": lambda: tiff(8, 8, *((number, [1]) for number in range(1000, 5000))),
    "BMP palette": lambda: bmp(65_536),
    "BMP header of 8 MB": lambda: b"BM" + bytes(12) + struct.pack("<I", 8_000_000) + bytes(8_000_000),
    "WebP of 8 MB": lambda: file_of("WEBP") + bytes(8_000_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_opening_the_worst_files_takes_few_steps_and_no_copy(kind):
    data = HOSTILE[kind]()
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count

    def opened():
        try:
            return open_encoded(data, max_pixels=1_000_000_000)
        except ImageError as error:
            return error.reason

    opened()  # what is imported and cached the first time
    tracemalloc.start()
    opened()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    before = sys.gettrace()
    sys.settrace(count)
    try:
        opened()
    finally:
        sys.settrace(before)
    assert 0 < lines < MAX_LINES
    assert peak_bytes < MAX_BYTES


def test_a_tiff_of_one_row_a_strip_is_read(colour, encoded):
    """As libtiff writes wide photos: 8 kB a strip are no more than a row."""
    levels = np.random.default_rng(0).integers(0, 256, (5000, 4, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(levels), "TIFF", tiffinfo={278: 1}, compression="tiff_lzw")
    np.testing.assert_array_equal(shown(data, colour), levels)


def test_a_tiff_with_a_few_strips_more_than_it_needs_is_read(grey):
    np.testing.assert_array_equal(shown(strips(5, 8, rows=8), grey).shape, (8, 8))


@pytest.mark.parametrize("planes", [1, 2])
def test_a_tiff_may_have_its_strips_once_for_each_plane(planes):
    count = 3 * 400
    data = tiff(8, 400, (273, np.full(count, 8)), (277, [3]), (278, [1]), (284, [planes]))
    if planes == 2:
        assert open_encoded(data, max_pixels=10_000).size == (8, 400)
    else:
        with pytest.raises(ImageError):
            open_encoded(data, max_pixels=10_000)


def test_a_gif_with_megabytes_of_metadata_in_full_blocks_is_read(grey):
    profile = b"\x21\xff\x0bICCRGBG1012" + (b"\xff" + bytes(255)) * 4000 + b"\0"
    assert shown(gif(profile), grey).shape == (1, 1)


@pytest.mark.parametrize("position", [(1 << 20) - 2, (1 << 20) - 1, 1 << 20, 5_000_000])
def test_scans_are_counted_once_wherever_they_begin(position):
    data = bytearray(6_000_000)
    data[position : position + 2] = b"\xff\xda"
    assert jpeg_scans(bytes(data)) == 1


def test_a_baseline_jpeg_of_a_thousand_scans_is_refused(colour):
    data = file_of("JPEG")
    scan = data.index(b"\xff\xda")
    one = segment(0xDA, b"\1\1\0\0\x3f\0") + bytes(8)
    with pytest.raises(ImageError, match="scans"):
        shown(data[:scan] + one * 1000 + b"\xff\xd9", colour)
