"""Images of every kind are decoded as a person sees them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.unit.vision.shown import MAX_PIXELS, shown

from retinue_server.errors import ImageError
from retinue_server.vision.decode import open_encoded
from retinue_server.vision.headers import png_pixels_only


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour_type, rows, *chunks):
    """A PNG file from the bytes of its rows and chunks that stand before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_lossless_colour_comes_back_unchanged(photo, encoded, colour, image_format):
    np.testing.assert_array_equal(shown(encoded(photo, image_format), colour), np.asarray(photo))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "GIF"])
def test_lossy_colour_comes_back_close(photo, encoded, colour, image_format):
    options = {"quality": 95, "subsampling": 0} if image_format == "JPEG" else {"quality": 95}
    got = shown(encoded(photo, image_format, **options), colour)
    assert np.abs(got.astype(int) - np.asarray(photo)).mean() < 4


def test_lossless_webp_comes_back_unchanged(photo, encoded, colour):
    np.testing.assert_array_equal(shown(encoded(photo, "WEBP", lossless=True), colour), np.asarray(photo))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_grey_files_serve_grey_and_colour_models(photo, encoded, colour, grey, image_format):
    data = encoded(photo.convert("L"), image_format)
    as_grey = shown(data, grey)
    assert as_grey.shape == (40, 60)
    assert np.abs(as_grey.astype(int) - np.asarray(photo.convert("L"))).mean() < 2
    as_colour = shown(data, colour)
    assert as_colour.shape == (40, 60, 3)
    np.testing.assert_array_equal(np.asarray(Image.fromarray(as_colour).convert("L")), as_grey)


def test_colour_files_serve_grey_models_with_pillows_luma(photo, encoded, grey):
    np.testing.assert_array_equal(shown(encoded(photo, "PNG"), grey), np.asarray(photo.convert("L")))


def test_cmyk_jpeg_shows_its_colours_not_their_negative(photo, encoded, colour):
    got = shown(encoded(photo.convert("CMYK"), "JPEG", quality=95), colour)
    assert np.abs(got.astype(int) - np.asarray(photo)).mean() < 6


def test_ycck_jpeg_shows_its_colours(photo, encoded, colour):
    """As Photoshop writes it: inverted CMYK of which C, M and Y are then stored as Y, Cb and Cr."""
    luma_and_chroma = ImageOps.invert(photo).convert("YCbCr").split()
    stored = [ImageOps.invert(band) for band in (*luma_and_chroma, Image.new("L", photo.size, 255))]
    data = encoded(Image.merge("CMYK", stored), "JPEG", quality=95)
    transform = data.index(b"Adobe") + 11
    data = data[:transform] + b"\2" + data[transform + 1 :]
    got = shown(data, colour)
    assert np.abs(got.astype(int) - np.asarray(photo)).mean() < 4


def test_cmyk_tiff_is_not_inverted(photo, encoded, colour):
    got = shown(encoded(photo.convert("CMYK"), "TIFF"), colour)
    assert np.abs(got.astype(int) - np.asarray(photo)).max() <= 2


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(encoded, grey, image_format):
    levels = np.array([[0, 255, 256, 4096], [32768, 40000, 65279, 65535]], np.uint16)
    got = shown(encoded(Image.fromarray(levels), image_format), grey)
    np.testing.assert_array_equal(got, levels >> 8)
    assert got[1, 3] == 255


def test_big_endian_sixteen_bit_tiff_is_scaled(grey):
    levels = np.array([[0, 257, 32768, 65535]], ">u2")
    got = shown(tiff(levels.tobytes(), 4, 1, bits=16, order=">"), grey)
    np.testing.assert_array_equal(got, [[0, 1, 128, 255]])


def test_twelve_bit_tiff_is_scaled_by_its_own_white(grey):
    # 0x000, 0x800, 0xfff, 0x010 in twelve bits each.
    got = shown(tiff(bytes.fromhex("000800fff010"), 4, 1, bits=12), grey)
    np.testing.assert_array_equal(got, [[0, 128, 255, 1]])


def test_sixteen_bit_tiff_where_zero_is_white_is_inverted(grey):
    levels = np.array([[0, 65535, 32768]], "<u2")
    got = shown(tiff(levels.tobytes(), 3, 1, bits=16, photometric=0), grey)
    np.testing.assert_array_equal(got, [[255, 0, 127]])


def test_sixteen_bit_grey_and_grey_in_sixteen_bit_colour_agree(colour):
    levels = np.arange(0, 65536, 257 // 3, dtype=">u2")[None]
    in_grey = png(levels.shape[1], 1, 16, 0, [levels.tobytes()])
    in_colour = png(levels.shape[1], 1, 16, 2, [np.repeat(levels[..., None], 3, axis=2).tobytes()])
    np.testing.assert_array_equal(shown(in_grey, colour), shown(in_colour, colour))


def test_sixteen_bit_colour_png_keeps_its_colours(colour):
    row = np.array([[65535, 0, 32768], [256, 65280, 511]], ">u2")
    got = shown(png(2, 1, 16, 2, [row.tobytes()]), colour)
    np.testing.assert_array_equal(got, [[[255, 0, 128], [1, 255, 1]]])


def test_integer_tiff_within_sixteen_bits_is_scaled(encoded, grey):
    levels = np.array([[0, 65535, 32768]], np.int32)
    np.testing.assert_array_equal(shown(encoded(Image.fromarray(levels), "TIFF"), grey), [[0, 255, 128]])


@pytest.mark.parametrize("level", [-1, 65536, 2**31 - 1])
def test_integer_tiff_of_unknown_white_is_refused(encoded, grey, level):
    data = encoded(Image.fromarray(np.array([[0, level]], np.int32)), "TIFF")
    with pytest.raises(ImageError, match="8 or 16 bits"):
        shown(data, grey)


def test_float_tiff_from_zero_to_one_is_scaled(encoded, grey):
    levels = np.array([[0, 0.5, 1, 0.002]], np.float32)
    np.testing.assert_array_equal(shown(encoded(Image.fromarray(levels), "TIFF"), grey), [[0, 128, 255, 1]])


@pytest.mark.parametrize("level", [np.nan, np.inf, -0.1, 1.5, 255.0])
def test_float_tiff_of_unknown_range_is_refused(encoded, grey, level):
    data = encoded(Image.fromarray(np.array([[0.5, level]], np.float32)), "TIFF")
    with pytest.raises(ImageError, match="between 0, black, and 1, white"):
        shown(data, grey)


def test_palette_becomes_colour(photo, encoded, colour, grey):
    palette = photo.quantize(200)
    expected = palette.convert("RGB")
    for image_format in ("PNG", "BMP", "TIFF", "GIF"):
        data = encoded(palette, image_format)
        np.testing.assert_array_equal(shown(data, colour), np.asarray(expected), err_msg=image_format)
        assert np.abs(shown(data, grey).astype(int) - np.asarray(expected.convert("L"))).max() <= 1


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_one_bit_becomes_black_and_white(encoded, colour, grey, image_format):
    bits = Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], np.uint8)).convert("1")
    data = encoded(bits, image_format)
    np.testing.assert_array_equal(shown(data, grey), [[0, 255, 0], [255, 255, 0]])
    assert set(np.unique(shown(data, colour))) == {0, 255}


class TestTransparencyLiesOnWhite:
    def test_rgba(self, encoded, colour):
        levels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 128]]], np.uint8)
        for image_format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
            got = shown(encoded(Image.fromarray(levels), image_format, **options), colour)
            np.testing.assert_array_equal(
                got, [[[255, 255, 255], [10, 20, 30], [127, 127, 127]]], err_msg=image_format
            )

    def test_grey_with_alpha(self, encoded, grey, colour):
        levels = np.array([[[10, 0], [10, 255], [0, 128]]], np.uint8)
        data = encoded(_la(levels), "PNG")
        np.testing.assert_array_equal(shown(data, grey), [[255, 10, 127]])
        expected = [[[255] * 3, [10] * 3, [127] * 3]]
        np.testing.assert_array_equal(shown(data, colour), expected)

    def test_rgba_for_a_grey_model(self, encoded, grey):
        levels = np.array([[[10, 20, 30, 0], [100, 100, 100, 255]]], np.uint8)
        np.testing.assert_array_equal(shown(encoded(Image.fromarray(levels), "PNG"), grey), [[255, 100]])

    def test_sixteen_bit_grey_with_alpha(self, grey):
        row = np.array([[0x1000, 0], [0x1000, 0xFFFF]], ">u2")
        np.testing.assert_array_equal(shown(png(2, 1, 16, 4, [row.tobytes()]), grey), [[255, 0x10]])

    def test_a_palette_with_one_transparent_entry(self, colour):
        palette = png_chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6]))
        data = png(2, 1, 8, 3, [b"\0\1"], palette, png_chunk(b"tRNS", b"\xff\0"))
        np.testing.assert_array_equal(shown(data, colour), [[[1, 2, 3], [255, 255, 255]]])

    def test_a_palette_with_graded_alpha(self, colour):
        palette = png_chunk(b"PLTE", bytes([0, 0, 0, 0, 0, 0, 9, 9, 9]))
        data = png(3, 1, 8, 3, [b"\0\1\2"], palette, png_chunk(b"tRNS", b"\x80\x00\xff"))
        np.testing.assert_array_equal(shown(data, colour), [[[127] * 3, [255] * 3, [9] * 3]])

    @pytest.mark.parametrize(
        ("depth", "row", "transparent", "expected"),
        [
            (1, b"\x40", 0, [[255, 255]]),
            (2, b"\x40", 1, [[255, 0]]),
            (4, b"\x31", 3, [[255, 17]]),
            (8, b"\x07\x08", 7, [[255, 8]]),
            (16, b"\x12\x34\x12\x35", 0x1234, [[255, 0x12]]),
        ],
    )
    def test_a_transparent_grey_level_at_every_depth(self, grey, depth, row, transparent, expected):
        chunk = png_chunk(b"tRNS", struct.pack(">H", transparent))
        np.testing.assert_array_equal(shown(png(2, 1, depth, 0, [row], chunk), grey), expected)

    @pytest.mark.parametrize(("depth", "bytes_a_level"), [(8, 1), (16, 2)])
    def test_a_transparent_colour(self, colour, depth, bytes_a_level):
        row = b"".join(level.to_bytes(1, "big") * bytes_a_level for level in (1, 2, 3, 7, 8, 9))
        levels = [int.from_bytes(level.to_bytes(1, "big") * bytes_a_level, "big") for level in (1, 2, 3)]
        chunk = png_chunk(b"tRNS", struct.pack(">HHH", *levels))
        got = shown(png(2, 1, depth, 2, [row], chunk), colour)
        np.testing.assert_array_equal(got, [[[255, 255, 255], [7, 8, 9]]])

    def test_gif(self, encoded, colour):
        image = Image.new("P", (2, 1))
        image.putpalette([9, 8, 7, 50, 60, 70])
        image.putpixel((1, 0), 1)
        np.testing.assert_array_equal(
            shown(encoded(image, "GIF", transparency=1), colour), [[[9, 8, 7], [255, 255, 255]]]
        )


class TestAnimationsShowTheirFirstFrame:
    @pytest.mark.parametrize("disposal", [0, 1, 2, 3])
    def test_gif(self, photo, encoded, colour, disposal):
        frames = {"save_all": True, "append_images": [photo.rotate(180)], "duration": 50, "loop": 0}
        data = encoded(photo, "GIF", disposal=disposal, comment=b"hello", **frames)
        assert np.abs(shown(data, colour).astype(int) - np.asarray(photo)).mean() < 4

    def test_png(self, photo, encoded, colour):
        data = encoded(photo, "PNG", save_all=True, append_images=[photo.rotate(180)])
        assert b"acTL" in data
        np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))

    def test_webp(self, photo, encoded, colour):
        data = encoded(photo, "WEBP", save_all=True, append_images=[photo.rotate(180)], lossless=True)
        np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))

    def test_pages_of_a_tiff(self, photo, encoded, colour):
        data = encoded(photo, "TIFF", save_all=True, append_images=[photo.rotate(180)])
        np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))

    def test_pictures_of_an_mpo(self, photo, encoded, colour):
        data = encoded(photo, "MPO", save_all=True, append_images=[photo.rotate(180)], quality=95)
        assert np.abs(shown(data, colour).astype(int) - np.asarray(photo)).mean() < 4


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
def test_compressed_tiff_comes_back_unchanged(photo, encoded, colour, compression):
    data = encoded(photo, "TIFF", compression=compression)
    np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))


def test_run_length_encoded_bmp_is_read(grey):
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    rows = b"\x02\x07\x01\x09\x00\x00\x03\x05\x00\x01"  # bottom up: 7 7 9, 5 5 5
    size = 14 + 40 + len(palette)
    header = b"BM" + struct.pack("<IHHI", size + len(rows), 0, 0, size)
    header += struct.pack("<IiiHHIIiiII", 40, 3, 2, 1, 8, 1, len(rows), 0, 0, 256, 0)
    np.testing.assert_array_equal(shown(header + palette + rows, grey), [[5, 5, 5], [7, 7, 9]])


def test_metadata_of_a_png_is_never_unpacked(photo, encoded, colour):
    """Sixty-four text chunks of a megabyte each, a broken profile and a broken gamma: none of it matters."""
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))
    data = encoded(photo, "PNG")
    after_header = 8 + 25
    broken = png_chunk(b"iCCP", b"x\0\7") + png_chunk(b"gAMA", b"\1") + png_chunk(b"acTL", b"")
    data = data[:after_header] + bomb * 70 + broken + data[after_header:-12] + bomb * 70 + data[-12:]
    image = open_encoded(data, max_pixels=MAX_PIXELS)
    assert "k" not in image.info
    np.testing.assert_array_equal(shown(data, colour), np.asarray(photo))
    image.load()
    assert "k" not in image.info


def test_a_plain_png_is_not_copied(photo, encoded):
    data = encoded(photo, "PNG")
    assert png_pixels_only(data) is data


def tiff(strip, width, height, *, bits, order="<", photometric=1):
    """An uncompressed grey TIFF of one strip."""
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric),
        (273, 8), (277, 1), (278, height), (279, len(strip)),
    ]  # fmt: skip
    strip += b"\0" * (len(strip) % 2)
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", 8 + len(strip))
    return head + strip + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def _la(levels):
    grey, alpha = (Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in (0, 1))
    return Image.merge("LA", (grey, alpha))
