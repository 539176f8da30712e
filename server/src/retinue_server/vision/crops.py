"""Cuts what was found in an image out of it, each as the input of another network."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retinue_server.vision.decode import UPRIGHT, load_flat, orientation
from retinue_server.vision.faults import pillow_faults, release_frames
from retinue_server.vision.readers import RawPixels, Sent
from retinue_server.vision.resize import prepare
from retinue_server.vision.room import ROOM, decoding_bytes
from retinue_server.vision.spec import InputSpec

PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels of an image as a person sees it; right and bottom lie outside."""


def pixel_box(
    box: tuple[float, float, float, float], context: float, width: int, height: int
) -> PixelBox | None:
    """The pixels that a box and what surrounds it touch; None where there are none.

    Args:
        box: x1, y1, x2, y2 in the image's pixels.
        context: How much is added on the left and right of its width, and above and below of its height.
        width: Of the image in pixels.
        height: Likewise.
    """
    x1, y1, x2, y2 = box
    across, down = context * (x2 - x1), context * (y2 - y1)
    edges = x1 - across, y1 - down, x2 + across, y2 + down
    # NaN fails the comparisons as well.
    if not (x1 < x2 and y1 < y2 and all(map(math.isfinite, edges))):
        return None
    left, top = max(math.floor(edges[0]), 0), max(math.floor(edges[1]), 0)
    right, bottom = min(math.ceil(edges[2]), width), min(math.ceil(edges[3]), height)
    return (left, top, right, bottom) if left < right and top < bottom else None


def cut(image: Sent, boxes: Sequence[PixelBox], spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Decode an opened image once, in full, and make a network's input of each box's pixels.

    They are what `prepare` makes of the same pixels sent as a raw image.

    Args:
        image: From `open_encoded` or `open_raw`. It is used up, also where an error comes out.
        boxes: Within the image.
        spec: What the network wants.

    Returns:
        uint8 [B, height, width, channels] of the spec.

    Raises:
        ImageError: IMAGE_UNDECODABLE or IMAGE_TOO_LARGE.
    """
    inputs = np.empty((len(boxes), spec.height, spec.width, spec.channels), np.uint8)
    try:
        with ROOM.taken(decoding_bytes(image, spec, whole=True)):
            _cut_parts(image, boxes, spec, inputs)
    except Exception as error:
        release_frames(error)
        raise
    finally:
        image.close()
    return inputs


def _cut_parts(
    image: Sent, boxes: Sequence[PixelBox], spec: InputSpec, inputs: npt.NDArray[np.uint8]
) -> None:
    with pillow_faults("raw"):
        picture = image.to_pillow() if isinstance(image, RawPixels) else image
    flat = load_flat(picture, grey=False)
    turned = orientation(picture)
    # What it says of the file is done with, and would be applied to each part again.
    flat.info = {}
    for box, row in zip(boxes, inputs, strict=True):
        with pillow_faults("decoded"):
            part = flat.crop(_stored(box, turned, *flat.size))
            if turned != 1:
                part = part.transpose(UPRIGHT[turned])
        prepare(part, spec, row)
    # While there is room for its pixels.
    picture.close()


def _stored(box: PixelBox, turned: int, width: int, height: int) -> PixelBox:
    """Where a box of the upright image lies in the stored pixels, of this size and EXIF orientation."""
    left, top, right, bottom = box
    if turned >= 5:
        left, top, right, bottom = top, left, bottom, right
    if turned in (2, 3, 7, 8):
        left, right = width - right, width - left
    if turned in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
