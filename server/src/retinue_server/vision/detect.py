"""From a detector's rows to boxes in the original image."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retinue_server.errors import EngineError
from retinue_server.vision.classify import check_probabilities
from retinue_server.vision.resize import Frame


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects of one image, sorted by descending score.

    Attributes:
        boxes: float32 [D, 4], x1, y1, x2, y2 in the original image's pixels, clipped to it; x1 < x2 and y1 <
            y2.
        scores: float32 [D], in (0, 1].
        classes: int32 [D], class ids.
        rows: int [D], which of the network's rows each comes from.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]
    rows: npt.NDArray[np.intp]


def to_original(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int32],
    frame: Frame,
    *,
    score_threshold: float,
    max_detections: int | None = None,
    class_ids: AbstractSet[int] | None = None,
) -> Detections:
    """Choose from one image's rows and bring their boxes into the original image.

    Rows of score 0 are padding. Boxes that have no area once they are clipped to the image, such as those in
    the padding of a letterbox, are dropped.

    Args:
        boxes: float32 [M, 4], x1, y1, x2, y2 in input pixels.
        scores: float32 [M].
        classes: int32 [M].
        frame: The map to the original image.
        score_threshold: Lower scores are left out, in [0, 1].
        max_detections: The most to return, highest scores first; None means all.
        class_ids: Only these classes; None means all.

    Raises:
        EngineError: A score is none, or the box of a row that is not padding has a NaN or an infinity.
    """
    check_probabilities(scores)
    found = scores > 0
    if not np.isfinite(boxes[found]).all():
        raise EngineError("the model gave a box that is not finite; its bundle is broken.")
    keep = found & (scores >= score_threshold)
    if class_ids is not None:
        keep &= np.isin(classes, np.fromiter(class_ids, np.int64, len(class_ids)))
    rows = np.flatnonzero(keep)

    limit = np.array((frame.original_width, frame.original_height) * 2)
    original = np.clip(unclipped(boxes[rows], frame), 0, limit).astype(np.float32)

    has_area = (original[:, 0] < original[:, 2]) & (original[:, 1] < original[:, 3])
    order = np.flatnonzero(has_area)
    order = order[np.argsort(-scores[rows[order]], kind="stable")][:max_detections]
    rows = rows[order]
    return Detections(
        boxes=original[order],
        scores=np.minimum(scores[rows], 1).astype(np.float32, copy=False),
        classes=classes[rows].astype(np.int32, copy=False),
        rows=rows,
    )


def unclipped(boxes: npt.NDArray[np.float32], frame: Frame) -> npt.NDArray[np.float64]:
    """Brings boxes from input pixels, float32 [D,4], to the original image's, wherever they then lie."""
    offset = np.array((frame.offset_x, frame.offset_y) * 2)
    scale = np.array((frame.scale_x, frame.scale_y) * 2)
    original: npt.NDArray[np.float64] = (boxes - offset) / scale
    return original


def clipped(boxes: npt.NDArray[np.float32], frame: Frame) -> npt.NDArray[np.float32]:
    """Brings boxes from input pixels, float32 [D,4], to the original image's, clipped to it."""
    most = (frame.original_width, frame.original_height) * 2
    return np.clip(unclipped(boxes, frame), 0, most).astype(np.float32)


def keypoints_to_original(keypoints: npt.NDArray[np.float32], frame: Frame) -> npt.NDArray[np.float32]:
    """Brings keypoints, float32 [D,K,3] of x, y and score, from input pixels to the original image's, clipped to it.

    Raises:
        EngineError: One is not finite.
    """
    if not np.isfinite(keypoints).all():
        raise EngineError("the model gave a keypoint that is not finite; its bundle is broken.")
    original = keypoints.copy()
    original[..., 0] = np.clip((keypoints[..., 0] - frame.offset_x) / frame.scale_x, 0, frame.original_width)
    original[..., 1] = np.clip((keypoints[..., 1] - frame.offset_y) / frame.scale_y, 0, frame.original_height)
    return original
