"""EXIF orientation: all eight, wherever it stands, however damaged."""

import struct

import numpy as np
import pytest
from PIL import Image
from tests.unit.vision.shown import shown

from retinue_server.vision.decode import open_encoded
from retinue_server.vision.directories import exif_orientation
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

# How an upright picture must be stored so that this orientation brings it back.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def exif_block(orientation, *, order="<", kind=3, prefix=b"Exif\0\0"):
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = struct.pack(order + "HHHI", 1, 0x0112, kind, 1) + value + bytes(4)
    return prefix + magic + struct.pack(order + "I", 8) + body


def stored(photo, orientation):
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(photo))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_each_orientation_is_undone(photo, encoded, colour, orientation, image_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encoded(stored(photo, orientation), image_format, exif=exif, **options)
    np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_a_jpeg_is_undone(photo, encoded, colour, orientation):
    data = encoded(stored(photo, orientation), "JPEG", quality=95, exif=exif_block(orientation))
    upright = shown(data, colour).astype(int)
    assert upright.shape == (40, 60, 3)
    for row, column in ((2, 2), (2, -3), (-3, 2), (-3, -3)):
        assert np.abs(upright[row, column] - np.asarray(photo)[row, column]).max() < 16


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_turning_after_resizing_differs_by_one_level_at_most(encoded, orientation, mode, resample):
    noise = np.random.default_rng(orientation).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "PNG", exif=exif_block(orientation))
    spec = InputSpec(20, 28, False, mode, resample, shorter_side=32)
    fast = np.empty((20, 28, 3), np.uint8)
    slow = np.empty_like(fast)
    fast_frame = prepare(open_encoded(data, max_pixels=10_000), spec, fast)
    slow_frame = prepare(Image.fromarray(shown(data, spec)), spec, slow)
    assert fast_frame == slow_frame
    assert np.abs(fast.astype(int) - slow).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_and_nearest_neighbour_agree_exactly(encoded, orientation):
    noise = np.random.default_rng(orientation).integers(0, 256, (60, 48, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "PNG", exif=exif_block(orientation))
    spec = InputSpec(24, 30, False, ResizeMode.STRETCH, Image.Resampling.NEAREST)
    fast = np.empty((24, 30, 3), np.uint8)
    slow = np.empty_like(fast)
    prepare(open_encoded(data, max_pixels=10_000), spec, fast)
    prepare(Image.fromarray(shown(data, spec)), spec, slow)
    np.testing.assert_array_equal(fast, slow)


def test_an_orientation_that_follows_the_pixels_of_a_png_counts(photo, encoded, colour):
    data = encoded(stored(photo, 6), "PNG", exif=exif_block(6))
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack_from(">I", data, start)[0]
    data = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"])
def test_every_way_to_write_an_orientation_is_read(order, kind, prefix):
    assert exif_orientation(exif_block(8, order=order, kind=kind, prefix=prefix)) == 8


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_out_of_range_is_upright(orientation):
    assert exif_orientation(exif_block(orientation)) == 1


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01",
        b"not exif at all",
        exif_block(6)[:-7],
        exif_block(6, order=">").replace(b"MM\0*", b"MM\0\0"),
    ],
)
def test_damaged_exif_neither_turns_nor_fails_the_image(photo, encoded, colour, exif):
    assert exif_orientation(exif) == 1
    np.testing.assert_array_equal(shown(encoded(photo, "PNG", exif=exif or b"x"), colour), np.asarray(photo))
    jpeg = encoded(photo, "JPEG", exif=exif or b"x")
    assert shown(jpeg, colour).shape == (40, 60, 3)


@pytest.mark.parametrize("tag", [34665, 34853, 40965])
@pytest.mark.parametrize("address", [0, 3, 8, 60, 2**31, 2**32 - 1])
def test_a_damaged_directory_behind_the_pixels_of_a_tiff_does_not_fail_it(grey, tag, address, capfd):
    tags = [
        (256, 2), (257, 4), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, 8), (tag, address),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in tags)
    data = (
        b"II*\0" + struct.pack("<I", 16) + bytes(range(8)) + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    levels = shown(data, grey)
    np.testing.assert_array_equal(levels, np.arange(8).reshape(4, 2))
    assert capfd.readouterr() == ("", "")


def test_the_exif_of_a_jpeg_is_not_parsed_when_it_is_opened(photo, encoded, monkeypatch):
    def fail(self):
        raise AssertionError("the EXIF block was parsed")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    open_encoded(encoded(photo, "JPEG", exif=exif_block(6)), max_pixels=10_000)
