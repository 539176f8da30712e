"""Pillow's readers, tamed: each opens a file without taking memory for its pixels, whatever the file says.

They are called directly and not by `Image.open`: that tries them in turn, takes a JPEG for a multi-picture
file, and measures images by the process-wide `Image.MAX_IMAGE_PIXELS` where the server has a limit of its
own.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from retinue_server.errors import ImageError
from retinue_server.vision.directories import tiff_sizes
from retinue_server.vision.faults import silence_pillow
from retinue_server.vision.headers import (
    check_bmp_header,
    check_jpeg_segments,
    gif_start,
    jpeg_scans,
    png_pixels_only,
    png_size,
    webp_size,
)

ChannelOrder = Literal["RGB", "BGR", "RGBA", "GRAY"]

_RAW_MODES: Final[dict[ChannelOrder, str]] = {"RGB": "RGB", "BGR": "RGB", "RGBA": "RGBA", "GRAY": "L"}
_RAW_LAYOUTS: Final[dict[ChannelOrder, str]] = {"RGB": "RGB", "BGR": "BGR", "RGBA": "RGBA", "GRAY": "L"}

# Pillow unpacks run-length BMP in Python, at up to a second a million pixels, and such files are small icons.
_MAX_BMP_RLE_PIXELS: Final = 1_000_000
# An encoder makes about ten scans; each costs a pass over all pixels, and can be a few bytes long.
_MAX_JPEG_SCANS: Final = 100
_MAX_SIDE: Final = 65_535
_MAX_BYTES_A_PIXEL: Final = 8
# Tags that point to further directories, which Pillow would read after the pixels and fail on where they are
# damaged.
_TIFF_DIRECTORY_TAGS: Final = (34665, 34853, 40965)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that has more pixels than the limit, or none, or a side that JPEG could not have.

    The filter's coefficients for a side take up to 32 bytes a pixel of it, so a line of millions of pixels
    would take more memory than a square of as many.

    Raises:
        ImageError: IMAGE_TOO_LARGE or IMAGE_EMPTY.
    """
    if min(width, height) < 1:
        raise ImageError(
            f"The image has {width} x {height} pixels. Send at least one row and one column.",
            reason="IMAGE_EMPTY",
        )
    if max(width, height) > _MAX_SIDE:
        raise ImageError(
            f"The image has {width} x {height} pixels, and at most {_MAX_SIDE} pixels a side are accepted. "
            "Send a smaller one.",
            reason="IMAGE_TOO_LARGE",
        )
    if width * height > max_pixels:
        raise ImageError(
            f"The image has {width} x {height} pixels, and at most {max_pixels} pixels are accepted. "
            "Send a smaller one.",
            reason="IMAGE_TOO_LARGE",
        )


class _Jpeg(JpegImageFile):
    """A JPEG whose EXIF block stays unread: Pillow looks there for a resolution, and warns of damage."""

    has_many_scans = False

    def _read_dpi_from_exif(self) -> None:
        pass

    def load_prepare(self) -> None:
        """Refuse too many scans, here and not earlier: to count them takes a look at every byte."""
        if self.has_many_scans and jpeg_scans(cast(BytesIO, self.fp).getvalue()) > _MAX_JPEG_SCANS:
            raise ImageError(
                f"The JPEG image has more than {_MAX_JPEG_SCANS} scans. Save it again with the usual settings.",
                reason="IMAGE_TOO_LARGE",
            )
        super().load_prepare()


class _Deferred(Image.Image):
    """An image of known size that Pillow opens only when the pixels are loaded.

    To open it can take memory for all pixels, or a walk over thousands of parts of the file, and must not be
    done where others wait: images are opened in the event loop.
    """

    def __init__(self, name: str, size: tuple[int, int], open_image: Callable[[], Image.Image]) -> None:
        super().__init__()
        self.format = name
        self.tag_v2: Any = {}
        self._size = size
        self._mode = "RGB"
        self._open_image: Callable[[], Image.Image] | None = open_image

    def load(self) -> Any:
        """Open and decode the first picture; `mode`, `info` and the rest are right from here on."""
        if self._open_image is not None:
            inner = self._open_image()
            if inner.size != self._size:
                raise ValueError("the size is not what the header says")
            inner.load()
            self.im, self._mode, self.palette, self.info = inner.im, inner.mode, inner.palette, inner.info
            self.tag_v2 = getattr(inner, "tag_v2", {})
            self._open_image = None
            inner.close()
        return super().load()

    def close(self) -> None:
        """Release the pixels, or the file where there are none yet."""
        self._open_image = None
        super().close()


class RawPixels:
    """Pixels as they came in a request; what takes them need not go through Pillow.

    Attributes:
        data: uint8, row-major, [height, width, channels of `order`].
        size: Width and height.
        order: What the channels mean.
    """

    __slots__ = ("data", "order", "size")

    def __init__(self, data: bytes, size: tuple[int, int], order: ChannelOrder) -> None:
        self.data = data
        self.size = size
        self.order = order

    @property
    def width(self) -> int:
        """In pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.size[1]

    def to_pillow(self) -> Image.Image:
        """A copy in Pillow's own layout."""
        return Image.frombytes(
            _RAW_MODES[self.order], self.size, self.data, "raw", _RAW_LAYOUTS[self.order], 0, 1
        )

    def close(self) -> None:
        """Lets go of the request's bytes."""
        self.data = b""


class InputPixels:
    """What a network takes already: nothing is left to decode or to resize.

    Attributes:
        pixels: uint8 [height, width, channels] of the network's input.
    """

    __slots__ = ("pixels",)

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    def close(self) -> None:
        """Leaves the pixels to the request that they are a part of."""


Sent = Image.Image | RawPixels
"""An image of any size, not decoded yet."""

Opened = Sent | InputPixels
"""An image of known size that is not decoded yet, or need not be."""


def _open_jpeg(data: bytes, max_pixels: int) -> Image.Image:
    components = check_jpeg_segments(data)
    image = _Jpeg(BytesIO(data))
    check_pixels(*image.size, max_pixels)
    image.has_many_scans = "progressive" in image.info or components < image.layers
    # In one block: each further one would cost a turn at the interpreter's lock.
    image.decodermaxblock = len(data)
    return image


def _open_png(data: bytes, max_pixels: int) -> Image.Image:
    def open_image() -> Image.Image:
        image = PngImageFile(BytesIO(png_pixels_only(data)))
        _scale_transparent_colour(image, depth=data[24])
        return image

    size = png_size(data)
    check_pixels(*size, max_pixels)
    return _Deferred("PNG", size, open_image)


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Bring the transparent level or colour, kept at the file's depth, to that of the pixels."""
    colour = image.info.get("transparency")
    if image.mode == "L" and depth < 8 and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and depth == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in colour)


def _open_webp(data: bytes, max_pixels: int) -> Image.Image:
    size = webp_size(data)
    check_pixels(*size, max_pixels)
    return _Deferred("WEBP", size, lambda: WebPImageFile(BytesIO(data)))


def _open_gif(data: bytes, max_pixels: int) -> Image.Image:
    size, start, frame = gif_start(data)
    check_pixels(*size, max_pixels)
    return _Deferred("GIF", size, lambda: GifImageFile(BytesIO(start + memoryview(data)[frame:])))


def _open_bmp(data: bytes, max_pixels: int) -> Image.Image:
    check_bmp_header(data)
    image = BmpImageFile(BytesIO(data))
    width, height = image.size
    check_pixels(width, height, max_pixels)
    if image.tile[0].codec_name == "bmp_rle" and width * height > _MAX_BMP_RLE_PIXELS:
        raise ImageError(
            f"The BMP image is run-length encoded, and only up to {_MAX_BMP_RLE_PIXELS} pixels of that are "
            "accepted. Save it uncompressed or as PNG.",
            reason="IMAGE_TOO_LARGE",
        )
    return image


def _open_tiff(data: bytes, max_pixels: int) -> Image.Image:
    def open_image() -> Image.Image:
        silence_pillow()
        image = TiffImageFile(BytesIO(data))
        # Of each strip Pillow reads a block; where strips lie on top of each other that could be the same bytes
        # again and again.
        pixels = image.width * image.height
        image.decodermaxblock = max(_MAX_BYTES_A_PIXEL * pixels // max(len(image.tile), 1), 4096)
        image.info.pop("xmp", None)
        exif = image.getexif()
        for tag in _TIFF_DIRECTORY_TAGS:
            exif.pop(tag, None)
        return image

    size, tile = tiff_sizes(data)
    check_pixels(*size, max_pixels)
    # A tile may be larger than the image, and is decoded whole.
    check_pixels(*tile, max_pixels)
    return _Deferred("TIFF", size, open_image)


READERS: Final[dict[str, Callable[[bytes, int], Image.Image]]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "WEBP": _open_webp,
    "GIF": _open_gif,
    "TIFF": _open_tiff,
    "BMP": _open_bmp,
}
