"""What the protocol promises of an answer, checked when a result is made of it.

Whoever uses a result need not ask whether a score is a number, or whether a mask fits into the memory.
"""

import math
from collections.abc import Iterable

import numpy as np
from retinue.v1 import image_pb2

from retinue_client._classification import Classification, ClassScore
from retinue_client._detections import Detections
from retinue_client._errors import ResponseError
from retinue_client._images import upright_size
from retinue_client._segmentation import RleMask, Segmentation

_MOST_SIDE = 65_535
# More pixels are believed only of an image that has as many.
_MOST_PIXELS = 1 << 26
# Far more names than a manifest could hold.
_MOST_CLASSES = 1 << 24
# A class map has at most 16 bits a pixel.
_MOST_MAPPED_CLASSES = 1 << 16
_RLE_CHARACTERS = bytes(range(48, 112))


def check_classification(result: Classification, _sent: image_pb2.Image) -> None:
    """Refuses class ids and scores that are none.

    Raises:
        ResponseError: A class id is none, or a score not in [0, 1].
    """
    _check_class_scores(result.classes)


def check_detections(result: Detections, sent: image_pb2.Image) -> None:
    """Refuses what cannot be in the image that was sent.

    Raises:
        ResponseError: The size is not the image's, a box or keypoint does not lie in it, a score or class id is none,
            or a mask is malformed.
    """
    width, height = result.image_width, result.image_height
    _check_size(width, height, sent)
    first, last = result.boxes[:, :2], result.boxes[:, 2:]
    # A comparison with NaN is false.
    if not ((first >= 0) & (first <= last) & (last <= np.array((width, height), np.float32))).all():
        raise ResponseError(f"The server answered a box that does not lie in its image of {width}x{height}.")
    if not ((result.scores >= 0) & (result.scores <= 1)).all():
        raise ResponseError("The server answered a score that is not in [0, 1].")
    if not ((result.class_ids >= 0) & (result.class_ids < _MOST_CLASSES)).all():
        raise ResponseError("The server answered a class id that no model has.")
    for point in (point for points in result.keypoints for point in points):
        if not (0 <= point.x <= width and 0 <= point.y <= height and math.isfinite(point.score)):
            raise ResponseError(
                f"The server answered a keypoint that does not lie in its image of {width}x{height}, or has no score."
            )
    for mask in result.masks:
        _check_characters(mask)
    for classes in result.classes:
        _check_class_scores(classes)


def check_segmentation(result: Segmentation, sent: image_pb2.Image) -> None:
    """Refuses a class map that cannot be the image's.

    Raises:
        ResponseError: The size is not the image's, a class id or an area is none, or a mask is malformed.
    """
    _check_size(result.width, result.height, sent if result.mask_size == "original" else None)
    _check_mapped_classes([area.class_id for area in result.areas])
    _check_mapped_classes([mask.class_id for mask in result.rle_masks])
    areas = [area.area_pixels for area in result.areas]
    if min(areas, default=0) < 0 or sum(areas) > result.width * result.height:
        raise ResponseError(
            f"The server answered areas that a class map of {result.width}x{result.height} cannot have."
        )
    for mask in result.rle_masks:
        _check_characters(mask)


def _check_class_scores(classes: Iterable[ClassScore]) -> None:
    for entry in classes:
        if not 0 <= entry.class_id < _MOST_CLASSES:
            raise ResponseError(f"The server answered the class id {entry.class_id}, which no model has.")
        if not 0 <= entry.score <= 1:
            raise ResponseError(f"The server answered the score {entry.score:g}, which is not in [0, 1].")


def _check_size(width: int, height: int, sent: image_pb2.Image | None) -> None:
    """Refuses a size that is not the one of the image that was sent, as far as that can be told cheaply.

    Args:
        width: As it was answered.
        height: Likewise.
        sent: The image. None for a class map in the frame of the model's input, of which only the order is known.

    Raises:
        ResponseError: It is another size, or one that no image has.
    """
    size = (width, height)
    if not 1 <= min(size) <= max(size) <= _MOST_SIDE:
        raise ResponseError(f"The server answered a size of {width}x{height}, which no image has.")
    is_large = width * height > _MOST_PIXELS
    if sent is None:
        if is_large:
            raise ResponseError(
                f"The server answered a class map of {width}x{height}, larger than any model's."
            )
        return
    known: tuple[int, int] | None = None
    if sent.WhichOneof("source") == "raw":
        known = (sent.raw.width, sent.raw.height)
    elif is_large:
        known = upright_size(sent.encoded)
    if known not in (None, size):
        raise ResponseError(
            f"The server answered a size of {width}x{height} for an image of {known[0]}x{known[1]}."
        )


def _check_mapped_classes(class_ids: list[int]) -> None:
    for class_id in class_ids:
        if not 0 <= class_id < _MOST_MAPPED_CLASSES:
            raise ResponseError(f"The server answered the class id {class_id} in a class map.")
    if len(set(class_ids)) < len(class_ids):
        raise ResponseError("The server answered a class of a class map twice.")


def _check_characters(mask: RleMask) -> None:
    if mask.counts.translate(None, _RLE_CHARACTERS):
        raise ResponseError("The server answered a run-length mask that is malformed.")
