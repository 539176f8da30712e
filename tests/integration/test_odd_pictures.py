"""Pictures in every shape that files come in are read as a person sees them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import pictures
from tests.calls import Connection, encoded, raw
from tests.pictures import BLACK, BLUE, GREEN, RED, WHITE, solid

_FILE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_TURNED_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
_GREYS = np.tile(np.array([[0x0000, 0xFFFF]], np.uint16), (8, 8))


def seen_colour(connection: Connection, image: image_pb2.Image) -> tuple[float, ...]:
    """The mean red, green and blue level, 0 to 255, that the network was given: the detector's scores by class."""
    (outcome,) = connection.detect(image, score_threshold=0).outcomes
    assert outcome.HasField("result"), outcome.error
    shares = {detection.class_id: detection.score for detection in outcome.result.detections}
    return tuple(255 * shares.get(channel, 0.0) for channel in range(3))


def seen_classes(connection: Connection, image: image_pb2.Image) -> npt.NDArray[np.uint8]:
    """Which of red, green and blue is strongest in each pixel."""
    (outcome,) = connection.segment(image, mask_format=pb.MASK_FORMAT_RAW).outcomes
    assert outcome.HasField("result"), outcome.error
    result = outcome.result
    return np.frombuffer(result.raw, np.uint8).reshape(result.height, result.width)


def _palette(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (20, 10), 7)
    image.putpalette([*bytes(3 * 7), *colour])
    return image


def _half_transparent_palette() -> Image.Image:
    """Left half opaque red, right half the transparent colour, which is black."""
    image = Image.new("P", (16, 8), 0)
    image.putpalette([*RED, *BLACK])
    image.paste(1, (8, 0, 16, 8))
    return image


# What it is: the file, and the mean colour that a person sees, on a white page.
PICTURES: dict[str, tuple[Callable[[], bytes], tuple[float, float, float]]] = {
    "animated GIF, red then blue": (lambda: pictures.animation("GIF", RED, BLUE), RED),
    "animated WebP, green then red": (lambda: pictures.animation("WEBP", GREEN, RED), GREEN),
    "animated PNG, blue then red, then green": (lambda: pictures.animation("PNG", BLUE, RED, GREEN), BLUE),
    "CMYK JPEG, red": (lambda: pictures.encode(solid(RED).convert("CMYK"), "JPEG", quality=95), RED),
    "CMYK TIFF, blue": (lambda: pictures.encode(solid(BLUE).convert("CMYK"), "TIFF"), BLUE),
    "grey JPEG": (lambda: pictures.encode(solid((100,), mode="L"), "JPEG"), (100, 100, 100)),
    "black and white PNG": (lambda: pictures.encode(solid((1,), mode="1")), WHITE),
    "16-bit grey PNG": (
        lambda: pictures.deep_png(np.full((8, 16), 0x80FF, np.uint16)),
        (0x80, 0x80, 0x80),
    ),
    "16-bit grey PNG, black and white": (lambda: pictures.deep_png(_GREYS), (127.5, 127.5, 127.5)),
    "16-bit colour PNG": (
        lambda: pictures.deep_png(np.full((8, 16, 3), (0xC0FF, 0x4000, 0x0080), np.uint16)),
        (0xC0, 0x40, 0),
    ),
    "16-bit grey TIFF": (
        lambda: pictures.encode(Image.fromarray(np.full((8, 16), 0x40FF, np.uint16)), "TIFF"),
        (0x40, 0x40, 0x40),
    ),
    "palette PNG": (lambda: pictures.encode(_palette((200, 100, 50))), (200, 100, 50)),
    "palette GIF": (lambda: pictures.encode(_palette((200, 100, 50)), "GIF"), (200, 100, 50)),
    "palette BMP": (lambda: pictures.encode(_palette((200, 100, 50)), "BMP"), (200, 100, 50)),
    "palette PNG, half of it transparent": (
        lambda: pictures.encode(_half_transparent_palette(), transparency=1),
        (255, 127.5, 127.5),
    ),
    "palette GIF, half of it transparent": (
        lambda: pictures.encode(_half_transparent_palette(), "GIF", transparency=1),
        (255, 127.5, 127.5),
    ),
    "PNG with alpha, half-transparent red": (
        lambda: pictures.encode(solid((255, 0, 0, 128), mode="RGBA")),
        (255, 127, 127),
    ),
    "PNG with alpha, all transparent over black": (
        lambda: pictures.encode(solid((0, 0, 0, 0), mode="RGBA")),
        WHITE,
    ),
    "PNG with one transparent colour": (lambda: pictures.encode(solid(BLACK), transparency=BLACK), WHITE),
    "grey PNG with alpha": (lambda: pictures.encode(solid((0, 64), mode="LA")), (191, 191, 191)),
    "WebP with alpha, all transparent": (
        lambda: pictures.encode(solid((0, 0, 255, 0), mode="RGBA"), "WEBP", lossless=True),
        WHITE,
    ),
    "progressive JPEG, blue": (
        lambda: pictures.encode(solid(BLUE, 64, 64), "JPEG", progressive=True, quality=95),
        BLUE,
    ),
    "PNG of one pixel": (lambda: pictures.png(GREEN, 1, 1), GREEN),
    "PNG of one line": (lambda: pictures.png(GREEN, 4_000, 1), GREEN),
}


@pytest.mark.parametrize("what", PICTURES)
def test_a_picture_is_seen_in_its_colours(what: str, colour: Connection) -> None:
    make, expected = PICTURES[what]
    assert seen_colour(colour, encoded(make())) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("file_format", _FILE_FORMATS)
def test_every_file_format_shows_the_same_picture(file_format: str, colour: Connection) -> None:
    image, classes = pictures.quarters()
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}.get(file_format, {})
    seen = seen_classes(colour, encoded(pictures.encode(image, file_format, **options)))
    np.testing.assert_array_equal(seen, classes)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", _TURNED_FORMATS)
def test_a_turned_photo_is_seen_upright(file_format: str, orientation: int, colour: Connection) -> None:
    upright, classes = pictures.quarters(width=48, height=32)
    data = pictures.turned_file(upright, orientation, file_format)

    np.testing.assert_array_equal(seen_classes(colour, encoded(data)), classes)

    (outcome,) = colour.detect(encoded(data)).outcomes
    assert (outcome.result.image_width, outcome.result.image_height) == (48, 32)
    for detection in outcome.result.detections:
        box = detection.box
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx((0, 0, 24, 32))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_passed_over(orientation: int, colour: Connection) -> None:
    upright, classes = pictures.quarters()
    data = pictures.turned_file(upright, orientation, "JPEG")
    np.testing.assert_array_equal(seen_classes(colour, encoded(data)), classes)


@pytest.mark.parametrize(
    ("order", "level"),
    [
        (image_pb2.CHANNEL_ORDER_UNSPECIFIED, (10, 20, 30)),
        (image_pb2.CHANNEL_ORDER_RGB, (10, 20, 30)),
        (image_pb2.CHANNEL_ORDER_BGR, (30, 20, 10)),
        (image_pb2.CHANNEL_ORDER_RGBA, (10, 20, 30, 255)),
    ],
)
def test_raw_channels_mean_what_their_order_says(
    order: int, level: tuple[int, ...], colour: Connection
) -> None:
    pixels = np.empty((5, 7, len(level)), np.uint8)
    pixels[...] = level
    assert seen_colour(colour, raw(pixels, order)) == pytest.approx((10, 20, 30), abs=0.5)


def test_raw_grey_and_transparent_pixels(colour: Connection) -> None:
    grey = raw(np.full((5, 7), 90, np.uint8), image_pb2.CHANNEL_ORDER_GRAY)
    transparent = raw(np.zeros((5, 7, 4), np.uint8), image_pb2.CHANNEL_ORDER_RGBA)
    assert seen_colour(colour, grey) == pytest.approx((90, 90, 90), abs=0.5)
    assert seen_colour(colour, transparent) == pytest.approx(WHITE, abs=0.5)


def test_a_raw_picture_lies_as_its_rows_say(colour: Connection) -> None:
    image, classes = pictures.quarters(width=56, height=24)
    np.testing.assert_array_equal(seen_classes(colour, raw(np.asarray(image))), classes)
