"""Columns of Parquet files that hold images, or say where they are."""

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retinue_client._errors import ImageError
from retinue_client._score.sources.columns import Columns
from retinue_client._score.sources.entry import Entry, Stopped, printable
from retinue_client._score.sources.lines import unreadable
from retinue_client._score.sources.tree import Tree
from retinue_client._score.sources.values import Values

# Rows in memory at once: of images few, for each may have megabytes.
_ROWS_OF_PATHS = 4096
_ROWS_OF_IMAGES = 16
_BUFFER_BYTES = 1 << 20


class ParquetContainer:
    """Parquet files, a row of which is an image: its path, its bytes, or Hugging Face's struct of both.

    Args:
        columns: Which columns are read.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def entries(self, tree: Tree, path: str, begin: Any) -> Iterator[Entry]:
        """See `Container`. A cursor is the number of rows up to the entry.

        Raises:
            SourceError: The columns are not there.
        """
        try:
            with tree.open(path) as file, pq.ParquetFile(file, buffer_size=_BUFFER_BYTES) as table:
                yield from self._rows(table, tree, path, 0 if begin is None else int(begin))
        except (OSError, pa.ArrowException) as exc:
            yield unreadable(path, exc)

    def count(self, tree: Tree, path: str, stopped: Stopped) -> int | None:
        """See `Container`. The end of a file says it."""
        del stopped
        try:
            with tree.open(path) as file:
                rows: int = pq.ParquetFile(file).metadata.num_rows
                return rows
        except (OSError, pa.ArrowException):
            return 1

    def _rows(self, table: Any, tree: Tree, path: str, begin: int) -> Iterator[Entry]:
        schema = table.schema_arrow
        image = self._columns.image_among(schema.names, path)
        kind = schema.field(image).type
        is_path = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        wanted = list(dict.fromkeys([image, *([self._columns.key] if self._columns.key else [])]))
        groups, number = _groups_after(table.metadata, max(0, begin - 1))
        values = Values(tree, os.path.dirname(path), urls=self._columns.urls)
        rows_at_once = _ROWS_OF_PATHS if is_path else _ROWS_OF_IMAGES
        for batch in table.iter_batches(rows_at_once, row_groups=groups, columns=wanted, use_threads=False):
            images = batch.column(image)
            keys = batch.column(self._columns.key) if self._columns.key else None
            for row in range(batch.num_rows):
                number += 1
                if number >= begin:
                    where = f"{printable(path)}#{number}"
                    try:
                        key = None if keys is None else keys[row].as_py()
                        value = images[row].as_py()
                    except (ValueError, OverflowError, pa.ArrowException) as exc:
                        yield _unusable(where, number, exc)
                    else:
                        yield values.entry(value, key, where, number)


def _unusable(where: str, number: int, exc: Exception) -> Entry:
    """The entry of a row whose value is none of its column's type, such as text that is no UTF-8."""
    message = f"The row cannot be read: {exc}."
    return Entry(where, number, 0, ImageError(message, source=where, reason="VALUE_INVALID"))


def _groups_after(metadata: Any, after: int) -> tuple[list[int], int]:
    """The row groups that have rows after so many, and how many rows are in those before them."""
    rows = 0
    for group in range(metadata.num_row_groups):
        in_group = metadata.row_group(group).num_rows
        if rows + in_group > after:
            return list(range(group, metadata.num_row_groups)), rows
        rows += in_group
    return [], rows
