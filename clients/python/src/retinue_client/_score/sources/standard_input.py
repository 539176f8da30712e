"""Images that come through a pipe: a list of them, or a tar file."""

import io
import os
import select
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from retinue_client._score.sources.entry import ENDED, Entry, Stopped, after_first, mark_of, never

_LOOK_SECONDS = 0.2


class Pipe(io.RawIOBase):
    """What comes through a descriptor. A read that waits for it ends when it is closed, in whatever thread.

    Args:
        descriptor: Where to read; it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """What is there, at most so much, as soon as there is anything; nothing at the end."""
        while not select.select([self._descriptor], [], [], _LOOK_SECONDS)[0]:
            if self._ended:
                return b""
        return os.read(self._descriptor, size)

    def close(self) -> None:
        """Has reads return that wait."""
        self._ended = True
        super().close()


class StandardInput:
    """What is read once, from its beginning.

    A job that goes on must be given the same again: what it has done of it is read and passed over.

    Args:
        file: What is read.
        read: Makes entries of the file from a cursor on.
    """

    name = "-"

    def __init__(self, file: BinaryIO, read: Callable[[BinaryIO, Any], Iterator[Entry]]) -> None:
        self._file = file
        self._read = read

    def entries(self, after: Any) -> Iterator[Entry]:
        """See `Source`; may be called once. A cursor is that in the file, and the entry's mark."""
        if after is None:
            return self._marked(None)
        return iter(()) if after[0] == ENDED else after_first(self._marked(after[0]), after, "Standard input")

    def count(self, stopped: Stopped = never) -> int | None:
        """See `Source`."""
        del stopped
        return None

    def close(self) -> None:
        """Ends a read that waits for more, so that a job can end whose pipe is silent."""
        self._file.close()

    def _marked(self, begin: Any) -> Iterator[Entry]:
        for entry in self._read(self._file, begin):
            yield Entry(entry.key, [entry.cursor, mark_of(entry.key)], entry.size_bytes, entry.content)
