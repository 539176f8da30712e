"""How far two versions of a model agree on an image, from 0, not at all, to 1."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from retinue_server.results import (
    Classification,
    DetectionList,
    MaskFormat,
    Segmentation,
    TaskResult,
    TensorRows,
)

# Two detections of one class are the same object from this overlap on, as in COCO's AP50.
LEAST_OVERLAP = 0.5
# Tensors agree within |a - b| <= ABSOLUTE + RELATIVE * |b|.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-2, 1e-3

# NumPy's temporaries are kept small: a class map is compared by parts.
_PIXELS_AT_ONCE = 1 << 18

Classes = npt.NDArray[np.int64]


def translation(labels: Sequence[str], others: Sequence[str]) -> Classes:
    """What each class of another version is in this one, by name where the two have different ones; -1 for none.

    Args:
        labels: This version's, by class id.
        others: The other's.
    """
    if list(labels) == list(others):
        return np.arange(len(labels))
    ids = {label: class_id for class_id, label in reversed(list(enumerate(labels)))}
    return np.array([ids.get(label, -1) for label in others], np.int64)


def agreement(result: TaskResult, other: TaskResult, classes: Classes, num_classes: int) -> float:
    """How far two results for one image agree.

    Of a classification, whether the top class is the same; of detections, the share of either's that the other has,
    too; of a class map, the share of pixels with the same class; of tensors, whether all are close.

    Args:
        result: What was answered.
        other: What another version answers to the same question.
        classes: What its classes are in the first.
        num_classes: How many the first has.
    """
    if isinstance(result, Classification) and isinstance(other, Classification):
        return float(result.class_ids[:1] == classes[other.class_ids[:1]].tolist())
    if isinstance(result, DetectionList) and isinstance(other, DetectionList):
        return _of_detections(result, other, classes)
    if isinstance(result, Segmentation) and isinstance(other, Segmentation):
        return _of_class_maps(result, other, classes, num_classes)
    if isinstance(result, TensorRows) and isinstance(other, TensorRows):
        return float(
            result.arrays.keys() == other.arrays.keys()
            and all(_are_close(array, other.arrays[name]) for name, array in result.arrays.items())
        )
    raise ValueError("the two results are of different tasks")


def overlaps(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Intersection over union of each of D boxes with each of E: [D,E]; 0 where both are empty.

    Args:
        boxes: float32 [D,4], x1,y1,x2,y2.
        others: float32 [E,4], likewise.
    """
    first, second = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(axis=-1) for each in (first, second)]
    union = areas[0] + areas[1] - common
    result: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result


def _of_detections(result: DetectionList, other: DetectionList, classes: Classes) -> float:
    """Each has at most one counterpart; the surest choose first, and the one that overlaps most."""
    total = len(result.scores) + len(other.scores)
    if not total:
        return 1.0
    overlap = overlaps(result.boxes, other.boxes)
    overlap[result.class_ids[:, None] != classes[other.class_ids][None]] = 0
    found = 0
    for row in range(len(result.scores) if len(other.scores) else 0):
        column = int(overlap[row].argmax())
        if overlap[row, column] >= LEAST_OVERLAP:
            overlap[:, column] = 0
            found += 1
    return 2 * found / total


def _of_class_maps(result: Segmentation, other: Segmentation, classes: Classes, num_classes: int) -> float:
    if result.mask_format is MaskFormat.COCO_RLE:
        return _of_run_lengths(result, other, classes)
    first, second = _class_map(result, num_classes), _class_map(other, len(classes))
    # Of a size of the models' own, which may differ.
    rows = np.arange(result.height) * other.height // result.height
    columns = np.arange(result.width) * other.width // result.width
    same = 0
    step = max(1, _PIXELS_AT_ONCE // result.width)
    for start in range(0, result.height, step):
        part = second[rows[start : start + step]][:, columns]
        same += int(np.count_nonzero(first[start : start + step] == classes[part]))
    return same / (result.width * result.height)


def _of_run_lengths(result: Segmentation, other: Segmentation, classes: Classes) -> float:
    """Without a pixel being written out; what neither shows anything of is the background of both."""
    if (result.width, result.height) != (other.width, other.height):
        raise ValueError("the two class maps are of different sizes")
    size = [result.height, result.width]
    first: dict[int, Any] = {class_id: {"size": size, "counts": counts} for class_id, counts in _runs(result)}
    second: dict[int, Any] = {
        int(classes[class_id]): {"size": size, "counts": counts} for class_id, counts in _runs(other)
    }
    pixels = result.width * result.height
    either = [*first.values(), *second.values()]
    same = pixels - int(coco_mask.area(coco_mask.merge(either))) if either else pixels
    for class_id in first.keys() & second.keys():
        same += int(coco_mask.area(coco_mask.merge([first[class_id], second[class_id]], intersect=True)))
    return same / pixels


def _runs(of: Segmentation) -> list[tuple[int, bytes]]:
    assert not isinstance(of.mask, bytes)
    return of.mask


def _class_map(of: Segmentation, num_classes: int) -> npt.NDArray[Any]:
    assert isinstance(of.mask, bytes)
    if of.mask_format is MaskFormat.PNG:
        with Image.open(BytesIO(of.mask), formats=["PNG"]) as image:
            return np.asarray(image)
    return np.frombuffer(of.mask, "u1" if num_classes <= 256 else "<u2").reshape(of.height, of.width)


def _are_close(array: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    if array.shape != other.shape or array.dtype != other.dtype:
        return False
    if array.dtype.kind not in "fc":
        return bool((array == other).all())
    return np.allclose(other, array, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True)
