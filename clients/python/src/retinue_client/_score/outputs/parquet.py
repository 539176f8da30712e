"""Rows as Parquet: one file a part."""

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from retinue_client._models import ModelInfo, Task
from retinue_client._score.disk import Disk
from retinue_client._score.rows import Row, schema_of, weight_of

# What is held in memory before it is written as one row group.
_GROUP_ROWS = 4096
_GROUP_BYTES = 32 << 20
# What is held as Python's objects, which take ten times the memory, before Arrow has it.
_BATCH_ROWS = 256


class ParquetOutput:
    """Parts as Parquet files of the task's exact schema.

    Args:
        task: What the rows answer.
        metadata: Facts of the job that each file names.
    """

    def __init__(self, task: Task, metadata: dict[str, str]) -> None:
        self._schema = schema_of(task, metadata)

    def file_of(self, part: int) -> str:
        """See `Output`."""
        return f"part-{part:06}.parquet"

    def open(self, disk: Disk, part: int, first_row: int) -> "ParquetWriter":
        """See `Output`."""
        del first_row
        return ParquetWriter(disk, disk.create(self.file_of(part)), self._schema)

    def keep(self, disk: Disk, part: int) -> None:
        """See `Output`."""
        disk.keep(self.file_of(part))

    def finish(self, disk: Disk, parts: Iterable[str], model: ModelInfo) -> None:
        """There is nothing besides: the folder of parts is the data set."""


class ParquetWriter:
    """A Parquet file that is being written, in groups of rows, so that their number does not matter to the memory."""

    def __init__(self, disk: Disk, file: BinaryIO, schema: pa.Schema) -> None:
        self._disk = disk
        self._file = file
        self._schema = schema
        self._rows: list[Row] = []
        # The group's rows before these.
        self._batches: list[pa.RecordBatch] = []
        self._group_rows = 0
        self._group_bytes = 0
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def write(self, rows: list[Row]) -> None:
        """See `RowWriter`. Groups end by what is in the rows alone, so that the same rows make the same file."""
        for row in rows:
            self._rows.append(row)
            self._group_rows += 1
            self._group_bytes += weight_of(row)
            if self._group_rows >= _GROUP_ROWS or self._group_bytes >= _GROUP_BYTES:
                self._write_group()
            elif len(self._rows) >= _BATCH_ROWS:
                self._pack()

    def end(self) -> None:
        """See `RowWriter`."""
        self._write_group()
        self._writer.close()
        self._disk.sync(self._file)

    def drop(self) -> None:
        """See `RowWriter`."""
        # Else the writer would try once more to end its file when it is collected.
        self._writer.is_open = False
        self._file.close()

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _write_group(self) -> None:
        if self._group_rows:
            self._pack()
            self._writer.write_table(pa.Table.from_batches(self._batches).combine_chunks())
            self._batches, self._group_rows, self._group_bytes = [], 0, 0
