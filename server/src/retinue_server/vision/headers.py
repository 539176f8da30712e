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

# Far above what encoders write. Pillow walks over each segment, chunk, block, table and stray byte in Python, so
# their number is time: that of the event loop for a JPEG, which must be opened for its size.
_MAX_JPEG_SEGMENTS: Final = 200
_MAX_JPEG_EXIF_SEGMENTS: Final = 16  # which Pillow joins one by one, copying all before
_MAX_JPEG_JUNK_BYTES: Final = 4_096
_MAX_JPEG_TABLE_BYTES: Final = 8_192  # four quantization tables have 516
_MAX_JPEG_RESOURCES: Final = 500  # of Photoshop
_MAX_PNG_SPARE_CHUNKS: Final = 1_000
_MIN_PNG_CHUNK_BYTES: Final = 256
_MAX_GIF_BLOCKS: Final = 4_096  # extensions before the first frame, and the blocks of up to 255 bytes in them
_MAX_BMP_HEADER_BYTES: Final = 124
_MAX_BMP_COLOURS: Final = 256

# Counting in one go would hold the interpreter's lock for a millisecond a megabyte.
_COUNTED_BYTES: Final = 1 << 20


def image_format(data: bytes) -> str | None:
    """The format that the first bytes claim, as Pillow names it, or None where it is not a supported one."""
    for magic, name in _MAGICS:
        if data.startswith(magic):
            return None if name == "WEBP" and data[8:12] != b"WEBP" else name
    return None


def check_jpeg_segments(data: bytes) -> int:
    """Refuse a JPEG with an absurd number of segments, or bytes in or between them, before its first scan.

    Source: ITU-T T.81, annex B; for Photoshop's resources, Adobe Photoshop File Formats Specification.

    Returns:
        The number of components in the first scan.
    """
    position = 2
    junk_bytes = exif_segments = resources = table_bytes = 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker_position = data.find(b"\xff", position, position + _MAX_JPEG_JUNK_BYTES + 1)
        junk_bytes += marker_position - position
        if marker_position < 0 or junk_bytes > _MAX_JPEG_JUNK_BYTES:
            raise ValueError("no JPEG marker")
        marker = data[marker_position + 1]
        if marker == 0xFF:
            position = marker_position + 1
        elif marker == 0 or 0xD0 <= marker <= 0xD9 or 0xF0 <= marker <= 0xFD or marker == 0xC8:
            position = marker_position + 2
        elif marker == 0xDA:
            return data[marker_position + 4]
        else:
            (length,) = struct.unpack_from(">H", data, marker_position + 2)
            position = marker_position + 2 + length
            if marker == 0xE1:
                exif_segments += data.startswith(b"Exif", marker_position + 4)
            elif marker == 0xED:
                resources += data.count(b"8BIM", marker_position, position)
            elif marker == 0xDB or 0xC0 <= marker <= 0xCF:
                table_bytes += length
            if (
                exif_segments > _MAX_JPEG_EXIF_SEGMENTS
                or resources > _MAX_JPEG_RESOURCES
                or table_bytes > _MAX_JPEG_TABLE_BYTES
            ):
                break
    raise ValueError("too many JPEG segments")


def jpeg_scans(data: bytes) -> int:
    """An upper bound of the number of scans in a JPEG."""
    starts = range(0, len(data), _COUNTED_BYTES)
    # A piece reaches a byte into the next one, so that a marker between them counts, once.
    return sum(data.count(b"\xff\xda", start, start + _COUNTED_BYTES + 1) for start in starts)


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


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG.

    Source: the PNG specification, third edition, section 11.2.1.
    """
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if (length, kind) != (13, b"IHDR") or 0 in (width, height):
        raise ValueError("no PNG header")
    return width, height


def png_pixels_only(data: bytes) -> bytes:
    """The same PNG without the chunks its first frame can do without; `data` itself where there are none.

    Text and colour profiles are compressed and would be unpacked, up to 64 MB of text an image; a bad one of
    them would fail the image; animation chunks would make Pillow read ahead. Of palettes, transparency and
    EXIF blocks only the first is left.
    """
    view = memoryview(data)
    pieces = []
    seen = set()
    chunks = 0
    kept_from = position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in _PNG_KEPT or (kind in seen and kind != b"IDAT"):
            pieces.append(view[kept_from:position])
            kept_from = end
        seen.add(kind)
        position = end
        chunks += 1
        if chunks > _MAX_PNG_SPARE_CHUNKS + len(data) // _MIN_PNG_CHUNK_BYTES:
            raise ValueError("too many PNG chunks")
        if kind == b"IEND":
            break
    if kept_from == 8:
        return data
    return b"".join((view[:8], *pieces, view[kept_from:]))


def gif_start(data: bytes) -> tuple[tuple[int, int], bytes, int]:
    """A GIF's size, all that its first frame needs of what stands before it, and where that frame begins.

    The size is the canvas, grown to hold the first frame. How a frame is disposed of is cut out: Pillow would
    already make the picture behind it.

    Source: the GIF89a specification, sections 18 to 26.
    """
    canvas_width, canvas_height, flags = struct.unpack_from("<HHB", data, 6)
    position = palette_end = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control = b""
    blocks = 0
    while (introducer := data[position]) != 0x2C:
        if introducer != 0x21:
            raise ValueError("no GIF frame")
        if data[position + 1] == 0xF9:
            transparent, index = data[position + 3] & 1, data[position + 6]
            control = bytes((0x21, 0xF9, 4, transparent, 0, 0, index, 0))
        position += 2
        blocks += 1
        while length := data[position]:
            position += 1 + length
            blocks += 1
            if blocks > _MAX_GIF_BLOCKS:
                break
        position += 1
        if blocks > _MAX_GIF_BLOCKS:
            raise ValueError("too much before the first GIF frame")
    left, top, width, height = struct.unpack_from("<4H", data, position + 1)
    size = max(canvas_width, left + width), max(canvas_height, top + height)
    return size, data[:palette_end] + control, position


def check_bmp_header(data: bytes) -> None:
    """Refuse a BMP with a header or a palette larger than there are, which Pillow would read at once.

    Source: Microsoft, "Bitmap Header Types" and "BITMAPINFOHEADER structure".
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes > _MAX_BMP_HEADER_BYTES:
        raise ValueError("the header is too large")
    if header_bytes >= 40:
        bits, colours = struct.unpack_from("<H16xI", data, 28)
        if bits <= 8 and colours > _MAX_BMP_COLOURS:
            raise ValueError("the palette is too large")
