"""Pillow images and arrays as raw pixels, as they travel."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from retinue.v1 import image_pb2

from retinue_client._errors import ImageError
from retinue_client._pillow import decoding, load_upright

_RGB = image_pb2.CHANNEL_ORDER_RGB
_RGBA = image_pb2.CHANNEL_ORDER_RGBA
_GRAY = image_pb2.CHANNEL_ORDER_GRAY
_ORDERS_BY_MODE = {"L": _GRAY, "RGB": _RGB, "RGBA": _RGBA}
# Modes that lose nothing on their way to one of the three above.
_PLAIN_MODES = {
    "1": "L",
    "P": "RGB",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "PA": "RGBA",
    "LA": "RGBA",
    "La": "RGBA",
    "RGBa": "RGBA",
}


Pixels: TypeAlias = Image.Image | npt.NDArray[np.uint8]
"""An image that is decoded."""


def describe_pixels(pixels: Pixels) -> str:
    """What kind and size of image this is, for messages."""
    if isinstance(pixels, Image.Image):
        return f"Pillow image {pixels.mode} {pixels.width}x{pixels.height}"
    return f"array {pixels.dtype} {list(pixels.shape)}"


def fill_pixels(message: image_pb2.Image, pixels: Pixels) -> int:
    """Writes pixels into a message and returns how many bytes they are.

    Raises:
        ImageError: They are of a kind that cannot be sent.
    """
    if isinstance(pixels, Image.Image):
        return _fill_from_pillow(message, pixels)
    order = _channel_order(pixels)
    return _fill_raw(message, pixels.tobytes(), pixels.shape[0], pixels.shape[1], order)


def image_of_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    """An array as a Pillow image.

    Raises:
        ImageError: It is of a kind that cannot be sent.
    """
    order = _channel_order(array)
    pixels = array[:, :, 0] if order == _GRAY and array.ndim == 3 else array
    return Image.fromarray(np.ascontiguousarray(pixels))


def _fill_from_pillow(message: image_pb2.Image, image: Image.Image) -> int:
    """Pillow images travel as a person sees them, so that Image.open(path) is answered as path itself is.

    What 32-bit levels mean is known of files; of those made here it is not.
    """
    source = describe_pixels(image)
    mode = image.mode
    known = mode not in ("I", "F") or image.format is not None
    if known:
        with decoding(source):
            image = load_upright(image)
            if image.has_transparency_data and image.mode != "RGBA":
                image = image.convert("RGBA")
            elif image.mode in _PLAIN_MODES:
                image = image.convert(_PLAIN_MODES[image.mode])
    order = _ORDERS_BY_MODE.get(image.mode)
    if order is None:
        raise ImageError(
            f"Images of mode {mode} have no common meaning: bring the values to 0...255 and convert to "
            "mode 'L' or 'RGB' first.",
            source=source,
            reason="PIXELS_UNSUPPORTED",
        )
    return _fill_raw(message, image.tobytes(), image.height, image.width, order)


def _fill_raw(
    message: image_pb2.Image, data: bytes, height: int, width: int, order: image_pb2.ChannelOrder.ValueType
) -> int:
    raw = message.raw
    raw.data = data
    raw.height = height
    raw.width = width
    raw.channel_order = order
    return len(data)


def _channel_order(array: npt.NDArray[Any]) -> image_pb2.ChannelOrder.ValueType:
    """What the channels of an array mean.

    Raises:
        ImageError: Its dtype or shape is none of `ImageSource`; the message says how to get there.
    """
    advice = None
    if array.dtype != np.uint8:
        if array.dtype.kind == "f":
            how = "if its values are in [0, 1], use (array * 255).round().astype(np.uint8)"
        elif array.dtype == np.bool_:
            how = "use array.astype(np.uint8) * 255"
        else:
            how = "bring its values to 0...255 and use array.astype(np.uint8)"
        advice = f"An array must be of dtype uint8, not {array.dtype}: {how}."
    elif array.ndim == 4:
        advice = "An array is one image; for a batch give list(array)."
    elif array.ndim not in (2, 3):
        advice = f"An array must be [height, width, 3], not of {array.ndim} dimensions."
    elif array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        advice = f"An array must be [height, width, 3], not {list(array.shape)}"
        advice += (
            ": move the channels to the end with array.transpose(1, 2, 0)."
            if array.shape[0] in (1, 3, 4)
            else "."
        )
    elif 0 in array.shape:
        advice = "The array has no pixels."
    if advice is not None:
        raise ImageError(advice, source=describe_pixels(array), reason="PIXELS_UNSUPPORTED")
    return {1: _GRAY, 3: _RGB, 4: _RGBA}[array.shape[2] if array.ndim == 3 else 1]
