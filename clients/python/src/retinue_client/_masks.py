"""Class maps, masks and heatmaps as they travel, decoded with NumPy and Pillow alone."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from retinue_client._errors import ResponseError

_LARGEST_HEATMAP = (512, 512)
# Up to the width and height. Source: https://www.w3.org/TR/png-3, sections 5.2 and 11.2.1
_PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def class_map_from_png(png: bytes, height: int, width: int) -> npt.NDArray[np.uint8 | np.uint16]:
    """Decodes a greyscale PNG whose grey level is the class id.

    Returns:
        uint8 or uint16 [height, width], by the PNG's depth.

    Raises:
        ResponseError: It is no such PNG, or of another size.
    """
    with _grey_png(png, "A class map", (width, height)) as image:
        if image.size != (width, height):
            raise ResponseError(
                f"A class map of {width}x{height} came as a PNG of {image.width}x{image.height}."
            )
        decoded = np.array(image)
    return decoded if decoded.dtype == np.uint8 else decoded.astype(np.uint16)


def heatmap_from_png(png: bytes) -> npt.NDArray[np.uint8]:
    """Decodes a greyscale PNG of 8 bits: uint8 [h, w], at most 512 a side.

    Raises:
        ResponseError: It is no such PNG.
    """
    with _grey_png(png, "A heatmap", _LARGEST_HEATMAP) as image:
        if image.mode != "L":
            raise ResponseError(f"A heatmap came as a PNG of mode {image.mode}, not of 8 bits.")
        return np.array(image)


@contextmanager
def _grey_png(png: bytes, what: str, largest: tuple[int, int]) -> Iterator[Image.Image]:
    """Opens a greyscale PNG of at most this width and height, and turns what Pillow raises of it into ResponseError."""
    try:
        # Pillow warns of a large image when it opens it, so its header is read first.
        if png.startswith(_PNG_HEADER) and len(png) >= len(_PNG_HEADER) + 8:
            _check_png_size(struct.unpack_from(">II", png, len(_PNG_HEADER)), what, largest)
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            # Of several headers Pillow takes the last.
            _check_png_size(image.size, what, largest)
            if image.mode != "L" and not image.mode.startswith("I;16"):
                raise ResponseError(f"{what} came as a PNG of mode {image.mode}, not as grey levels.")
            yield image
    except UnidentifiedImageError as exc:
        raise ResponseError(f"{what} came as bytes that are no PNG and cannot be decoded.") from exc
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise ResponseError(f"{what} came as a PNG that cannot be decoded: {exc}.") from exc


def _check_png_size(size: tuple[int, int], what: str, largest: tuple[int, int]) -> None:
    if size[0] > largest[0] or size[1] > largest[1]:
        raise ResponseError(
            f"{what} came as a PNG of {size[0]}x{size[1]}, larger than {largest[0]}x{largest[1]}."
        )


def class_map_from_raw(raw: bytes, height: int, width: int) -> npt.NDArray[np.uint8 | np.uint16]:
    """Reads class ids of one or two little-endian bytes a pixel, row-major.

    Returns:
        uint8 or uint16 [height, width], by the number of bytes.

    Raises:
        ResponseError: The bytes are neither height * width nor twice as many.
    """
    pixels = height * width
    if len(raw) == pixels:
        return np.frombuffer(raw, dtype=np.uint8).reshape(height, width)
    if len(raw) == 2 * pixels:
        return np.frombuffer(raw, dtype="<u2").astype(np.uint16, copy=False).reshape(height, width)
    raise ResponseError(f"A class map of {width}x{height} came as {len(raw)} bytes.")


def rle_counts(compressed: bytes) -> npt.NDArray[np.int64]:
    """Decompresses COCO's run lengths: runs down the columns, the first of zeros.

    Each number is written in groups of five bits, lowest first, one printable character a group; from the
    fourth number on, what is written is the difference to the number two places before.

    Returns:
        int64 [R], the lengths of the runs.

    Raises:
        ResponseError: The last number is cut off.

    Source: rleFrString in maskApi.c of https://github.com/cocodataset/cocoapi
    """
    groups = np.frombuffer(compressed, dtype=np.uint8).astype(np.int64) - 48
    if groups.size == 0:
        return np.zeros(0, dtype=np.int64)
    is_last = (groups & 0x20) == 0
    if not is_last[-1] or ((groups < 0) | (groups > 63)).any():
        raise ResponseError("A run-length mask is malformed.")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > 11:
        raise ResponseError("A run-length mask is malformed.")
    places = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((groups & 0x1F) << (5 * places), starts)
    # The highest group's fifth bit is the sign.
    negative = (groups[ends] & 0x10) != 0
    values[negative] -= np.int64(1) << (5 * (ends - starts + 1)[negative])
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def mask_from_rle(compressed: bytes, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decodes one COCO run-length mask.

    Returns:
        bool [height, width].

    Raises:
        ResponseError: The runs are malformed or do not add up to height * width.
    """
    counts = rle_counts(compressed)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ResponseError(f"A run-length mask does not cover its {width}x{height} pixels.")
    inside = np.arange(counts.size) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T
