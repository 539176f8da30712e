"""How much two answers about one image agree."""

import numpy as np
import numpy.typing as npt

from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._segmentation import Segmentation

# What counts as the same place. Source: PASCAL VOC's measure of detectors.
_SAME_PLACE_IOU = 0.5

Answer = Classification | Detections | Segmentation


def agreement(first: Answer, second: Answer, *, same_classes: bool = False) -> float:
    """How much two answers about one image agree, in [0, 1], as servers say it of a candidate that gets copies.

    Of classifications, whether the most probable class is the same one. Of detections, the share of both's that have a
    counterpart in the other: the same class, and boxes whose IoU is at least 0.5; 1 where both have none. Of
    segmentations, the share of pixels of the same class.

    Args:
        first: One.
        second: The other.
        same_classes: Whether both number their classes alike. Else these are compared by their labels.

    Raises:
        ValueError: They answer different questions, or class maps have different sizes.
    """
    if isinstance(first, Classification) and isinstance(second, Classification):
        ones, others = (
            [one.class_id if same_classes else one.label for one in answer.classes[:1]]
            for answer in (first, second)
        )
        return float(ones == others)
    if isinstance(first, Detections) and isinstance(second, Detections):
        return _agreement_of_detections(first, second, same_classes=same_classes)
    if isinstance(first, Segmentation) and isinstance(second, Segmentation):
        return _agreement_of_pixels(first, second, same_classes=same_classes)
    raise ValueError("The answers are of different kinds.")


def _agreement_of_detections(first: Detections, second: Detections, *, same_classes: bool) -> float:
    if not len(first) + len(second):
        return 1.0
    overlaps = _ious(first.boxes, second.boxes)
    ones, others = (
        np.array(answer.class_ids if same_classes else answer.labels, object) for answer in (first, second)
    )
    overlaps[ones[:, None] != others[None]] = 0
    pairs = 0
    # The surest choose first, and the one that overlaps most.
    for row in range(len(first) if len(second) else 0):
        column = int(overlaps[row].argmax())
        if overlaps[row, column] >= _SAME_PLACE_IOU:
            overlaps[:, column] = 0
            pairs += 1
    return 2 * pairs / (len(first) + len(second))


def _ious(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Intersection over union of each pair of boxes, float32 [N,4] and [M,4], x1, y1, x2, y2; float64 [N,M]."""
    first, second = boxes.astype(np.float64), others.astype(np.float64)
    near = np.maximum(first[:, None, :2], second[None, :, :2])
    far = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(far - near, 0, None).prod(axis=2)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    ious: npt.NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious


def _agreement_of_pixels(first: Segmentation, second: Segmentation, *, same_classes: bool) -> float:
    one, other = first.class_map, second.class_map
    if one.shape != other.shape:
        raise ValueError("The class maps have different sizes.")
    if same_classes:
        return float((one == other).mean())
    same = np.zeros(one.shape, bool)
    labels = {area.label: area.class_id for area in second.areas}
    for area in first.areas:
        if area.label in labels:
            same |= (one == area.class_id) & (other == labels[area.label])
    return float(same.mean())
