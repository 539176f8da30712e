"""Images that come through a pipe: a list of them, or a tar file."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from retinue_client._score.sources.entry import ENDED, Entry


class StandardInput:
    """What is read once, from its beginning.

    A job that goes on must be given the same again: what it has done of it is read and passed over.

    Args:
        file: What is read.
        read: Makes entries of the file after a cursor.
    """

    name = "-"

    def __init__(self, file: BinaryIO, read: Callable[[BinaryIO, Any], Iterator[Entry]]) -> None:
        self._file = file
        self._read = read

    def entries(self, after: Any) -> Iterator[Entry]:
        """See `Source`; may be called once."""
        return iter(()) if after == ENDED else self._read(self._file, after)

    def count(self) -> int | None:
        """See `Source`."""
        return None
