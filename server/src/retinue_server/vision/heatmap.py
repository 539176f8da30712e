"""From what the parts of a network's input speak for to where that lies in the original image."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_server.errors import EngineError
from retinue_server.vision.resize import Frame

MAX_SIDE: Final = 512
"""A heatmap knows little more than its network's last map of features: more pixels would only cost."""


def to_original(evidence: npt.NDArray[np.float32], frame: Frame) -> npt.NDArray[np.uint8]:
    """The evidence over the whole original image, as grey levels.

    Args:
        evidence: float32 [h, w] over the whole input, above 0 for a class, below 0 against it; any unit.
        frame: The map between the input and the original image.

    Returns:
        uint8 of the original image's size, or made smaller evenly so that no side is longer than `MAX_SIDE`. 255 is the
        most evidence that there is in this image, 0 is none, or evidence against the class, or where the input does not
        show the image; between them the level is proportional.

    Raises:
        EngineError: Some of the evidence is no number.
    """
    if not np.isfinite(evidence).all():
        raise EngineError("the model gave a heatmap that holds what is no number; its bundle is broken.")
    shrunk = min(1.0, MAX_SIDE / max(frame.original_width, frame.original_height))
    width, height = (max(1, round(side * shrunk)) for side in (frame.original_width, frame.original_height))
    scale_x, scale_y = (
        frame.original_width / width * frame.scale_x,
        frame.original_height / height * frame.scale_y,
    )
    down, across = (
        side / size
        for side, size in zip(evidence.shape, (frame.input_height, frame.input_width), strict=True)
    )
    first_x, end_x, x0, x1 = _span(width, scale_x, frame.offset_x, frame.valid[0::2], across)
    first_y, end_y, y0, y1 = _span(height, scale_y, frame.offset_y, frame.valid[1::2], down)
    # What the network says of padding alone is left out, so that it does not shine into the image. A cubic filter would
    # overshoot beside an edge, and there would be the most.
    left, top = math.floor(x0), math.floor(y0)
    cells = np.ascontiguousarray(evidence[top : math.ceil(y1), left : math.ceil(x1)])
    shown = Image.fromarray(cells).resize(
        (end_x - first_x, end_y - first_y),
        Image.Resampling.BILINEAR,
        box=(x0 - left, y0 - top, x1 - left, y1 - top),
    )
    levels = np.maximum(np.asarray(shown), 0)
    most = levels.max()
    heatmap = np.zeros((height, width), np.uint8)
    if most > 0:
        heatmap[first_y:end_y, first_x:end_x] = np.rint(levels / most * 255)
    return heatmap


def _span(
    length: int, scale: float, offset: float, valid: tuple[int, ...], map_scale: float
) -> tuple[int, int, float, float]:
    """Which pixels along one axis of the result the input shows, and which part of the evidence they show.

    Args:
        length: Pixels of the result.
        scale: Input pixels that each is long.
        offset: Where the first begins, in input pixels.
        valid: The part of the input that shows the image, in its pixels.
        map_scale: Positions of the evidence an input pixel is long.

    Returns:
        The first pixel whose centre lies in the valid part, and the one after the last, or else the pixel that has the
        middle of it; and the edges of what these cover, in positions of the evidence.
    """
    # A narrow crop may lie between two centres.
    middle = min(max(math.floor((sum(valid) / 2 - offset) / scale), 0), length - 1)
    first = min(max(math.ceil((valid[0] - offset) / scale - 0.5), 0), middle)
    end = max(min(math.ceil((valid[1] - offset) / scale - 0.5), length), middle + 1)
    begins, ends = ((place * scale + offset) * map_scale for place in (first, end))
    return first, end, max(begins, valid[0] * map_scale), min(ends, valid[1] * map_scale)
