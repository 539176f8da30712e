"""How much two answers about one image agree."""

import numpy as np
import numpy.typing as npt

from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._segmentation import Segmentation

# What counts as the same place. Source: PASCAL VOC's measure of detectors.
_SAME_PLACE_IOU = 0.5

Answer = Classification | Detections | Segmentation


def agreement(first: Answer, second: Answer) -> float:
    """How much two answers about one image agree, in [0, 1].

    Of classifications, whether the most probable class is the same one. Of detections, the share of both's that have a
    counterpart in the other: the same label, and boxes whose IoU is at least 0.5; 1 where both have none. Of
    segmentations, the share of pixels of the same class. Classes are compared by their labels, for two versions may
    number them differently.

    Raises:
        ValueError: They answer different questions, or class maps have different sizes.
    """
    if isinstance(first, Classification) and isinstance(second, Classification):
        return float([one.label for one in first.classes[:1]] == [one.label for one in second.classes[:1]])
    if isinstance(first, Detections) and isinstance(second, Detections):
        return _agreement_of_detections(first, second)
    if isinstance(first, Segmentation) and isinstance(second, Segmentation):
        return _agreement_of_pixels(first, second)
    raise ValueError("The answers are of different kinds.")


def _agreement_of_detections(first: Detections, second: Detections) -> float:
    if not len(first) + len(second):
        return 1.0
    overlaps = _ious(first.boxes, second.boxes)
    overlaps[
        np.array([[a != b for b in second.labels] for a in first.labels], bool).reshape(overlaps.shape)
    ] = 0
    pairs = 0
    # The pairs that overlap most first, each box in one.
    while overlaps.size and overlaps.max() >= _SAME_PLACE_IOU:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        overlaps[row, :] = overlaps[:, column] = 0
        pairs += 1
    return 2 * pairs / (len(first) + len(second))


def _ious(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union of each pair of boxes, float32 [N,4] and [M,4], x1, y1, x2, y2; float32 [N,M]."""
    near = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(far - near, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    ious: npt.NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious


def _agreement_of_pixels(first: Segmentation, second: Segmentation) -> float:
    one, other = first.class_map, second.class_map
    if one.shape != other.shape:
        raise ValueError("The class maps have different sizes.")
    same = np.zeros(one.shape, bool)
    labels = {area.label: area.class_id for area in second.areas}
    for area in first.areas:
        if area.label in labels:
            same |= (one == area.class_id) & (other == labels[area.label])
    return float(same.mean())
