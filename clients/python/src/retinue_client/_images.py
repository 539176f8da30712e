"""What a caller may hand over as an image, and how it travels.

Paths, URLs, files that are open and bytes are image files and travel as they are. Pillow images and arrays are pixels
and travel uncompressed.
"""

import inspect
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image
from retinue.v1 import image_pb2

from retinue_client._errors import ImageError
from retinue_client._pillow import decoding, load_upright, orientation
from retinue_client._pixels import Pixels, describe_pixels, fill_pixels, image_of_array
from retinue_client._urls import as_os_error, is_url, open_url


@runtime_checkable
class Readable(Protocol):
    """A file that is open for reading bytes, or what reads as one does."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, and none at the end."""


PlainImage: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Pixels
"""An image alone: see `ImageSource`."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WithRegions:
    """An image and where to look, for models that judge given regions.

    Attributes:
        image: The image.
        regions: [R, 4] numbers, x_min, y_min, x_max, y_max in the image's pixels as a person sees it. A server
            older than regions ignores them and does not say so.
    """

    image: PlainImage
    regions: npt.ArrayLike

    def __repr__(self) -> str:
        return f"<WithRegions {describe(self.image)}: {self.regions!r}>"


ImageSource: TypeAlias = PlainImage | WithRegions
"""An image: the path of a file, its URL, the file itself, open for reading bytes, or its bytes; a Pillow image, or an
array; with regions where a model needs them.

Text that begins as "https://" or "s3://" does is a URL, which fsspec reads (`retinue-client[fsspec]`). A file that is
open is read once, from where it stands to its end, and left open.

Arrays are uint8 [H, W, 3] RGB, [H, W, 4] RGBA, [H, W] or [H, W, 1] grey.
"""

# A file over this is not one of the formats the server reads, and would only fill the memory.
MAX_FILE_BYTES = 1 << 30
# Most photos are read in one piece, and what is none takes no more memory than it has bytes.
_PIECE_BYTES = 4 << 20
_FORMS = (
    "a path, a URL, a file that is open for reading bytes, the bytes of an image file, a Pillow image, or a uint8 "
    "array [height, width, 3] in RGB"
)


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
        | WithRegions
        | Readable,
    )


def no_image(value: object) -> TypeError:
    """The error of a value that is no image."""
    return TypeError(f"{type(value).__name__} is no image: give {_FORMS}.")


def describe(source: ImageSource) -> str:
    """Which image this is, for messages: a path, or the kind and size of what has none."""
    if isinstance(source, WithRegions):
        return describe(source.image)
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{memoryview(source).nbytes} bytes"
    if isinstance(source, Image.Image | np.ndarray):
        return describe_pixels(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else f"file {type(source).__name__}"


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
    if isinstance(source, Image.Image | np.ndarray):
        return fill_pixels(message, source)
    if isinstance(source, Readable):
        message.encoded = _read_open_file(source)
        return len(message.encoded)
    raise no_image(source)


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
    """The bytes of a file, also of one that lies at a URL.

    Raises:
        ImageError: It cannot be read; the reason is FILE_NOT_FOUND, FILE_FORBIDDEN, FILE_IS_A_FOLDER,
            FILE_TOO_LARGE or FILE_UNREADABLE.
    """
    try:
        with open_url(path) if is_url(path) else Path(path).open("rb") as file:
            return read_stream(file, describe(path))
    except (OSError, ValueError) as exc:
        raise file_error(exc, path) from exc


def read_stream(stream: Readable, source: str) -> bytes:
    """The bytes of a file that is open.

    Args:
        stream: The file.
        source: Its name, for messages.

    Raises:
        ImageError: It has too many, and the reason is FILE_TOO_LARGE; or what it gives is no bytes, and the reason is
            FILE_UNREADABLE.
        OSError: It cannot be read.
    """
    pieces: list[bytes] = []
    size_bytes = 0
    # A file may give less than it is asked for; only at its end it gives nothing.
    while (piece := stream.read(_PIECE_BYTES)) != b"":
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise ImageError(
                f"The file gives {type(piece).__name__}, not bytes: open it with mode 'rb'.",
                source=source,
                reason="FILE_UNREADABLE",
            )
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > MAX_FILE_BYTES:
            raise ImageError(
                f"The file has more than {MAX_FILE_BYTES >> 20} MiB: it is no photo.",
                source=source,
                reason="FILE_TOO_LARGE",
            )
    return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)


def _read_open_file(file: Readable) -> bytes:
    """The bytes from where a file of the caller stands to its end.

    Raises:
        ImageError: There are none, or they cannot be read.
    """
    source, advice = describe(file), ""
    if inspect.iscoroutinefunction(file.read):
        advice = "Reading the file is to be awaited: give what `await file.read()` gives."
    elif isinstance(file, io.TextIOBase):
        advice = "The file is open for reading text: open it with mode 'rb'."
    elif getattr(file, "closed", False) is True:
        advice = "The file is closed: give it while it is open, or give its path."
    if advice:
        raise ImageError(advice, source=source, reason="FILE_UNREADABLE")
    try:
        data = read_stream(file, source)
    except ImageError:
        raise
    except Exception as exc:  # a file of an archive or a connection has errors of its own
        raise file_error(as_os_error(exc), source) from exc
    if not data:
        raise ImageError(
            "The file has no bytes from where it stands: if it was read before, go back with file.seek(0).",
            source=source,
            reason="IMAGE_EMPTY",
        )
    return data


def file_error(exc: OSError | ValueError, path: str | os.PathLike[str]) -> ImageError:
    """An error in the words of this package for what the operating system said of a file."""
    reason, message = (
        "FILE_UNREADABLE",
        f"The file cannot be read: {getattr(exc, 'strerror', None) or str(exc) or type(exc).__name__}.",
    )
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        reason, message = "FILE_NOT_FOUND", "There is no such file."
    elif isinstance(exc, PermissionError):
        reason, message = "FILE_FORBIDDEN", "Reading the file is not permitted."
    elif isinstance(exc, IsADirectoryError):
        reason = "FILE_IS_A_FOLDER"
        message = "It is a folder. `retinue score` takes all images of a folder."
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
        image = image_of_array(source)
    elif isinstance(source, Image.Image):
        image = source
    elif isinstance(source, str | os.PathLike):
        image = _decode(read_file(source), describe(source))
    elif isinstance(source, bytes | bytearray | memoryview):
        image = _decode(bytes(source), describe(source))
    else:
        image = _decode(_read_open_file(source), describe(source))
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
