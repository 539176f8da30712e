"""The stream of rows, cut into parts that are there as a whole or not at all."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from retinue_client._score.disk import Disk
from retinue_client._score.journal import Journal, PartRecord
from retinue_client._score.outputs.output import Output, RowWriter
from retinue_client._score.rows import Row


class PartWriter:
    """One part: written aside, then given its name.

    Args:
        disk: The results' folder.
        output: The form of the results.
        part: Its number.
        first_row: How many rows the parts before it have.

    Attributes:
        rows: How many rows it has so far.

    Raises:
        OSError: It cannot be begun.
    """

    def __init__(self, disk: Disk, output: Output, part: int, first_row: int) -> None:
        self._disk = disk
        self._output = output
        self._part = part
        self._reasons: Counter[str] = Counter()
        self._writer: RowWriter = output.open(disk, part, first_row)
        self.rows = 0

    def write(self, rows: list[Row]) -> None:
        """Adds rows.

        Raises:
            OSError: They cannot be written.
        """
        self._writer.write(rows)
        self.rows += len(rows)
        self._reasons.update(row["error_reason"] for row in rows if row.get("error_reason") is not None)

    def keep(self, cursor: Any, state: Any = None) -> PartRecord:
        """Ends the part and gives it its name; what is left is to note it in the journal.

        Args:
            cursor: After which entry of the source the next one begins.
            state: What the job's summary keeps over a restart.

        Raises:
            OSError: It does not fit on the disk, or cannot be written.
        """
        record = self.seal(cursor, state)
        self._output.keep(self._disk, self._part)
        return record

    def seal(self, cursor: Any, state: Any = None) -> PartRecord:
        """Ends the part and leaves it aside, for another process to give it its name; as `keep` otherwise."""
        self._writer.end()
        name = self._output.file_of(self._part)
        aside = self._disk.aside(name).relative_to(self._disk.root).as_posix()
        return PartRecord(
            part=self._part,
            file=name,
            rows=self.rows,
            size_bytes=self._disk.size_bytes(aside) or 0,
            sha256=self._disk.sha256(aside),
            cursor=cursor,
            reasons=dict(sorted(self._reasons.items())),
            state=state,
        )

    def drop(self) -> None:
        """Gives the part up; what was written of it stays aside until the next run removes it."""
        self._writer.drop()


class RowTaker(Protocol):
    """Takes the rows of a job in order: `Parts`, or one part of them."""

    def room(self) -> int:
        """How many rows may be written at once."""

    def write(self, rows: list[Row], cursor: Any) -> None:
        """Adds rows; `cursor` is that of the last of them."""

    def keep(self) -> None:
        """Ends what is open and keeps it."""

    def drop(self) -> None:
        """Gives up what is open, if anything is."""


class Parts:
    """Rows in order, in parts of `rows_a_part` each, but the last.

    Args:
        disk: The results' folder.
        output: The form of the results.
        journal: Where each part is noted that is whole.
        rows_a_part: How many rows a part has.
        state: Says what the job's summary keeps over a restart, whenever a part is whole.
    """

    def __init__(
        self,
        disk: Disk,
        output: Output,
        journal: Journal,
        rows_a_part: int,
        state: Callable[[], Any],
    ) -> None:
        self._disk = disk
        self._output = output
        self._journal = journal
        self._rows_a_part = rows_a_part
        self._state = state
        self._open: PartWriter | None = None
        self._cursor: Any = None

    def room(self) -> int:
        """How many rows the part that is open takes yet: no more may be written at once."""
        return self._rows_a_part - (0 if self._open is None else self._open.rows)

    def write(self, rows: list[Row], cursor: Any) -> None:
        """Adds rows, of which there is room for.

        Args:
            rows: At least one.
            cursor: Of the last of them.

        Raises:
            OSError: They cannot be written.
        """
        if self._open is None:
            self._open = PartWriter(self._disk, self._output, self._journal.parts, self._journal.rows)
        self._open.write(rows)
        self._cursor = cursor

    def keep(self) -> None:
        """Ends the part that is open, if one is, gives it its name and notes it in the journal.

        Raises:
            OSError: It cannot be written.
        """
        if self._open is not None:
            self._journal.add(self._open.keep(self._cursor, self._state()))
            self._open = None

    def drop(self) -> None:
        """Gives up the part that is open, if one is."""
        if self._open is not None:
            self._open.drop()
            self._open = None
