"""From a segmenter's class map to the class of each pixel of the original image.

A class map here is uint8 [h, w] where the model has at most 256 classes, else uint16 [h, w]: `checked` makes
it so.
"""

from collections.abc import Collection
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from retinue_server.errors import EngineError
from retinue_server.vision.resize import Frame

ClassMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

# NumPy counts in 64-bit integers: a large map is converted by parts.
_COUNTED_PIXELS: Final = 1 << 18


def checked(class_map: npt.NDArray[np.integer], num_classes: int) -> ClassMap:
    """A network's class map in the smallest type that holds every class.

    Args:
        class_map: Any integer type, [h, w].
        num_classes: K, at most 65536.

    Raises:
        EngineError: There is a class outside of 0 to K - 1, which the type would turn into another.
    """
    lowest, highest = int(class_map.min()), int(class_map.max())
    if lowest < 0 or highest >= num_classes:
        raise EngineError(f"The model gave pixels a class outside of its {num_classes} classes.")
    if num_classes <= 256:
        return class_map.astype(np.uint8, copy=False)
    return class_map.astype(np.uint16, copy=False)


def keep_classes(class_map: ClassMap, class_ids: Collection[int], background: int | None) -> ClassMap:
    """The map with every other class turned into background; unchanged where there is no background class.

    Cheapest before the map is brought to the original's size.

    Args:
        class_map: [h, w].
        class_ids: The classes to keep.
        background: The class id of pixels that belong to no object, or None where the model has none.
    """
    if background is None:
        return class_map
    become = np.full(np.iinfo(class_map.dtype).max + 1, background, class_map.dtype)
    kept = np.fromiter(class_ids, np.int64, len(class_ids))
    become[kept] = kept
    result: ClassMap = become[class_map]
    return result


def to_original(
    class_map: ClassMap, frame: Frame, *, background: int | None, order: Literal["C", "F"] = "C"
) -> ClassMap:
    """The class of each pixel of the original image: that of the map's pixel under its centre.

    Args:
        class_map: [h, w] over the whole input; it may be smaller or larger than the input.
        frame: The map between the input and the original image.
        background: The class id that pixels get which a centre crop cut off; None, where the model has no
            such class, gives them the class of the nearest pixel in the crop.
        order: Memory layout of the result; "F", column by column, is what `encode_coco_rle` reads fastest.

    Returns:
        [original height, original width], of the type of `class_map`.
    """
    map_height, map_width = class_map.shape
    left, top, right, bottom = frame.valid
    columns, first_column, end_column = _source_indices(
        frame.original_width, frame.scale_x, frame.offset_x, left, right, map_width / frame.input_width
    )
    rows, first_row, end_row = _source_indices(
        frame.original_height, frame.scale_y, frame.offset_y, top, bottom, map_height / frame.input_height
    )
    if background is None:
        return _gather(class_map, rows, columns, order)
    whole = (0, frame.original_height, 0, frame.original_width)
    if (first_row, end_row, first_column, end_column) == whole:
        return _gather(class_map, rows, columns, order)
    result: ClassMap = np.full(
        (frame.original_height, frame.original_width), background, class_map.dtype, order=order
    )
    inside = _gather(class_map, rows[first_row:end_row], columns[first_column:end_column], order)
    result[first_row:end_row, first_column:end_column] = inside
    return result


def class_areas(class_map: ClassMap, num_classes: int) -> npt.NDArray[np.int64]:
    """How many pixels each class has: int64 [K]."""
    flat = class_map.ravel(order="K")
    areas = np.zeros(num_classes, np.int64)
    for start in range(0, flat.size, _COUNTED_PIXELS):
        areas += np.bincount(flat[start : start + _COUNTED_PIXELS], minlength=num_classes)
    return areas


def _source_indices(
    length: int, scale: float, offset: float, valid_from: int, valid_to: int, map_scale: float
) -> tuple[npt.NDArray[np.intp], int, int]:
    """For each original pixel along one axis: which pixel of the map lies under its centre.

    Returns:
        Indices [length], kept within the valid part, and the range of original pixels whose centres are in
        it.
    """
    centres = (np.arange(length) + 0.5) * scale + offset
    inside = np.flatnonzero((centres >= valid_from) & (centres < valid_to))
    indices = np.floor(centres * map_scale).astype(np.intp)
    first, last = int(valid_from * map_scale), int(np.ceil(valid_to * map_scale)) - 1
    np.clip(indices, first, max(first, last), out=indices)
    return indices, (int(inside[0]) if inside.size else 0), (int(inside[-1]) + 1 if inside.size else 0)


def _gather(
    class_map: ClassMap, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], order: Literal["C", "F"]
) -> ClassMap:
    """class_map[rows][:, columns], in the order in which the larger step copies whole rows (or columns)."""
    if order == "C":
        return class_map.take(columns, axis=1).take(rows, axis=0)
    return class_map.T.take(rows, axis=1).take(columns, axis=0).T
