"""Detections as COCO's JSON: a results file and a data set, put together of the parts' rows."""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from retinue_client._models import ModelInfo
from retinue_client._score.disk import Disk
from retinue_client._score.outputs.jsonl import JsonlOutput
from retinue_client._score.rows import Row

RESULTS = "results.json"
DATASET = "dataset.json"


class CocoOutput(JsonlOutput):
    """`results.json`, as `COCO.loadRes` takes it, and `dataset.json`, as `COCO` does.

    The id of an image is the number of its row, from 1; that of an annotation its own, from 1 in the order of rows;
    that of a category the model's class id. Images without an answer are in `dataset.json`'s list `errors` and have no
    place among its `images`. The parts' rows are kept as JSONL in `_parts`.

    Source: https://cocodataset.org/#format-data and https://cocodataset.org/#format-results
    """

    def __init__(self) -> None:
        super().__init__("detect", folder="_parts")

    def finish(self, disk: Disk, parts: Iterable[str], model: ModelInfo) -> None:
        """See `Output`. Rows are read again for each list, so that none is held in memory."""
        names = list(parts)
        numbers = itertools.count(1)
        annotations = (
            _annotation(image_id, found) for image_id, row in _rows(disk, names) for found in _found(row)
        )
        _write(disk, RESULTS, b"[", {"": annotations}, b"]\n")
        lists: dict[str, Iterator[dict[str, Any]]] = {
            "categories": (
                {"id": number, "name": label, "supercategory": ""}
                for number, label in enumerate(model.labels)
            ),
            "images": (_image(number, row) for number, row in _rows(disk, names) if _answered(row)),
            "annotations": (
                {"id": next(numbers), **_annotation(image_id, found), "iscrowd": 0}
                for image_id, row in _rows(disk, names)
                for found in _found(row)
            ),
            "errors": (_error(number, row) for number, row in _rows(disk, names) if not _answered(row)),
        }
        info = {"description": f"{model.name} version {model.version}"}
        _write(disk, DATASET, b'{"info":' + _json(info) + b',"licenses":[],', lists, b"}\n")


def _rows(disk: Disk, names: list[str]) -> Iterator[tuple[int, Row]]:
    """All rows with their numbers, from 1."""
    number = itertools.count(1)
    for name in names:
        with (disk.root / name).open("rb") as file:
            for line in file:
                yield next(number), json.loads(line)


def _write(
    disk: Disk, name: str, head: bytes, lists: dict[str, Iterator[dict[str, Any]]], tail: bytes
) -> None:
    file = disk.create(name)
    file.write(head)
    for place, (key, values) in enumerate(lists.items()):
        if key:
            file.write((b"," if place else b"") + _json(key) + b":[")
        for index, value in enumerate(values):
            file.write((b",\n" if index else b"\n") + _json(value))
        if key:
            file.write(b"]")
    file.write(tail)
    disk.sync(file)
    disk.keep(name)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _answered(row: Row) -> bool:
    return row["error_reason"] is None


def _found(row: Row) -> list[dict[str, Any]]:
    return row["detections"] or []


def _annotation(image_id: int, found: dict[str, Any]) -> dict[str, Any]:
    width, height = found["x_max"] - found["x_min"], found["y_max"] - found["y_min"]
    return {
        "image_id": image_id,
        "category_id": found["class_id"],
        "bbox": [found["x_min"], found["y_min"], width, height],
        "area": width * height,
        "score": found["score"],
    }


def _image(number: int, row: Row) -> dict[str, Any]:
    return {"id": number, "file_name": row["path"], "width": row["width"], "height": row["height"]}


def _error(number: int, row: Row) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": row["path"],
        "reason": row["error_reason"],
        "message": row["error_message"],
    }
