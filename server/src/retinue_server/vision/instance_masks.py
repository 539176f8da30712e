"""Which pixels of the original image show an object, from the small mask that a network gives of its box."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_server.errors import ImageError
from retinue_server.vision import masks

MAX_PIXELS = 100_000_000
"""Of all boxes of an image together: about a second's work."""
MAX_BYTES = 4 * 1024 * 1024
"""Of all masks of an image, written out: the most that callers allow."""


def encode(
    small: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float64],
    width: int,
    height: int,
    *,
    max_bytes: int = MAX_BYTES,
) -> list[bytes]:
    """Lays each mask over its box and writes it as COCO does.

    Where the enlarged mask is above a half a pixel shows the object, as in torchvision's `paste_masks_in_image`.

    Args:
        small: float32 [D,m,m'], in [0, 1].
        boxes: [D,4], x1, y1, x2, y2 in the original image's pixels, not clipped.
        width: Width of the original image in pixels.
        height: Its height.
        max_bytes: The most that all masks may take together.

    Returns:
        COCO's compressed counts, as `pycocotools.mask.encode` gives them for the whole image.

    Raises:
        ImageError: The boxes have too many pixels together, or the masks take too many bytes.
    """
    limit = np.array((width, height) * 2)
    first = np.clip(boxes, 0, limit)
    pixels = int(((first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])).sum())
    if pixels > MAX_PIXELS:
        raise ImageError(
            f"the masks cover {pixels} pixels, more than {MAX_PIXELS}; send a smaller image, or ask for fewer "
            "detections.",
            reason="MASKS_TOO_LARGE",
        )
    encoded: list[bytes] = []
    taken = 0
    for mask, box in zip(small, boxes, strict=True):
        encoded.append(_encode_one(mask, box, width, height))
        taken += len(encoded[-1])
        if taken > max_bytes:
            raise ImageError(
                f"the masks take more than {max_bytes} bytes; send a smaller image or fewer at once, or ask for fewer "
                "detections.",
                reason="MASKS_TOO_LARGE",
            )
    return encoded


def _encode_one(
    mask: npt.NDArray[np.float32], box: npt.NDArray[np.float64], width: int, height: int
) -> bytes:
    """Only the part inside the image is enlarged, and nothing around the box is written out."""
    x1, y1 = (max(0, int(np.floor(edge))) for edge in box[:2])
    x2, y2 = (min(size, int(np.ceil(edge))) for edge, size in zip(box[2:], (width, height), strict=True))
    rows, columns = mask.shape
    # Around the mask there is nothing: a border of zeros lets the object end before the box does.
    bordered = Image.fromarray(np.pad((mask.clip(0, 1) * 255).round().astype(np.uint8), 1))
    scale_x, scale_y = columns / (box[2] - box[0]), rows / (box[3] - box[1])
    part = (
        (x1 - box[0]) * scale_x + 1,
        (y1 - box[1]) * scale_y + 1,
        (x2 - box[0]) * scale_x + 1,
        (y2 - box[1]) * scale_y + 1,
    )
    enlarged = bordered.resize(
        (x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=_inside(part, columns, rows)
    )
    shown = np.zeros(
        (x2 - x1, y2 - y1 + 1), np.bool_
    )  # down the columns, each with an end that shows nothing
    shown[:, :-1] = np.asarray(enlarged).T > 127
    return masks.encode_placed(shown, x1, y1, width, height)


def _inside(part: tuple[float, ...], columns: int, rows: int) -> tuple[float, float, float, float]:
    """Keeps rounding to whole pixels from reaching beyond the mask's border."""
    left, top, right, bottom = part
    return max(0.0, left), max(0.0, top), min(columns + 2.0, right), min(rows + 2.0, bottom)
