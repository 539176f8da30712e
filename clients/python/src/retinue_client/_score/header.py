"""The size of an image from its header, where that can be had without opening it: a job asks for millions."""

from retinue_client._images import upright_size
from retinue_client._pillow import exif_orientation

_START_OF_IMAGE = b"\xff\xd8\xff"
_START_OF_SCAN = 0xDA
_EXIF, _EXIF_PREFIX = 0xE1, b"Exif\0\0"
# Markers 0xC0 to 0xCF begin a frame, but for those that bring tables.
_TABLES = (0xC4, 0xC8, 0xCC)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of an image file as a person sees it, as `upright_size` says; of JPEG at a tenth of its cost."""
    size = _jpeg_size(data) if data.startswith(_START_OF_IMAGE) else None
    return size or upright_size(data)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """That of a JPEG file in which nothing is out of the ordinary, else None.

    Source: ITU-T T.81, annex B.
    """
    size = None
    orientation = 0
    position = 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            return size if orientation < 5 or size is None else size[::-1]
        begin = position + 4
        position += 2 + int.from_bytes(data[position + 2 : begin], "big")
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9 or position < begin:
            return None
        if marker == _EXIF and data.startswith(_EXIF_PREFIX, begin):
            if orientation:
                return None
            orientation = exif_orientation(data[begin:position])
        elif 0xC0 <= marker <= 0xCF and marker not in _TABLES:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (begin + 1, begin + 3))
            if size is not None or 0 in (height, width):
                return None
            size = (width, height)
    return None
