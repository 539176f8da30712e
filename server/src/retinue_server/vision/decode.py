"""From the bytes of a request to pixels as a person sees them.

Not applied: colour profiles (as in the presets of PyTorch's vision models), gamma, and an orientation written
only in XMP (as in browsers).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_server.errors import ImageError
from retinue_server.vision.directories import exif_orientation
from retinue_server.vision.faults import pillow_faults
from retinue_server.vision.headers import image_format
from retinue_server.vision.readers import READERS, ChannelOrder, RawPixels, check_pixels

# What brings an image of EXIF orientation 2 to 8 upright.
UPRIGHT: Final[dict[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BYTES_A_PIXEL: Final[dict[ChannelOrder, int]] = {"RGB": 3, "BGR": 3, "RGBA": 4, "GRAY": 1}
_TIFF_BITS_PER_SAMPLE: Final = 258
_TIFF_PHOTOMETRIC: Final = 262
_WHITE_IS_ZERO: Final = 0


def open_encoded(data: bytes, *, max_pixels: int) -> Image.Image:
    """Read the header of an image file; its pixels stay encoded until `prepare`.

    Args:
        data: A JPEG, PNG, WebP, BMP, TIFF or GIF file. Of an animation or a multi-page file the first picture
            counts.
        max_pixels: The most pixels (width times height) that are accepted.

    Returns:
        The image, with `size` as stored, which EXIF may yet turn. It may be used by one thread at a time.

    Raises:
        ImageError: IMAGE_EMPTY, IMAGE_TOO_LARGE or IMAGE_UNDECODABLE.
    """
    if not data:
        raise ImageError(
            "The image is empty: it has no bytes. Send the content of an image file.", reason="IMAGE_EMPTY"
        )
    name = image_format(data)
    if name is None:
        raise ImageError(
            "The bytes are not an image file of a supported format. Send JPEG, PNG, WebP, BMP, TIFF or GIF."
        )
    _accept_pixels(max_pixels)
    with pillow_faults(name):
        return READERS[name](data, max_pixels)


def _accept_pixels(max_pixels: int) -> None:
    """Raise Pillow's process-wide limit to ours where ours is the larger; never lower it."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def open_raw(data: bytes, height: int, width: int, order: ChannelOrder, *, max_pixels: int) -> RawPixels:
    """Take pixels that are already decoded; nothing is copied before they are used.

    Args:
        data: uint8, row-major, [height, width, channels of `order`] without padding.
        height: Rows.
        width: Columns.
        order: What the channels mean.
        max_pixels: The most pixels (width times height) that are accepted.

    Raises:
        ImageError: IMAGE_EMPTY, IMAGE_TOO_LARGE or RAW_SIZE_MISMATCH.
    """
    if height < 1 or width < 1:
        raise ImageError(
            f"The raw image has {width} x {height} pixels. Send at least one row and one column.",
            reason="IMAGE_EMPTY",
        )
    check_pixels(width, height, max_pixels)
    expected_bytes = height * width * _BYTES_A_PIXEL[order]
    if len(data) != expected_bytes:
        raise ImageError(
            f"The raw image has {len(data)} bytes, but {width} x {height} pixels of {order} are "
            f"{expected_bytes}. Send exactly height * width * channels bytes.",
            reason="RAW_SIZE_MISMATCH",
        )
    return RawPixels(data, (width, height), order)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an opened image. Of a PNG it is known only once the image is loaded.

    Pillow applies that of a TIFF while loading, so a TIFF has 1.
    """
    exif = image.info.get("exif")
    return exif_orientation(exif) if isinstance(exif, bytes) else 1


def load_flat(image: Image.Image, *, grey: bool) -> Image.Image:
    """Decode an opened image and bring it to 8 opaque bits a channel, as it is stored: not yet oriented.

    Transparency is laid on white, CMYK and palettes turned into colours, 16-bit levels brought to 8 (the
    upper byte). 32-bit integer levels count as 16-bit and floating-point ones as [0, 1]; others are refused.

    Returns:
        Mode "L" where `grey` or where the image itself is grey, else "RGB".

    Raises:
        ImageError: IMAGE_UNDECODABLE or IMAGE_TOO_LARGE.
    """
    with pillow_faults(image.format or "raw"):
        image.load()
        mode = image.mode
        if mode == "L" and "transparency" not in image.info:
            return image
        if mode == "RGB" and "transparency" not in image.info:
            return image.convert("L") if grey else image
        if mode.startswith("I") or mode == "F":
            return _to_eight_bits(image)
        flat = _opaque(image)
        return flat.convert("L") if grey and flat.mode == "RGB" else flat


def _opaque(image: Image.Image) -> Image.Image:
    """Resolve palettes, inks and transparency: "L" for modes "1", "L", "LA" and "La", else "RGB"."""
    target = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        layered = image.convert("LA" if target == "L" else "RGBA")
        white = Image.new(target, image.size, 255 if target == "L" else (255, 255, 255))
        white.paste(layered, (0, 0), layered)
        return white
    return image.convert(target)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 12 or 16 bits, of 32-bit integers or of floats, brought to 8 bits.

    The upper byte is kept, not rounded: so Pillow reads 16-bit colour, and grey must not differ from grey in
    colour.
    """
    levels: npt.NDArray[np.generic] = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    eight = _eight_bit_floats(levels) if image.mode == "F" else _eight_bit_integers(levels, tags)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, eight, out=eight)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight[levels == transparent] = 255
    return Image.fromarray(eight)


def _eight_bit_integers(levels: npt.NDArray[np.generic], tags: dict[int, object]) -> npt.NDArray[np.uint8]:
    """The upper 8 of 16 bits, or of the 12 that a TIFF says it has."""
    if levels.dtype.itemsize > 2 and not (levels.min() >= 0 and levels.max() <= 65535):
        raise ImageError(
            "The image has grey levels outside of 0 to 65535, and none of them is known to be white. "
            "Save it with 8 or 16 bits a pixel."
        )
    shift = 4 if tags.get(_TIFF_BITS_PER_SAMPLE) in (12, (12,)) else 8
    return (levels.astype(np.uint16, copy=False) >> shift).astype(np.uint8)


def _eight_bit_floats(levels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Levels from 0, black, to 1, white."""
    if not (levels.min() >= 0 and levels.max() <= 1):  # which NaN does not pass either
        raise ImageError(
            "The image has floating-point levels that are not between 0, black, and 1, white. "
            "Bring them there, or save it with 8 or 16 bits a pixel."
        )
    scaled: npt.NDArray[np.float32] = levels.astype(np.float32) * np.float32(255)
    return np.rint(scaled, out=scaled).astype(np.uint8)
