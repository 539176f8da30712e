"""The headers of image files, read without Pillow: what must be known before Pillow is let near the bytes.

Pillow takes memory for some formats when it opens a file, and unpacks metadata nobody asks for. The functions
here find the size first and cut such metadata out. They raise IndexError, ValueError or struct.error where
the bytes end too early; `retinue_server.vision.faults` turns these into ImageError.
"""

import struct
from typing import Final

_PNG_KEPT: Final = frozenset((b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"))
_MAGICS: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"RIFF", "WEBP"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_EXIF_BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_EXIF_ORIENTATION: Final = 0x0112
_EXIF_INTEGERS: Final = {1: "B", 3: "H", 4: "I"}


def image_format(data: bytes) -> str | None:
    """The format that the first bytes claim, as Pillow names it, or None where it is not a supported one."""
    for magic, name in _MAGICS:
        if data.startswith(magic):
            return None if name == "WEBP" and data[8:12] != b"WEBP" else name
    return None


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file's canvas.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = data[24:27], data[27:30]
        if len(height) == 3:
            return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    elif chunk == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width_bits, height_bits = struct.unpack_from("<HH", data, 26)
        return width_bits & 0x3FFF, height_bits & 0x3FFF
    raise ValueError("no WebP bitstream header")


def png_pixels_only(data: bytes) -> bytes:
    """The same PNG without the chunks its first frame can do without; `data` itself where there are none.

    Text and colour profiles are compressed and would be unpacked, up to 64 MB of text an image; a bad one of
    them would fail the image; animation chunks would make Pillow read ahead.
    """
    view = memoryview(data)
    pieces = []
    kept_from = position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in _PNG_KEPT:
            pieces.append(view[kept_from:position])
            kept_from = end
        position = end
        if kind == b"IEND":
            break
    if kept_from == 8:
        return data
    return b"".join((view[:8], *pieces, view[kept_from:]))


def gif_first_frame(data: bytes) -> tuple[tuple[int, int], bytes]:
    """A GIF's size and the same GIF with nothing before the first frame but its transparency.

    The size is the canvas, grown to hold the first frame. How a frame is disposed of is cut out as well:
    Pillow would already make the picture behind it.

    Source: the GIF89a specification, sections 18 to 26.
    """
    canvas_width, canvas_height, flags = struct.unpack_from("<HHB", data, 6)
    position = palette_end = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control = b""
    while (introducer := data[position]) != 0x2C:
        if introducer != 0x21:
            raise ValueError("no GIF frame")
        if data[position + 1] == 0xF9:
            transparent, index = data[position + 3] & 1, data[position + 6]
            control = bytes((0x21, 0xF9, 4, transparent, 0, 0, index, 0))
        position += 2
        while length := data[position]:
            position += 1 + length
        position += 1
    left, top, width, height = struct.unpack_from("<4H", data, position + 1)
    size = max(canvas_width, left + width), max(canvas_height, top + height)
    view = memoryview(data)
    return size, b"".join((view[:palette_end], control, view[position:]))


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block, prefixed or not; 1 where it says none or is damaged.

    Pillow's own reader parses every tag and warns of damaged ones; this one looks for one number.

    Source: EXIF 2.3, section 4.6.4 (Orientation), and TIFF 6.0, section 2 (the directory).
    """
    start = 0
    while exif.startswith(b"Exif\0\0", start):
        start += 6
    order = _EXIF_BYTE_ORDERS.get(exif[start : start + 4])
    if order is None:
        return 1
    try:
        directory = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", exif, entry)
            if tag == _EXIF_ORIENTATION and count == 1 and kind in _EXIF_INTEGERS:
                (orientation,) = struct.unpack_from(order + _EXIF_INTEGERS[kind], exif, entry + 8)
                return int(orientation) if 1 <= orientation <= 8 else 1
    except struct.error:
        pass
    return 1
