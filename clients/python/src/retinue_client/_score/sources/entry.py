"""What a source yields."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from retinue_client._errors import ImageError
from retinue_client._score.errors import SourceError

# The cursor in a file that cannot be read on.
ENDED = "ended"
# Of a file whose size is not known before it is read.
ASSUMED_BYTES = 1 << 20


Stopped = Callable[[], bool]
"""Says whether nobody wants to know any more."""


def never() -> bool:
    """Says that somebody does."""
    return False


def number_of(items: Iterable[object], stopped: Stopped) -> int | None:
    """How many there are, or None where it is stopped meanwhile."""
    number = 0
    for _ in items:
        number += 1
        if stopped():
            return None
    return number


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to score.

    Attributes:
        key: What it is called in the results. Bytes that are no text are escaped.
        cursor: Where the source goes on after it: a value that JSON knows.
        size_bytes: Its size, an estimate where it is not known, 0 where there is nothing to read.
        content: The image file, or what reads it, or why it cannot even be tried.
    """

    key: str
    cursor: Any
    size_bytes: int
    content: bytes | Callable[[], bytes] | ImageError

    def read(self) -> bytes:
        """The image file.

        Raises:
            ImageError: It cannot be read, or is too large.
        """
        if isinstance(self.content, ImageError):
            raise self.content
        return self.content if isinstance(self.content, bytes) else self.content()


class Source(Protocol):
    """Where images come from.

    Attributes:
        name: As it stands in the journal: what was given, without what depends on where the job is started.
    """

    name: str

    def entries(self, after: Any) -> Iterator[Entry]:
        """The entries after the one with this cursor, or all of them for None.

        Raises:
            SourceError: It cannot be read at all.
            OSError: Likewise.
        """

    def count(self, stopped: Stopped = never) -> int | None:
        """How many there are, or None where that would take reading all of them, or is stopped meanwhile."""


def printable(path: str) -> str:
    """The text with what is no text written as escapes: bytes of a file system, or halves of characters in JSON."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


def mark_of(key: str) -> str:
    """What tells an entry from another one at the same place later on, without repeating what it is called."""
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def after_first(found: Iterator[Entry], cursor: Any, name: str) -> Iterator[Entry]:
    """The entries after the first, which must be the one with this cursor; its last value is the entry's mark.

    Args:
        found: What is found from the cursor on. A file that cannot be read to there any more ends in an entry that says
            so, as anywhere else.
        cursor: The cursor.
        name: Of the source.

    Raises:
        SourceError: Another entry is there now.
    """
    first = next(found, None)
    if first is not None and first.cursor[-2] == ENDED:
        yield first
    elif first is None or first.cursor != cursor:
        raise SourceError(
            f"{name} has changed: at the place at which the job goes on there is another image now. Give the source as "
            "it was, or name another folder, or --overwrite the results."
        )
    yield from found


def in_requests(
    entries: Iterator[Entry], max_images: Callable[[], int], max_bytes: int
) -> Iterator[list[Entry]]:
    """The entries in runs of at most so many images, asked anew each time, and, beyond the first, so many bytes."""
    run: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        if run and (len(run) >= max_images() or size_bytes + entry.size_bytes > max_bytes):
            yield run
            run, size_bytes = [], 0
        run.append(entry)
        size_bytes += entry.size_bytes
    if run:
        yield run
