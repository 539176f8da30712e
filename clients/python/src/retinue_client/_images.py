"""What a caller may hand over as an image, and how it travels.

Paths and bytes are image files and travel as they are. Pillow images and arrays are pixels and travel
uncompressed.
"""

import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from retinue.v1 import image_pb2

from retinue_client._errors import ImageError
from retinue_client._pillow import decoding, load_upright, orientation

PlainImage: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]
)
"""An image alone: see `ImageSource`."""


@dataclass(frozen=True, slots=True, eq=False)
class WithRegions:
    """An image and where to look, for models that judge given regions.

    Attributes:
        image: The image.
        regions: [R, 4] numbers, x_min, y_min, x_max, y_max in the image's pixels as a person sees it. A server
            older than regions ignores them and does not say so.
    """

    image: PlainImage
    regions: npt.ArrayLike


ImageSource: TypeAlias = PlainImage | WithRegions
"""An image: the path of a file, the bytes of one, a Pillow image, or an array; with regions where a model needs them.

Arrays are uint8 [H, W, 3] RGB, [H, W, 4] RGBA, [H, W] or [H, W, 1] grey.
"""

# A file over this is not one of the formats the server reads, and would only fill the memory.
MAX_FILE_BYTES = 1 << 30

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


def is_image_source(value: object) -> bool:
    """Whether a value is one image rather than a collection of images."""
    return isinstance(
        value,
        str
        | os.PathLike
        | bytes
        | bytearray
        | memoryview
        | Image.Image
        | np.ndarray
        | np.generic
        | WithRegions,
    )


def describe(source: ImageSource) -> str:
    """Which image this is, for messages: a path, or the kind and size of what has none."""
    if isinstance(source, WithRegions):
        return describe(source.image)
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{memoryview(source).nbytes} bytes"
    if isinstance(source, Image.Image):
        return f"Pillow image {source.mode} {source.width}x{source.height}"
    return f"array {source.dtype} {list(source.shape)}"


def fill_image(message: image_pb2.Image, source: ImageSource) -> int:
    """Writes an image into a message and returns how many bytes of pixels or file it holds.

    Raises:
        ImageError: The file cannot be read, or the array or Pillow image is of a kind that cannot be sent.
        TypeError: It is no image at all, or its regions are none.
    """
    if isinstance(source, WithRegions):
        size_bytes = fill_image(message, source.image)
        for x_min, y_min, x_max, y_max in _boxes(source.regions):
            message.regions.add(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        return size_bytes
    if isinstance(source, str | os.PathLike):
        message.encoded = read_file(source)
        return len(message.encoded)
    if isinstance(source, bytes | bytearray | memoryview):
        message.encoded = bytes(source)
        return len(message.encoded)
    if isinstance(source, Image.Image):
        return _fill_from_pillow(message, source)
    if isinstance(source, np.ndarray):
        order = _channel_order(source)
        return _fill_raw(message, source.tobytes(), source.shape[0], source.shape[1], order)
    raise TypeError(
        f"{type(source).__name__} is no image: give a path, the bytes of an image file, a Pillow image, or a "
        "uint8 array [height, width, 3] in RGB."
    )


def _boxes(regions: npt.ArrayLike) -> list[list[float]]:
    try:
        boxes = np.asarray(regions, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise TypeError(f"Regions are no numbers: {exc}.") from exc
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TypeError(f"Regions are [R, 4] numbers, x_min, y_min, x_max, y_max, not {list(boxes.shape)}.")
    corners: list[list[float]] = boxes.tolist()
    return corners


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: It cannot be read; the reason is FILE_NOT_FOUND, FILE_FORBIDDEN, FILE_IS_A_FOLDER,
            FILE_TOO_LARGE or FILE_UNREADABLE.
    """
    try:
        with Path(path).open("rb") as file:
            return read_stream(file, describe(path))
    except (OSError, ValueError) as exc:
        raise file_error(exc, path) from exc


def read_stream(stream: BinaryIO, source: str) -> bytes:
    """The bytes of a file that is open.

    Args:
        stream: The file.
        source: Its name, for messages.

    Raises:
        ImageError: It has too many; the reason is FILE_TOO_LARGE.
        OSError: It cannot be read.
    """
    # One byte past the limit tells a file that is too large from one that just fits.
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"The file has more than {MAX_FILE_BYTES >> 20} MiB: it is no photo.",
            source=source,
            reason="FILE_TOO_LARGE",
        )
    return data


def file_error(exc: OSError | ValueError, path: str | os.PathLike[str]) -> ImageError:
    """An error in the words of this package for what the operating system said of a file."""
    number = exc.errno if isinstance(exc, OSError) else None
    reason, message = {
        errno.ENOENT: ("FILE_NOT_FOUND", "There is no such file."),
        errno.ENOTDIR: ("FILE_NOT_FOUND", "There is no such file."),
        errno.EACCES: ("FILE_FORBIDDEN", "Reading the file is not permitted."),
        errno.EPERM: ("FILE_FORBIDDEN", "Reading the file is not permitted."),
        errno.EISDIR: ("FILE_IS_A_FOLDER", "It is a folder. `retinue score` takes all images of a folder."),
    }.get(
        number or 0, ("FILE_UNREADABLE", f"The file cannot be read: {getattr(exc, 'strerror', None) or exc}.")
    )
    return ImageError(message, source=describe(path), reason=reason)


def open_upright(source: ImageSource) -> Image.Image:
    """The image in mode RGB as a person sees it, which is the frame of boxes and class maps.

    EXIF orientation is applied. Transparent parts are laid on white and levels of more than 8 bits brought to 8,
    as the server does.

    Raises:
        ImageError: It cannot be read.
    """
    if isinstance(source, WithRegions):
        source = source.image
    if isinstance(source, np.ndarray):
        order = _channel_order(source)
        pixels = source[:, :, 0] if order == _GRAY and source.ndim == 3 else source
        image = Image.fromarray(np.ascontiguousarray(pixels))
    elif isinstance(source, Image.Image):
        image = source
    elif isinstance(source, str | os.PathLike):
        image = _decode(read_file(source), describe(source))
    else:
        image = _decode(bytes(source), describe(source))
    with decoding(describe(source)):
        image = load_upright(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def upright_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an image file as a person sees it, from its header; None where it has none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "PNG" and b"eXIf" in data:
                # There it may stand behind the pixels.
                image.load()
            width, height = image.size
            # Orientations 5 to 8 turn the image by a quarter.
            return (height, width) if orientation(image) >= 5 else (width, height)
    except Exception:  # whatever Pillow's parsers trip over
        return None


def _decode(data: bytes, source: str) -> Image.Image:
    with decoding(source):
        image = Image.open(io.BytesIO(data))
        image.load()
    return image


def _fill_from_pillow(message: image_pb2.Image, image: Image.Image) -> int:
    """Pillow images travel as a person sees them, so that Image.open(path) is answered as path itself is.

    What 32-bit levels mean is known of files; of those made here it is not.
    """
    source = describe(image)
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
        raise ImageError(advice, source=describe(array), reason="PIXELS_UNSUPPORTED")
    return {1: _GRAY, 3: _RGB, 4: _RGBA}[array.shape[2] if array.ndim == 3 else 1]
