import io
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from retinue.v1 import image_pb2

from retinue_client import ImageError
from retinue_client import _images as images

RGB, RGBA, GRAY = (
    image_pb2.CHANNEL_ORDER_RGB,
    image_pb2.CHANNEL_ORDER_RGBA,
    image_pb2.CHANNEL_ORDER_GRAY,
)


def sent(source):
    message = image_pb2.Image()
    size_bytes = images.fill_image(message, source)
    assert size_bytes == len(message.encoded or message.raw.data)
    return message


def encoded(image, suffix="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def exif_of(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def rotated_photo():
    """A 3 x 2 image whose EXIF says that it is shown turned by a quarter: 2 x 3."""
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
    return encoded(Image.fromarray(pixels), exif=exif_of(6)), np.rot90(pixels, k=-1)


def test_files_and_their_bytes_travel_as_they_are(tmp_path):
    path = tmp_path / "any.jpg"
    path.write_bytes(b"not even an image")
    for source in (
        path,
        str(path),
        b"not even an image",
        bytearray(b"not even an image"),
        memoryview(b"not even an image"),
    ):
        assert sent(source).encoded == b"not even an image"


@pytest.mark.parametrize(
    ("shape", "order"), [((5, 4, 3), RGB), ((5, 4, 4), RGBA), ((5, 4), GRAY), ((5, 4, 1), GRAY)]
)
def test_arrays_travel_as_raw_pixels(shape, order):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    raw = sent(array).raw
    assert (raw.height, raw.width, raw.channel_order) == (5, 4, order)
    assert raw.data == array.tobytes()


def test_an_array_view_travels_in_the_order_it_shows():
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    view = array[::2, ::-1, ::-1]
    assert sent(view).raw.data == np.ascontiguousarray(view).tobytes()


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((4, 4, 3), np.float32), r"array \* 255"),
        (np.zeros((4, 4, 3), np.int64), "0...255"),
        (np.zeros((4, 4), np.bool_), r"\* 255"),
        (np.zeros((3, 32, 32), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"list\(array\)"),
        (np.zeros((4, 4, 5), np.uint8), r"\[height, width, 3\]"),
        (np.zeros(12, np.uint8), "dimensions"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_an_array_of_the_wrong_kind_is_refused_with_advice(array, advice):
    with pytest.raises(ImageError, match=advice) as caught:
        sent(array)
    assert caught.value.reason == "PIXELS_UNSUPPORTED"
    assert caught.value.source.startswith(f"array {array.dtype}")


@pytest.mark.parametrize(
    ("mode", "order", "channels"),
    [
        ("L", GRAY, 1),
        ("1", GRAY, 1),
        ("RGB", RGB, 3),
        ("RGBA", RGBA, 4),
        ("LA", RGBA, 4),
        ("P", RGB, 3),
        ("CMYK", RGB, 3),
        ("YCbCr", RGB, 3),
    ],
)
def test_pillow_images_travel_as_raw_pixels(mode, order, channels):
    image = Image.new("RGB", (4, 5), (200, 100, 50)).convert(mode)
    raw = sent(image).raw
    assert (raw.height, raw.width, raw.channel_order) == (5, 4, order)
    assert len(raw.data) == 4 * 5 * channels


def test_a_palette_with_a_transparent_colour_keeps_its_transparency():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0] * 256)
    image.info["transparency"] = 0
    raw = sent(image).raw
    assert raw.channel_order == RGBA
    assert raw.data == bytes([255, 0, 0, 0]) * 4


@pytest.mark.parametrize(
    ("levels", "eight"),
    [
        (np.array([[0, 300], [40000, 65535]], np.uint16), [[0, 1], [156, 255]]),
        (np.array([[0, 300], [40000, 65535]], np.int32), [[0, 1], [156, 255]]),
        (np.array([[0, 0.25], [0.5, 1]], np.float32), [[0, 64], [128, 255]]),
    ],
)
def test_deep_grey_levels_are_sent_and_drawn_as_the_server_sees_them(levels, eight):
    data = encoded(Image.fromarray(levels), "TIFF")
    assert sent(Image.open(io.BytesIO(data))).raw.data == np.array(eight, np.uint8).tobytes()
    for source in (data, Image.open(io.BytesIO(data))):
        assert np.asarray(images.open_upright(source))[:, :, 0].tolist() == eight


@pytest.mark.parametrize("level", [float("nan"), -0.5, 1.5])
def test_deep_grey_levels_without_a_meaning_are_an_image_error(level):
    data = encoded(Image.fromarray(np.full((2, 2), level, np.float32)), "TIFF")
    for use in (sent, images.open_upright):
        with pytest.raises(ImageError, match="between 0, black, and 1, white"):
            use(Image.open(io.BytesIO(data)))


def test_pillow_modes_without_a_common_meaning_are_refused_with_advice():
    with pytest.raises(ImageError, match="convert to mode") as caught:
        sent(Image.new("F", (3, 3)))
    assert caught.value.source == "Pillow image F 3x3"


def test_an_opened_photo_travels_upright_as_its_file_does():
    data, upright = rotated_photo()
    raw = sent(Image.open(io.BytesIO(data))).raw
    assert (raw.height, raw.width) == upright.shape[:2]
    assert raw.data == upright.tobytes()


def test_what_is_no_image_is_a_type_error_that_says_what_is():
    with pytest.raises(TypeError, match="list is no image: give a path"):
        sent([1, 2])


class Dripping(io.BytesIO):
    """A file that gives less than it is asked for, as sockets do."""

    def read(self, size=-1):
        return super().read(min(size, 3))


def test_an_open_file_travels_from_where_it_stands_and_stays_open(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    with (tmp_path / "a.jpg").open("rb") as file:
        file.seek(2)
        assert sent(file).encoded == b"23456789"
        assert not file.closed
        with pytest.raises(ImageError, match=r"a\.jpg: .*seek\(0\)") as caught:
            sent(file)
        assert caught.value.reason == "IMAGE_EMPTY"
    assert sent(Dripping(b"0123456789")).encoded == b"0123456789"


def test_an_open_file_that_gives_no_bytes_is_refused_with_advice(tmp_path):
    class Uploaded:
        async def read(self, size=-1):
            return b""

    class Text:
        def read(self, size=-1):
            return "text"

    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    with (tmp_path / "a.jpg").open("rb") as closed:
        pass
    with (tmp_path / "a.jpg").open() as text:
        for file, advice in (
            (text, "mode 'rb'"),
            (io.StringIO("text"), "mode 'rb'"),
            (Text(), "mode 'rb'"),
            (closed, "is closed"),
            (Uploaded(), r"await file\.read\(\)"),
            ((tmp_path / "b.jpg").open("wb"), "cannot be read"),
        ):
            with pytest.raises(ImageError, match=advice) as caught:
                sent(file)
            assert caught.value.reason == "FILE_UNREADABLE"
            assert caught.value.source
            getattr(file, "close", list)()


def test_whatever_an_open_file_raises_is_an_error_of_that_image_alone(ask):
    class Torn(io.BytesIO):
        def read(self, size=-1):
            raise EOFError("the stream ended early")

    torn, whole = ask("classify", [Torn(), io.BytesIO(b"whole")])
    assert (torn.reason, torn.source) == ("FILE_UNREADABLE", "file Torn")
    assert torn.message == "The file cannot be read: EOFError: the stream ended early."
    assert whole.best.label == "whole"


def test_an_open_file_is_bounded(monkeypatch):
    class Endless:
        def read(self, size):
            return bytes(min(size, 1000))

    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(ImageError) as caught:
        sent(Endless())
    assert (caught.value.reason, caught.value.source) == ("FILE_TOO_LARGE", "file Endless")


def test_an_open_file_is_one_image_and_not_a_list_of_lines():
    assert images.is_image_source(io.BytesIO(b"one\ntwo"))
    assert repr(images.WithRegions(io.BytesIO(b"x"), [[0, 0, 1, 1]])) == (
        "<WithRegions file BytesIO: [[0, 0, 1, 1]]>"
    )


def test_files_that_cannot_be_read_say_why(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=r"missing\.jpg: There is no such file") as caught:
        images.read_file(tmp_path / "missing.jpg")
    assert caught.value.reason == "FILE_NOT_FOUND"
    with pytest.raises(ImageError, match="retinue score") as caught:
        images.read_file(tmp_path)
    assert caught.value.reason == "FILE_IS_A_FOLDER"
    with pytest.raises(ImageError) as caught:
        images.read_file("nul\0byte")
    assert caught.value.reason == "FILE_UNREADABLE"
    path = tmp_path / "large.jpg"
    path.write_bytes(b"12345")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 4)
    with pytest.raises(ImageError) as caught:
        images.read_file(path)
    assert caught.value.reason == "FILE_TOO_LARGE"


def test_a_forbidden_file_says_that_it_is(tmp_path):
    error = images.file_error(PermissionError(13, os.strerror(13)), tmp_path / "secret.jpg")
    assert error.reason == "FILE_FORBIDDEN"
    assert str(error) == f"{tmp_path / 'secret.jpg'}: Reading the file is not permitted."


def test_a_file_whose_error_says_nothing_has_the_errors_name():
    assert images.file_error(TimeoutError(), "slow.jpg").message == "The file cannot be read: TimeoutError."


def test_every_source_of_one_photo_is_drawn_in_the_same_frame(tmp_path):
    data, upright = rotated_photo()
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    sources = (path, data, io.BytesIO(data), path.as_uri(), Image.open(io.BytesIO(data)))
    for source in (*sources, np.ascontiguousarray(upright)):
        assert np.array_equal(np.asarray(images.open_upright(source)), upright)
    assert images.upright_size(data) == (2, 3)


def test_transparent_parts_are_drawn_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(images.open_upright(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("array", [np.full((2, 3), 9, np.uint8), np.full((2, 3, 1), 9, np.uint8)])
def test_grey_arrays_are_drawn_grey(array):
    assert np.asarray(images.open_upright(array)).tolist() == [[[9] * 3] * 3] * 2


def test_sixteen_bit_images_are_drawn_by_their_high_byte():
    levels = np.array([[0, 0x1234, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(images.open_upright(encoded(Image.fromarray(levels))))[0, :, 0].tolist() == [
        0,
        0x12,
        0xFF,
    ]


@pytest.mark.parametrize("data", [b"", b"text", encoded(Image.new("RGB", (64, 64)))[:60]])
def test_what_cannot_be_decoded_cannot_be_drawn(data):
    with pytest.raises(ImageError) as caught:
        images.open_upright(data)
    assert caught.value.reason == "IMAGE_UNDECODABLE"
    assert images.upright_size(data[:20]) is None


def half_of_a_photo(suffix="JPEG"):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), suffix)
    return data[: len(data) // 2]


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "GIF"])
def test_an_opened_image_that_turns_out_to_be_truncated_is_an_image_error(suffix):
    for use in (sent, images.open_upright):
        opened = Image.open(io.BytesIO(half_of_a_photo(suffix)))
        with pytest.raises(ImageError, match="cannot be decoded") as caught:
            use(opened)
        assert caught.value.reason == "IMAGE_UNDECODABLE"
        assert caught.value.source.startswith("Pillow image")


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
@given(
    tags=st.lists(
        st.tuples(
            st.sampled_from([0x0112, 0x0100, 0x8769, 0x8825, 0x927C, 0x9286]) | st.integers(0, 0xFFFF),
            st.integers(0, 14),
            st.integers(0, 5) | st.integers(0, 2**32 - 1),
            st.integers(0, 60) | st.integers(0, 2**32 - 1),
        ),
        max_size=6,
    ),
    rest=st.binary(max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_no_exif_block_keeps_an_image_from_being_sent_and_drawn(suffix, tags, rest):
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + rest
    data = encoded(Image.new("RGB", (4, 2)), suffix, exif=exif)
    size = images.open_upright(data).size
    assert size in ((4, 2), (2, 4))
    assert images.upright_size(data) == size
    raw = sent(Image.open(io.BytesIO(data))).raw
    assert (raw.width, raw.height) == size


@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_photo_is_turned_though_other_tags_of_its_exif_block_are_damaged():
    # An orientation of 6, and a text where Pillow expects a number when it writes the block again.
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x8825, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    data = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)
    assert images.open_upright(data).size == images.upright_size(data) == (2, 4)
    assert sent(Image.open(io.BytesIO(data))).raw.width == 2


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("number", range(1, 9))
def test_each_orientation_is_applied_once_whatever_the_format(suffix, number):
    data = encoded(Image.new("RGB", (4, 2)), suffix, exif=exif_of(number))
    expected = (4, 2) if number < 5 else (2, 4)
    assert images.open_upright(data).size == expected
    assert images.upright_size(data) == expected


@pytest.mark.parametrize("number", range(1, 9))
def test_orientations_turn_as_pillow_turns_them(number):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    data = encoded(Image.fromarray(pixels), exif=exif_of(number))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(images.open_upright(data)), np.asarray(expected))
