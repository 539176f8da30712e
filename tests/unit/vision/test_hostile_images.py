"""Bytes that are not an image, or not one that anybody should decode, cost an ImageError and nothing else."""

import io
import random
import re
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from tests.unit.vision.shown import shown

from retinue_server.errors import Code, ImageError
from retinue_server.vision.decode import open_encoded
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SPEC = InputSpec(24, 32, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR, draft_decoding=True)


def file_of(image_format, size=(60, 40)):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, image_format)
    return buffer.getvalue()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def riff(*chunks):
    body = b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bomb(kind):  # noqa: PLR0911
    """A few bytes that claim at least 16,383 x 16,383 pixels, most of them 50,000 x 50,000."""
    side = 50_000
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = zlib.compress(bytes(10_000))
        chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    if kind == "JPEG":
        data = file_of("JPEG")
        frame = data.index(b"\xff\xc0") + 5
        return data[:frame] + struct.pack(">HH", side, side) + data[frame + 4 :]
    if kind == "GIF":  # a frame to be disposed of, for which Pillow takes memory when it opens the file
        control = b"\x21\xf9\x04\x09\x00\x00\x00\x00"
        frame = b"," + struct.pack("<4HB", 0, 0, side, side, 0) + b"\x08\x01\x00\x00;"
        return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + control + frame
    if kind == "WEBP":  # an animation's canvas, which libwebp takes when it opens the file
        canvas = b"\x02\0\0\0" + (side - 1).to_bytes(3, "little") * 2
        frame = bytes(6) + (side - 1).to_bytes(3, "little") * 2 + bytes(4) + file_of("WEBP")[12:]
        return riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    if kind == "WEBP lossless":
        return riff((b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(9)))
    if kind == "WEBP lossy":
        return riff((b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(10)))
    if kind == "BMP":
        return (
            b"BM"
            + struct.pack("<IHHI", 100, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        )
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (273, 8), (277, 1), (278, side), (279, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)


BOMBS = (*FORMATS, "WEBP lossless", "WEBP lossy")


@pytest.mark.parametrize("kind", BOMBS)
def test_too_many_pixels_are_refused_with_both_numbers(kind):
    with pytest.raises(
        ImageError, match=r"\d+ x \d+ pixels, and at most 1000000 pixels are accepted"
    ) as caught:
        open_encoded(bomb(kind), max_pixels=1_000_000)
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_bombs_are_refused_before_memory_is_taken():
    """In a process that cannot take a hundred megabytes more, no bomb fails for want of memory."""
    script = """
import resource, sys
from retinue_server.errors import ImageError
from retinue_server.vision.decode import open_encoded
files = [bytes.fromhex(line) for line in sys.stdin]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, used + 100_000_000))
for data in files:
    try:
        open_encoded(data, max_pixels=100_000_000)
    except ImageError as error:
        assert "pixels are accepted" in error.message, error.message
    else:
        raise SystemExit("a bomb was opened")
print("all refused")
"""
    lines = "\n".join(bomb(kind).hex() for kind in BOMBS)
    run = subprocess.run(
        [sys.executable, "-c", script], input=lines, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.stdout == "all refused\n", run.stderr


def test_opening_the_largest_images_takes_no_memory_for_their_pixels():
    """Headers are checked at the door and images wait in queues: open, they must weigh what their file weighs."""
    script = """
import resource, sys
from retinue_server.vision.decode import open_encoded
files = [bytes.fromhex(line) for line in sys.stdin]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, used + 100_000_000))
waiting = [open_encoded(data, max_pixels=3_000_000_000) for data in files for _ in range(10)]
print(len(waiting), "opened")
"""
    lines = "\n".join(bomb(kind).hex() for kind in BOMBS)
    run = subprocess.run(
        [sys.executable, "-c", script], input=lines, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.stdout == "80 opened\n", run.stderr


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_pixel_limit_is_exact(image_format):
    data = file_of(image_format)
    assert open_encoded(data, max_pixels=2400).size == (60, 40)
    with pytest.raises(ImageError, match="60 x 40"):
        open_encoded(data, max_pixels=2399)


def test_pillows_own_limit_is_raised_where_ours_is_larger_and_never_lowered(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    open_encoded(file_of("PNG"), max_pixels=100_000)
    assert Image.MAX_IMAGE_PIXELS == 100_000
    open_encoded(file_of("PNG"), max_pixels=5_000)
    assert Image.MAX_IMAGE_PIXELS == 100_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    open_encoded(file_of("PNG"), max_pixels=5_000)
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_line_of_a_million_pixels_is_refused():
    header = struct.pack(">IIBBBBB", 1_000_000, 1, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    with pytest.raises(ImageError, match="a side") as caught:
        open_encoded(data, max_pixels=10_000_000)
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def test_no_bytes_are_called_empty():
    with pytest.raises(ImageError, match="no bytes") as caught:
        open_encoded(b"", max_pixels=1000)
    assert caught.value.reason == "IMAGE_EMPTY"


@pytest.mark.parametrize(
    "data", [b"\0", b"hello", b"<html>", b"%PDF-1.7", b"RIFF\0\0\0\0WAVEfmt ", bytes(1000)]
)
def test_other_files_are_told_which_formats_are_read(data):
    with pytest.raises(ImageError, match="JPEG, PNG, WebP, BMP, TIFF or GIF") as caught:
        open_encoded(data, max_pixels=1000)
    assert caught.value.reason == "IMAGE_UNDECODABLE"


def outcome(data):
    """The pixels, or why there are none."""
    try:
        return shown(data, SPEC, max_pixels=100_000)
    except ImageError as error:
        return error


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_file_is_refused_never_shown_in_part(image_format):
    data = file_of(image_format)
    whole = outcome(data)
    middle = range(60, len(data), max(len(data) // 97, 1))
    outcomes = [
        outcome(data[:length]) for length in (*range(1, 60), *middle, *range(len(data) - 40, len(data)))
    ]
    refused = [error for error in outcomes if isinstance(error, ImageError)]
    assert len(refused) > 100
    assert {error.reason for error in refused} == {"IMAGE_UNDECODABLE"}
    for picture in outcomes:  # only what stands behind the last pixel may be missing
        if not isinstance(picture, ImageError):
            np.testing.assert_array_equal(picture, whole)


def test_truncated_images_are_not_completed_by_pillow():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def prepared(data):
    """The input made of these bytes, or why there is none."""
    out = np.empty((24, 32, 3), np.uint8)
    try:
        prepare(open_encoded(data, max_pixels=100_000), SPEC, out)
    except ImageError as error:
        return error
    return out


def survives(data):
    """Nothing but an ImageError comes out, and it says nothing of what happened inside."""
    error = prepared(data)
    if isinstance(error, ImageError):
        assert error.code is Code.INVALID_ARGUMENT
        assert not re.search(r"PIL|Pillow|[a-z]Error|0x|object at|Traceback", error.message)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FORMATS), st.randoms(use_true_random=False))
def test_damaged_bytes_cost_an_image_error_at_most(image_format, chance: random.Random):
    data = bytearray(file_of(image_format, (20, 14)))
    for _ in range(chance.choice((1, 2, 4, 8))):
        data[chance.randrange(min(len(data), chance.choice((40, 200, 10_000))))] = chance.randrange(256)
    survives(bytes(data))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0"]
        + [b"RIFF\x40\0\0\0WEBP" + kind for kind in (b"VP8 ", b"VP8L", b"VP8X")]
    ),
    st.binary(max_size=200),
)
def test_random_bytes_cost_an_image_error_at_most(magic, noise):
    survives(magic + noise)


def test_threads_do_not_disturb_each_other():
    """Good and bad files of every format in eight threads: each gets what it gets alone."""
    good = [file_of(image_format) for image_format in FORMATS]
    files = [*good, *(data[: len(data) // 2] for data in good)] * 10
    alone = [prepared(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(prepared, files))
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, ImageError):
            assert isinstance(other, ImageError)
            assert other.message == one.message
        else:
            np.testing.assert_array_equal(one, other)


def test_damaged_tiffs_leave_neither_warnings_nor_output(capfd, caplog):
    """Warnings are errors here, libtiff writes to the standard error itself, and Pillow logs."""
    chance = random.Random(0)
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(buffer, "TIFF", compression="tiff_lzw")
    for _ in range(200):
        data = bytearray(buffer.getvalue())
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        survives(bytes(data))
    samples = buffer.getvalue().replace(
        struct.pack("<HHIH", 277, 3, 1, 3), struct.pack("<HHIH", 277, 3, 1, 999)
    )
    assert samples != buffer.getvalue()
    survives(samples)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


class TestHeadersThatTakeForever:
    """Each of these made Pillow walk, copy or allocate for seconds; now they are refused.

    What opening costs is counted in test_headers_cost.
    """

    def refused(self, data):
        with pytest.raises(ImageError):
            shown(data, SPEC)

    def test_a_jpeg_of_a_hundred_thousand_segments(self):
        self.refused(b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000 + file_of("JPEG")[2:])

    def test_a_jpeg_of_many_exif_blocks(self):
        block = b"\xff\xe1" + struct.pack(">H", 60_000) + b"Exif\0\0" + bytes(59_992)
        self.refused(b"\xff\xd8" + block * 100 + file_of("JPEG")[2:])

    def test_a_jpeg_with_megabytes_between_its_segments(self):
        self.refused(b"\xff\xd8\xff\xe0\0\2" + bytes(5_000_000) + file_of("JPEG")[2:])

    def test_a_progressive_jpeg_of_a_thousand_scans(self):
        buffer = io.BytesIO()
        Image.new("L", (64, 64), 100).save(buffer, "JPEG", progressive=True)
        data = buffer.getvalue()
        last_scan = data.rindex(b"\xff\xda")
        self.refused(data[:-2] + data[last_scan:-2] * 1000 + data[-2:])

    def test_a_png_of_a_hundred_thousand_empty_chunks(self):
        data = file_of("PNG")
        self.refused(data[:33] + png_chunk(b"IDAT", b"") * 100_000 + data[33:])

    def test_a_gif_of_a_million_comment_blocks(self):
        comment = b"\x21\xfe" + b"\1x" * 1_000_000 + b"\0"
        data = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + comment
        self.refused(data + b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00;")

    def test_a_tiff_of_a_million_strips(self):
        count = 1_000_000
        tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, count, 8)]
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        directory = struct.pack("<H", len(tags)) + entries + bytes(4)
        self.refused(b"II*\0" + struct.pack("<I", 8 + 4 * count) + bytes(4 * count) + directory)

    def test_a_tiff_of_a_million_rationals(self):
        count = 1_000_000
        tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (282, 5, count, 8)]
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        directory = struct.pack("<H", len(tags)) + entries + bytes(4)
        self.refused(b"II*\0" + struct.pack("<I", 8 + 8 * count) + bytes(8 * count) + directory)

    def test_a_tiff_of_sixty_thousand_tags(self):
        entries = b"".join(struct.pack("<HHII", tag, 3, 1, 1) for tag in range(60_000))
        self.refused(b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + entries + bytes(4))

    def test_a_tiff_whose_tile_is_larger_than_any_image(self):
        with pytest.raises(ImageError, match="40000 x 40000 pixels"):
            open_encoded(self.tiff_of_large_tiles(kind=4), max_pixels=1_000_000)

    @pytest.mark.parametrize("kind", [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18])
    def test_a_tiff_whose_tile_size_is_of_a_type_that_only_libtiff_reads(self, kind):
        self.refused(self.tiff_of_large_tiles(kind))

    def tiff_of_large_tiles(self, kind):
        tags = [
            (256, 8),
            (257, 8),
            (258, 8),
            (259, 8),
            (262, 1),
            (322, 40_000),
            (323, 40_000),
            (324, 8),
            (325, 8),
        ]
        entries = b"".join(
            struct.pack("<HHII", tag, kind if tag in (322, 323) else 4, 1, value) for tag, value in tags
        )
        return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4)

    def test_a_tiff_with_a_million_rationals_in_its_exif(self):
        """They are skipped, not refused: the image is fine."""
        count = 1_000_000
        exif = struct.pack("<HHHIII", 1, 0x829A, 5, count, 30, 0)
        pixels_at = 8 + len(exif)
        tags = [(256, 2), (257, 2), (258, 8), (262, 1), (273, pixels_at), (278, 2), (279, 4), (34665, 8)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        body = exif + b"\1\2\3\4" + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(8 * count)
        shown = outcome(b"II*\0" + struct.pack("<I", pixels_at + 4) + body)
        np.testing.assert_array_equal(
            np.asarray(shown)[..., 0] if shown.ndim == 3 else shown, [[1, 2], [3, 4]]
        )

    def test_a_large_run_length_encoded_bmp(self):
        palette = bytes(1024)
        header = b"BM" + struct.pack("<IHHI", 2000, 0, 0, 54 + len(palette))
        header += struct.pack("<IiiHHIIiiII", 40, 1000, 1000, 1, 8, 1, 0, 0, 0, 256, 0)
        with pytest.raises(ImageError):  # of a million pixels, but all are missing
            shown(header + palette, SPEC, max_pixels=10_000_000)
        header = header.replace(struct.pack("<ii", 1000, 1000), struct.pack("<ii", 1000, 1001))
        with pytest.raises(ImageError, match="run-length"):
            open_encoded(header + palette + b"\0\0" * 1001, max_pixels=10_000_000)
