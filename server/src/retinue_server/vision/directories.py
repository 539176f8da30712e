"""TIFF's directories of tags, in TIFF files and in EXIF blocks, read without Pillow.

Pillow parses every tag, warns of damaged ones, and takes as much memory for a tag's values as the file
claims.
"""

import struct
from collections.abc import Iterator
from typing import Final

# Magic number: byte order, where the first directory's position stands, how it and the number of entries are
# written, size of an entry, and how an entry's tag, type and count are written.
_LAYOUTS: Final = {
    b"II*\0": ("<", 4, "I", "H", 12, "HHI"),
    b"MM\0*": (">", 4, "I", "H", 12, "HHI"),
    b"II+\0": ("<", 8, "Q", "Q", 20, "HHQ"),  # BigTIFF; Pillow does not read that of the other byte order
}

_INTEGERS: Final = {1: "B", 3: "H", 4: "I"}
_RATIONALS: Final = (5, 10)
_BYTES: Final = (1, 2, 7)
_ORIENTATION: Final = 0x0112

# Far above what cameras, scanners and programs write.
_MAX_ENTRIES: Final = 4096
_MAX_NUMBERS: Final = 200_000
_MAX_RATIONALS: Final = 1_000


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block, prefixed or not; 1 where it says none or is damaged.

    Source: EXIF 2.3, section 4.6.4 (Orientation).
    """
    start = 0
    while exif.startswith(b"Exif\0\0", start):
        start += 6
    try:
        for order, tag, kind, count, position in _entries(exif, start):
            if tag == _ORIENTATION and count == 1 and kind in _INTEGERS:
                (orientation,) = struct.unpack_from(order + _INTEGERS[kind], exif, position)
                return int(orientation) if 1 <= orientation <= 8 else 1
    except (ValueError, struct.error):
        pass
    return 1


def check_tiff_directory(data: bytes) -> None:
    """Refuse a TIFF whose first directory would take memory and time out of proportion to the image.

    A strip or tile is four bytes in the file and hundreds in Pillow; so is a rational number.

    Raises:
        ValueError: There are too many entries, or values in one of them.
        struct.error: The directory is cut off.
    """
    for _, tag, kind, count, _ in _entries(data, 0):
        limit = _MAX_RATIONALS if kind in _RATIONALS else _MAX_NUMBERS
        if kind not in _BYTES and count > limit:
            raise ValueError(f"{count} values in tag {tag}")


def _entries(data: bytes, start: int) -> Iterator[tuple[str, int, int, int, int]]:
    """Byte order, tag, type, count and position of the value (or of its address) of each entry.

    Source: TIFF 6.0, section 2.
    """
    layout = _LAYOUTS.get(data[start : start + 4])
    if layout is None:
        raise ValueError("no TIFF header")
    order, address_position, address, number, entry_size, entry = layout
    directory = start + struct.unpack_from(order + address, data, start + address_position)[0]
    (entries,) = struct.unpack_from(order + number, data, directory)
    if entries > _MAX_ENTRIES:
        raise ValueError(f"{entries} entries in a directory")
    first = directory + struct.calcsize("<" + number)
    for position in range(first, first + entry_size * entries, entry_size):
        tag, kind, count = struct.unpack_from(order + entry, data, position)
        yield order, tag, kind, count, position + struct.calcsize("<" + entry)
