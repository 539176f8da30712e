"""Small pictures of what two bundles answer."""

import base64
import colorsys
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_LONGEST = 320
_SMALLEST_ENLARGED = 160
_TEXT = 13
_ALONE = (255, 138, 50)
_SHARED = (120, 190, 255)
_DARK = (20, 20, 20)
# Consecutive multiples of the golden ratio lie far apart on the circle of hues.
_GOLDEN_RATIO = 0.618033988749895


def small(upright: Image.Image) -> Image.Image:
    """The image with its longer side at 320 pixels at most, tiny ones enlarged: mode "RGB"."""
    longest = max(upright.size)
    scale = _LONGEST / longest if longest > _LONGEST else max(1, _SMALLEST_ENLARGED // longest)
    size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
    filter_ = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST
    return upright.resize(size, filter_)


def detections(upright: Image.Image, boxes: NDArray[np.float32], alone: Mapping[int, str]) -> Image.Image:
    """Frames objects: those in the rows `alone` in orange and with a text, others in thin blue.

    Args:
        upright: the image.
        boxes: float32 [D,4], x1, y1, x2, y2 in the image's pixels.
        alone: what to write on those that the other side does not have, by row.
    """
    picture = small(upright)
    draw = ImageDraw.Draw(picture)
    corners = (boxes * (picture.width / upright.width)).tolist()
    for row, (x1, y1, x2, y2) in enumerate(corners):
        if row not in alone:
            draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_SHARED)
    for row, text in alone.items():
        _frame(draw, corners[row], text, picture.size)
    return picture


def _frame(draw: ImageDraw.ImageDraw, corners: tuple[float, ...], text: str, size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = corners
    draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_DARK, width=5)
    draw.rectangle((x1 + 1, y1 + 1, max(x1 + 1, x2 - 2), max(y1 + 1, y2 - 2)), outline=_ALONE, width=3)
    font = ImageFont.load_default(size=_TEXT)
    width = font.getlength(text) + 6
    left = max(0, min(x1, size[0] - width))
    top = y1 - _TEXT - 4 if y1 >= _TEXT + 4 else min(y2, size[1] - _TEXT - 4)
    draw.rectangle((left, top, left + width, top + _TEXT + 4), fill=_ALONE)
    draw.text((left + 3, top + 1), text, _DARK, font)


def tinted(upright: Image.Image, class_map: NDArray[np.int32], plain: int | None) -> Image.Image:
    """Lays the colour of its class over each pixel but those of class `plain`.

    Args:
        upright: the image.
        class_map: int32 [height, width] of the image.
        plain: usually background.
    """
    picture = small(upright)
    shrunk = _nearest(class_map, picture.size)
    present, places = np.unique(shrunk, return_inverse=True)
    table = np.array([_colour(int(number)) for number in present], np.uint8)
    colours = Image.fromarray(table[places.reshape(shrunk.shape)])
    opacity = np.where(shrunk == plain, np.uint8(0), np.uint8(140))
    return Image.composite(colours, picture, Image.fromarray(opacity))


def marked(upright: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The image faded to grey, and the pixels of the mask, bool [height, width], in orange."""
    picture = small(upright)
    faded = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, _DARK), 0.5)
    # Averaged, not picked: where few pixels differ, some of them must still be seen.
    shares = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BOX)
    opacity = shares.point([min(255, 3 * level) for level in range(256)])
    return Image.composite(Image.new("RGB", picture.size, _ALONE), faded, opacity)


def css_colour(number: int) -> str:
    """The colour of a class in `tinted`, as CSS writes it."""
    return "rgb({}, {}, {})".format(*_colour(number))


def data_uri(picture: Image.Image) -> str:
    """The picture as a JPEG inside a page."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _nearest(class_map: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(np.intp)
        for count, length in zip(size[::-1], class_map.shape, strict=True)
    )
    picked: NDArray[np.int32] = class_map[rows][:, columns]
    return picked


def _colour(number: int) -> tuple[int, int, int]:
    """A class's colour."""
    lightness = (0.62, 0.48, 0.70)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN_RATIO % 1.0, lightness, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)
