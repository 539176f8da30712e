"""What a form of results is."""

from collections.abc import Iterable
from typing import Protocol

from retinue_client._models import ModelInfo
from retinue_client._score.disk import Disk
from retinue_client._score.rows import Row


class RowWriter(Protocol):
    """The rows of one part on their way into a file that is written aside."""

    def write(self, rows: list[Row]) -> None:
        """Adds rows.

        Raises:
            OSError: They cannot be written.
        """

    def end(self) -> None:
        """Brings all rows to the disk.

        Raises:
            OSError: They do not fit there.
        """

    def drop(self) -> None:
        """Closes what is open; what was written stays aside."""


class Output(Protocol):
    """A form of results."""

    def file_of(self, part: int) -> str:
        """The name of a part's file."""

    def open(self, disk: Disk, part: int, first_row: int) -> RowWriter:
        """Begins to write a part aside.

        Args:
            disk: The results' folder.
            part: Its number.
            first_row: How many rows the parts before it have.

        Raises:
            OSError: No file can be made.
        """

    def keep(self, disk: Disk, part: int) -> None:
        """Gives a part that was ended its name.

        Raises:
            OSError: It cannot be renamed.
        """

    def finish(self, disk: Disk, parts: Iterable[str], model: ModelInfo) -> None:
        """Makes of all parts what the form has besides; done twice, it makes the same.

        Raises:
            OSError: It cannot be written.
        """
