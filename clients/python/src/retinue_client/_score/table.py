"""The Parquet file that is being written."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from retinue_client._score.rows import Row, weight_of

# What is held in memory before it is written as one row group.
_GROUP_ROWS = 4096
_GROUP_BYTES = 32 << 20


class Table:
    """A Parquet file that appears under its name only once it is whole.

    Until then it is NAME.partial beside it. Rows are written in groups, so that their number does not matter to the
    memory.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.partial_path = partial_path_of(path)
        self._schema = schema
        self._rows: list[Row] = []
        self._bytes = 0
        self._row_count = 0
        self._file: BinaryIO = self.partial_path.open("wb")
        self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")

    def append(self, rows: list[Row]) -> bool:
        """Adds rows; says whether there are so many that they should be flushed."""
        self._rows.extend(rows)
        self._row_count += len(rows)
        self._bytes += sum(map(weight_of, rows))
        return len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES

    def flush(self) -> None:
        """Writes the rows that are in memory as one row group.

        Raises:
            OSError: They cannot be written.
        """
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._bytes = [], 0

    def commit(self) -> None:
        """Ends the file and gives it its name.

        Raises:
            OSError: It cannot be written.
        """
        if self._row_count == 0:
            raise ValueError("A table without rows is not committed.")
        self.leave()
        self.partial_path.replace(self.path)

    def leave(self) -> None:
        """Ends the file under its partial name, where the rows so far can be read. Without rows there is no file.

        Raises:
            OSError: It cannot be written.
        """
        if self._row_count == 0:
            self.discard()
            return
        try:
            self.flush()
            self._writer.close()
            self._file.flush()
            # A name must not survive a loss of power that its bytes do not.
            os.fsync(self._file.fileno())
        finally:
            self._close()

    def discard(self) -> None:
        """Removes what was written."""
        self._close()
        self.partial_path.unlink(missing_ok=True)

    def _close(self) -> None:
        # Else the writer would try once more to end its file when it is collected.
        self._writer.is_open = False
        with suppress(OSError):
            self._file.close()


def partial_path_of(path: Path) -> Path:
    """Where a table is until it is whole."""
    return path.with_name(path.name + ".partial")
