"""TIFF's directories of tags, in TIFF files and in EXIF blocks, read without Pillow.

Pillow parses every tag, warns of damaged ones, and takes as much memory for a tag's values as the file
claims.
"""

import math
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
_BIG_INTEGERS: Final = {**_INTEGERS, 16: "Q"}  # in a BigTIFF, whose entries have room for them
_RATIONALS: Final = (5, 10)
_BYTES: Final = (1, 2, 7)
_ORIENTATION: Final = 0x0112

_WIDTH, _HEIGHT, _TIFF_ORIENTATION = 256, 257, 274
_SAMPLES, _ROWS_A_STRIP, _PLANES = 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SIZES: Final = (_WIDTH, _HEIGHT, _SAMPLES, _ROWS_A_STRIP, _PLANES, _TILE_WIDTH, _TILE_HEIGHT)
_STRIPS_AND_TILES: Final = (273, 279, 324, 325)  # their positions and sizes
_SEPARATE_PLANES: Final = 2

# Far above what cameras, scanners and programs write.
_MAX_ENTRIES: Final = 256
_MAX_NUMBERS: Final = 200_000  # a transfer function of three channels of 16 bits has 196,608
_MAX_RATIONALS: Final = 1_000
# Writers are told to keep a strip near 8 kB, which is one row of a wide photo: 6,000 of it are common, 18,000 in
# planes. Each costs Pillow a microsecond or two.
_MAX_STRIPS: Final = 20_000
# Files exist that have a few more than they need.
_FREE_STRIPS: Final = 256


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


def tiff_sizes(data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of a TIFF's first image, upright, and those of its tiles, or (1, 1) where it has none.

    Refuses a directory that would take memory and time out of proportion to the image: a strip or tile is
    four bytes in the file and hundreds in Pillow; so is a rational number.

    Raises:
        ValueError: There are too many entries, or values in one of them, or no size, or a size of a type that TIFF does
            not allow and libtiff reads nevertheless.
        struct.error: The directory is cut off.
    """
    numbers: dict[int, int] = {}
    strips = 0
    integers = _BIG_INTEGERS if data.startswith(b"II+\0") else _INTEGERS
    for order, tag, kind, count, position in _entries(data, 0):
        if tag in _STRIPS_AND_TILES:
            strips = max(strips, count)
        elif count == 1 and kind in integers:
            numbers.setdefault(tag, struct.unpack_from(order + integers[kind], data, position)[0])
        elif tag in _SIZES:
            raise ValueError(f"type {kind} and {count} values in tag {tag}")
        elif kind not in _BYTES and count > (_MAX_RATIONALS if kind in _RATIONALS else _MAX_NUMBERS):
            raise ValueError(f"{count} values in tag {tag}")
    width, height = numbers.get(_WIDTH, 0), numbers.get(_HEIGHT, 0)
    if width < 1 or height < 1:
        raise ValueError("no size")
    tile = max(numbers.get(_TILE_WIDTH, 1), 1), max(numbers.get(_TILE_HEIGHT, 1), 1)
    if _TILE_WIDTH in numbers:
        needed = math.ceil(width / tile[0]) * math.ceil(height / tile[1])
    else:
        needed = math.ceil(height / max(numbers.get(_ROWS_A_STRIP, height), 1))
    if numbers.get(_PLANES) == _SEPARATE_PLANES:
        needed *= numbers.get(_SAMPLES, 1)
    if strips > min(max(needed, _FREE_STRIPS), _MAX_STRIPS):
        raise ValueError(f"{strips} strips or tiles")
    turned = numbers.get(_TIFF_ORIENTATION) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height), tile


def _entries(data: bytes, start: int) -> Iterator[tuple[str, int, int, int, int]]:
    """Byte order, tag, type, count and position of the value (or of its address) of each entry.

    Source: TIFF 6.0, section 2.
    """
    layout = _LAYOUTS.get(data[start : start + 4])
    if layout is None:
        raise ValueError("no TIFF header")
    order, address_position, address, number, entry_size, entry = layout
    directory = start + struct.unpack_from(order + address, data, start + address_position)[0]
    # Of 64 bits, it may be more than a position can be.
    if directory > len(data):
        raise ValueError("no directory")
    (entries,) = struct.unpack_from(order + number, data, directory)
    if entries > _MAX_ENTRIES:
        raise ValueError(f"{entries} entries in a directory")
    first = directory + struct.calcsize("<" + number)
    for position in range(first, first + entry_size * entries, entry_size):
        tag, kind, count = struct.unpack_from(order + entry, data, position)
        yield order, tag, kind, count, position + struct.calcsize("<" + entry)
