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
    (b"II+\0", "TIFF"),  # BigTIFF; Pillow does not read that of the other byte order
    (b"BM", "BMP"),
)

# Far above what encoders write. Pillow walks over each segment, chunk and block in Python, so their number is
# time.
_MAX_JPEG_SEGMENTS: Final = 1_000
_MAX_JPEG_EXIF_SEGMENTS: Final = 16  # which Pillow joins one by one, copying all before
_MAX_JPEG_JUNK_BYTES: Final = 65_536
_MAX_PNG_SPARE_CHUNKS: Final = 1_000
_MIN_PNG_CHUNK_BYTES: Final = 64
_MAX_GIF_EXTENSION_BYTES: Final = 1 << 20


def image_format(data: bytes) -> str | None:
    """The format that the first bytes claim, as Pillow names it, or None where it is not a supported one."""
    for magic, name in _MAGICS:
        if data.startswith(magic):
            return None if name == "WEBP" and data[8:12] != b"WEBP" else name
    return None


def check_jpeg_segments(data: bytes) -> None:
    """Refuse a JPEG with an absurd number of segments, or bytes between them, before its first scan.

    Source: ITU-T T.81, annex B.
    """
    position = 2
    exif_segments = 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker_position = data.find(b"\xff", position)
        if not 0 <= marker_position - position <= _MAX_JPEG_JUNK_BYTES:
            raise ValueError("no JPEG marker")
        marker = data[marker_position + 1]
        if marker == 0xFF:
            position = marker_position + 1
        elif marker == 0 or 0xD0 <= marker <= 0xD9 or 0xF0 <= marker <= 0xFD or marker == 0xC8:
            position = marker_position + 2
        elif marker == 0xDA:
            return
        else:
            (length,) = struct.unpack_from(">H", data, marker_position + 2)
            position = marker_position + 2 + length
            exif_segments += marker == 0xE1 and data.startswith(b"Exif", marker_position + 4)
            if exif_segments > _MAX_JPEG_EXIF_SEGMENTS:
                break
    raise ValueError("too many JPEG segments")


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
        if width_bits & 0x3FFF and height_bits & 0x3FFF:
            return width_bits & 0x3FFF, height_bits & 0x3FFF
    raise ValueError("no WebP bitstream header")


def png_pixels_only(data: bytes) -> bytes:
    """The same PNG without the chunks its first frame can do without; `data` itself where there are none.

    Text and colour profiles are compressed and would be unpacked, up to 64 MB of text an image; a bad one of
    them would fail the image; animation chunks would make Pillow read ahead.
    """
    view = memoryview(data)
    pieces = []
    chunks = 0
    kept_from = position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in _PNG_KEPT:
            pieces.append(view[kept_from:position])
            kept_from = end
        position = end
        chunks += 1
        if chunks > _MAX_PNG_SPARE_CHUNKS + len(data) // _MIN_PNG_CHUNK_BYTES:
            raise ValueError("too many PNG chunks")
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
        if position > _MAX_GIF_EXTENSION_BYTES:
            raise ValueError("too much before the first GIF frame")
    left, top, width, height = struct.unpack_from("<4H", data, position + 1)
    size = max(canvas_width, left + width), max(canvas_height, top + height)
    view = memoryview(data)
    return size, b"".join((view[:palette_end], control, view[position:]))
