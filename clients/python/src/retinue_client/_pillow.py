"""Pillow's images as a person, and the server, sees them: upright, with levels of 8 bits."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from retinue_client._errors import ImageError

# What brings an image of EXIF orientation 2 to 8 upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_INTEGERS = {1: "B", 3: "H", 4: "I"}
_TAG_ORIENTATION = 0x0112
_TAG_BITS_PER_SAMPLE = 258
_TAG_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


@contextmanager
def decoding(source: str) -> Iterator[None]:
    """Turns what Pillow raises of damaged files, which it decodes as late as it can, into ImageError.

    That is any kind of exception: whatever its parsers trip over.
    """
    try:
        yield
    except UnidentifiedImageError as exc:
        raise ImageError(
            "It is no image file that Pillow knows.", source=source, reason="IMAGE_UNDECODABLE"
        ) from exc
    except Exception as exc:
        raise ImageError(
            f"The image cannot be decoded: {exc}.", source=source, reason="IMAGE_UNDECODABLE"
        ) from exc


def load_upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF block says, of grey levels of more than 8 bits the upper 8.

    To be called in `decoding`.

    Raises:
        ValueError: Its levels are out of the range in which they have a meaning.
    """
    image.load()
    levels = eight_bits(image) if image.mode == "F" or image.mode.startswith("I") else image
    turn = _UPRIGHT.get(orientation(image))
    return levels if turn is None else levels.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image that is loaded; 1 where it says none or its EXIF block is damaged.

    Pillow itself would parse every tag, warn of damaged ones or trip over them, and look in XMP too, where the
    server does not. It applies that of a TIFF while loading, so a TIFF has 1.

    Source: EXIF 2.3, section 4.6.4 (Orientation); TIFF 6.0, section 2.
    """
    exif = image.info.get("exif")
    return exif_orientation(exif) if isinstance(exif, bytes) else 1


def exif_orientation(exif: bytes) -> int:
    """The orientation that an EXIF block says, 1 to 8; 1 where it says none or is damaged."""
    while exif.startswith(_EXIF_PREFIX):
        exif = exif[len(_EXIF_PREFIX) :]
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for position in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, position)
            if tag == _TAG_ORIENTATION and count == 1 and kind in _INTEGERS:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], exif, position + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 12 or 16 bits, of 32-bit integers or of floats, as the server brings them to 8 bits.

    Integers count as 16-bit levels, of which the upper byte is kept; floats as levels from 0, black, to 1, white.

    Raises:
        ValueError: There are levels outside of that.
    """
    levels: npt.NDArray[np.generic] = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white = 1 if image.mode == "F" else 65535
    if not (levels.min() >= 0 and levels.max() <= white):  # which NaN does not pass either
        raise ValueError(f"its grey levels are not between 0, black, and {white}, white")
    if image.mode == "F":
        eight = np.rint(levels.astype(np.float32) * np.float32(255)).astype(np.uint8)
    else:
        shift = 4 if tags.get(_TAG_BITS_PER_SAMPLE) in (12, (12,)) else 8
        eight = (levels.astype(np.uint16) >> shift).astype(np.uint8)
    if tags.get(_TAG_PHOTOMETRIC) == _WHITE_IS_ZERO:
        eight = 255 - eight
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight[levels == transparent] = 255
    return Image.fromarray(eight)
