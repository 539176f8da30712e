"""Regions that come with an image: checked, and brought from its own pixels to those of a network's input."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retinue_server.errors import ImageError
from retinue_server.vision.resize import Frame

Regions = npt.NDArray[np.float32]
"""float32 [R,4]: x1, y1, x2, y2."""


def check_count(count: int, max_regions: int) -> None:
    """Refuses another number of regions than a model looks at.

    Args:
        count: How many came with an image.
        max_regions: How many the model takes; 0 where it looks at the whole image.

    Raises:
        ImageError: There are too many, none where the model needs some, or some where it takes none.
    """
    if count and not max_regions:
        raise ImageError(
            "the model takes no regions: it looks at the whole image; send it without.",
            reason="REGIONS_NOT_TAKEN",
        )
    if max_regions and not 1 <= count <= max_regions:
        raise ImageError(
            f"the image has {count} regions, but the model looks at 1 to {max_regions} of an image: say "
            "where to look in its `regions`.",
            reason="REGION_COUNT_OUT_OF_RANGE",
        )


def checked(corners: Sequence[tuple[float, float, float, float]]) -> Regions:
    """Makes regions of what came with an image: x1, y1, x2, y2 of each, in the image's own pixels.

    Raises:
        ImageError: One is no rectangle, or not finite.
    """
    regions = np.array(corners, np.float32)
    endless = ~np.isfinite(regions).all(axis=1)
    if endless.any():
        raise ImageError(
            f"region {int(endless.argmax())} has a coordinate that is no finite number; give its edges in pixels.",
            reason="REGION_INVALID",
        )
    broken = (regions[:, :2] >= regions[:, 2:]).any(axis=1)
    if broken.any():
        raise ImageError(
            f"region {int(broken.argmax())} is no rectangle: x_min must be less than x_max, and y_min than y_max.",
            reason="REGION_INVALID",
        )
    return regions


def to_input(regions: Regions, frame: Frame) -> Regions:
    """Brings regions of the original image into the input's pixels.

    They are clipped to the part of the input that shows the image; a region outside of that is all 0.
    """
    scale = np.array((frame.scale_x, frame.scale_y) * 2)
    offset = np.array((frame.offset_x, frame.offset_y) * 2)
    left, top, right, bottom = frame.valid
    inside: Regions = np.clip(regions * scale + offset, (left, top) * 2, (right, bottom) * 2).astype(
        np.float32
    )
    inside[(inside[:, :2] >= inside[:, 2:]).any(axis=1)] = 0
    return inside
