"""A result drawn over its image, small enough for a page with many of them."""

import io

from PIL import Image

from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._errors import ImageError, ResponseError
from retinue_client._images import open_upright
from retinue_client._pillow import decoding
from retinue_client._score.rows import Result

_MOST_BYTES = 30_000
_MOST_PIXELS = 64_000_000
_LONGEST_SIDE = 480
# The longest side and the quality to be tried one after the other until a picture is small enough.
_SIZES = ((960, 70), (960, 40), (480, 40), (240, 40), (120, 40))
_MOST_OBJECTS = 40


def picture_of(encoded: bytes, result: Result) -> tuple[bytes, tuple[int, int]]:
    """The result drawn over the image, small.

    Args:
        encoded: An image file.
        result: What was answered of it.

    Returns:
        A WebP file of at most 30,000 bytes, and its width and height in pixels; nothing where the image cannot be read
        or has too many pixels.
    """
    try:
        image = _small(encoded)
        if isinstance(result, Classification):
            # Its drawing is a panel of what stands in the words.
            drawn = image
        elif isinstance(result, Detections):
            drawn = result[:_MOST_OBJECTS].draw(image)
        else:
            drawn = result.draw(image)
    except (ImageError, ResponseError):
        # The server has read it all the same: the report names the row without a picture.
        return b"", (0, 0)
    for side, quality in _SIZES:
        drawn.thumbnail((side, side))
        buffer = io.BytesIO()
        drawn.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= _MOST_BYTES:
            return buffer.getvalue(), drawn.size
    return b"", (0, 0)


def _small(encoded: bytes) -> Image.Image:
    """The image upright in RGB, at most 480 pixels wide and high.

    Raises:
        ImageError: It cannot be read, or has too many pixels.
    """
    with decoding("image"):
        image = Image.open(io.BytesIO(encoded))
        # JPEG files need not be decoded in full.
        image.draft("RGB", (_LONGEST_SIDE, _LONGEST_SIDE))
    if image.width * image.height > _MOST_PIXELS:
        raise ImageError("It has too many pixels to be drawn.", reason="IMAGE_TOO_LARGE")
    upright = open_upright(image)
    upright.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return upright
