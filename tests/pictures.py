"""Image files for tests: of colours that anybody can name, in every shape that files come in."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXIF_ORIENTATION = 0x0112
_MIB = 1 << 20

# What turns the picture as a person sees it into the one that is stored, by EXIF orientation.
# Source: EXIF 2.3, section 4.6.4 (Orientation).
_STORED: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def solid(colour: tuple[int, ...], width: int = 20, height: int = 10, mode: str = "RGB") -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, (width, height), colour)


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(colour: tuple[int, ...], width: int = 20, height: int = 10) -> bytes:
    """A PNG file of one colour."""
    return encode(solid(colour, width, height))


def animation(file_format: str, *colours: tuple[int, int, int]) -> bytes:
    """An animated GIF, WEBP or PNG whose frames have these colours."""
    first, *rest = (solid(colour) for colour in colours)
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    return encode(first, file_format, save_all=True, append_images=rest, duration=100, **lossless)


def quarters(width: int = 48, height: int = 32) -> tuple[Image.Image, npt.NDArray[np.uint8]]:
    """A picture that no turning or mirroring leaves as it is, and the class of each pixel: 0 red, 1 green, 2 blue.

    The upper left quarter is red, the upper right one green, the lower half blue.
    """
    classes = np.full((height, width), 2, np.uint8)
    classes[: height // 2, : width // 2] = 0
    classes[: height // 2, width // 2 :] = 1
    pixels = np.array([RED, GREEN, BLUE], np.uint8)[classes]
    return Image.fromarray(pixels), classes


def turned_file(upright: Image.Image, orientation: int, file_format: str) -> bytes:
    """A file that shows `upright` to a person, though its pixels lie as the EXIF orientation, 1 to 8, says."""
    stored = upright.transpose(_STORED[orientation]) if orientation in _STORED else upright
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    options: dict[str, object] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
    }.get(file_format, {})
    return encode(stored, file_format, exif=exif, **options)


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel: uint16 [H,W] grey or [H,W,3] RGB. Pillow cannot write the second.

    Source: PNG specification, third edition, sections 11.2.1 (IHDR) and 9 (filter type 0).
    """
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    colour_type = 2 if pixels.ndim == 3 else 0
    return b"".join(_png_chunks(width, height, 16, colour_type, zlib.compress(rows)))


def png_bomb(width: int, height: int) -> bytes:
    """A valid grey PNG, all black, of a thousandth of the bytes that its pixels take."""
    total = height * (width + 1)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = deflate.compress(bytes(_MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    rest = deflate.compress(bytes(total % _MIB)) + deflate.flush()
    # Adler-32 of zeros: the first sum stays 1, the second counts the bytes. Source: RFC 1950, section 8.2.
    checksum = struct.pack(">HH", total % 65521, 1)
    data = b"\x78\xda" + block * (total // _MIB) + rest + checksum
    return b"".join(_png_chunks(width, height, 8, 0, data))


def _png_chunks(width: int, height: int, depth: int, colour_type: int, data: bytes) -> Iterator[bytes]:
    yield _PNG_SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    yield _chunk(b"IDAT", data)
    yield _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
