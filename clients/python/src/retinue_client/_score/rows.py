"""Rows of results: their exact schema for each task, and how an outcome becomes one."""

from typing import Any, Literal, TypeAlias

import pyarrow as pa

from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._errors import ImageError
from retinue_client._models import Task
from retinue_client._score.sources.entry import printable
from retinue_client._segmentation import Segmentation

Row = dict[str, Any]
Schema: TypeAlias = Task | Literal["masks"]
"""Whose columns: a task's, or those of an index of masks."""
Result = Classification | Detections | Segmentation

_CLASS_SCORE = pa.struct(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)
_DETECTION = pa.struct(
    [
        pa.field("x_min", pa.float32(), nullable=False),
        pa.field("y_min", pa.float32(), nullable=False),
        pa.field("x_max", pa.float32(), nullable=False),
        pa.field("y_max", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
    ]
)
_CLASS_AREA = pa.struct(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("area_pixels", pa.int64(), nullable=False),
    ]
)
# With the row's height and width, {"size": [height, width], "counts": counts} is what pycocotools reads.
_RLE_MASK = pa.struct(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("counts", pa.string(), nullable=False),
    ]
)


def _list_of(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", item, nullable=False))


_RESULT_COLUMNS: dict[Schema, list[pa.Field]] = {
    "classify": [pa.field("classes", _list_of(_CLASS_SCORE))],
    "detect": [pa.field("detections", _list_of(_DETECTION))],
    "segment": [pa.field("areas", _list_of(_CLASS_AREA)), pa.field("masks", _list_of(_RLE_MASK))],
    "masks": [pa.field("areas", _list_of(_CLASS_AREA)), pa.field("mask_file", pa.string())],
}


def schema_of(task: Schema, metadata: dict[str, str]) -> pa.Schema:
    """The schema of a task's results.

    `path` says which file; `width` and `height` are the image's as a person sees it. A row has either results, with the
    `model` and `version` that gave them, or `error_reason` and `error_message`; the others of these are null.
    """
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            *_RESULT_COLUMNS[task],
            pa.field("model", pa.string()),
            pa.field("version", pa.int32()),
            pa.field("error_reason", pa.string()),
            pa.field("error_message", pa.string()),
        ],
        metadata=metadata,
    )


def columns_of(task: Schema) -> tuple[str, ...]:
    """The names of a task's columns, in order."""
    return tuple(schema_of(task, {}).names)


def row_of(path: str, outcome: Result | ImageError, size: tuple[int, int] | None) -> Row:
    """The row of one file.

    Args:
        path: As it stands in the table.
        outcome: What became of it.
        size: Width and height where the result does not say them.
    """
    if isinstance(outcome, ImageError):
        return {"path": path, "error_reason": outcome.reason, "error_message": printable(outcome.message)}
    row: Row = {"path": path, "model": outcome.model, "version": outcome.version}
    if isinstance(outcome, Classification):
        row["width"], row["height"] = size or (None, None)
        row["classes"] = [entry.to_dict() for entry in outcome.classes]
    elif isinstance(outcome, Detections):
        row["width"], row["height"] = outcome.image_width, outcome.image_height
        row["detections"] = [entry.to_dict() for entry in outcome]
    else:
        row["width"], row["height"] = outcome.width, outcome.height
        row["areas"] = [area.to_dict() for area in outcome.areas]
        if outcome.mask_format == "png":
            row["class_map_png"] = outcome.encoded
        else:
            row["masks"] = [
                {"class_id": mask.class_id, "label": mask.label, "counts": mask.counts.decode("ascii")}
                for mask in outcome.rle_masks
            ]
    return row


def weight_of(row: Row) -> int:
    """About how many bytes a row holds on to until it is written."""
    masks = row.get("masks") or ()
    entries = row.get("detections") or row.get("classes") or ()
    return 500 + sum(len(mask["counts"]) + 200 for mask in masks) + 400 * len(entries)
