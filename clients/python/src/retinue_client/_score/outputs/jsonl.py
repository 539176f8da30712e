"""Rows as JSON: one object a line, one file a part."""

import json
from collections.abc import Iterable
from typing import Any, BinaryIO

from retinue_client._models import ModelInfo
from retinue_client._score.disk import Disk
from retinue_client._score.rows import Row, Schema, columns_of


class JsonlOutput:
    """Parts as JSONL files; each line has the columns of the Parquet schema, null where there is nothing.

    Args:
        task: What the rows answer.
        folder: Where the files are, in the results' folder; empty where they are the results.
    """

    def __init__(self, task: Schema, folder: str = "") -> None:
        self._columns = columns_of(task)
        self._folder = folder

    def file_of(self, part: int) -> str:
        """See `Output`."""
        name = f"part-{part:06}.jsonl"
        return f"{self._folder}/{name}" if self._folder else name

    def open(self, disk: Disk, part: int, first_row: int) -> "JsonlWriter":
        """See `Output`."""
        del first_row
        return JsonlWriter(disk, disk.create(self.file_of(part)), self._columns)

    def keep(self, disk: Disk, part: int) -> None:
        """See `Output`."""
        disk.keep(self.file_of(part))

    def finish(self, disk: Disk, parts: Iterable[str], model: ModelInfo) -> None:
        """There is nothing besides: the parts, one after the other, are the results."""


class JsonlWriter:
    """A JSONL file that is being written."""

    def __init__(self, disk: Disk, file: BinaryIO, columns: tuple[str, ...]) -> None:
        self._disk = disk
        self._file = file
        self._columns = columns

    def write(self, rows: list[Row]) -> None:
        """See `RowWriter`."""
        for row in rows:
            self._file.write(json_line({name: row.get(name) for name in self._columns}))

    def end(self) -> None:
        """See `RowWriter`."""
        self._disk.sync(self._file)

    def drop(self) -> None:
        """See `RowWriter`."""
        self._file.close()


def json_line(value: dict[str, Any]) -> bytes:
    """A value as one line of JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
