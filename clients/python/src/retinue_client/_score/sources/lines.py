"""Lines of a bounded length, and lists of paths, one a line."""

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from retinue_client._errors import ImageError
from retinue_client._score.sources.entry import ENDED, Entry, Stopped, number_of, printable
from retinue_client._score.sources.tree import LocalTree, Tree
from retinue_client._score.sources.values import Values

_MOST_LINE_BYTES = 1 << 20
_READ_BYTES = 1 << 16


class LineTooLong(Exception):
    """A line of more bytes than are read; those after it can be."""


def bounded_lines(file: BinaryIO, end: bytes = b"\n") -> Iterator[bytes | LineTooLong]:
    """The lines of a file without their ends; in the place of one that is too long there is a `LineTooLong`."""
    begun, too_long = bytearray(), False
    while block := file.read(_READ_BYTES):
        first, *others = block.split(end)
        begun += first
        for other in others:
            yield LineTooLong() if too_long or len(begun) > _MOST_LINE_BYTES else bytes(begun)
            begun, too_long = bytearray(other), False
        if len(begun) > _MOST_LINE_BYTES:
            begun, too_long = bytearray(), True
    if too_long or begun:
        yield LineTooLong() if too_long else bytes(begun)


def entries_in(
    tree: Tree, path: str, read: Callable[[BinaryIO, Values], Iterator[Entry]], *, urls: bool
) -> Iterator[Entry]:
    """What is read of a list's file, or the one entry that says why it cannot be opened.

    Args:
        tree: Where it is.
        path: There.
        read: Reads it, and what it names.
        urls: Whether that may be URLs.
    """
    try:
        file = tree.open(path)
    except OSError as exc:
        yield unreadable(path, exc)
        return
    with file:
        yield from read(file, Values(tree, os.path.dirname(path), urls=urls))


class PathLines:
    """Lists of paths, one a line; empty lines mean nothing.

    Args:
        urls: Whether lines may be URLs.
        end: What ends a line.
    """

    def __init__(self, *, urls: bool, end: bytes = b"\n") -> None:
        self._urls = urls
        self._end = end

    def entries(self, tree: Tree, path: str, begin: Any) -> Iterator[Entry]:
        """See `Container`. A cursor is the number of lines up to the entry."""
        return entries_in(
            tree, path, lambda file, values: self.entries_of(file, values, path, begin), urls=self._urls
        )

    def entries_of(self, file: BinaryIO, values: Values, name: str, begin: Any) -> Iterator[Entry]:
        """The same of a file that is open and may be a pipe."""
        number = 0
        try:
            for line in bounded_lines(file, self._end):
                number += 1
                if begin is not None and number < begin:
                    continue
                where = f"{printable(name)}#{number}"
                if isinstance(line, LineTooLong):
                    yield Entry(where, number, 0, too_long(where))
                elif path := os.fsdecode(line.removesuffix(b"\r") if self._end == b"\n" else line):
                    yield values.entry(path, None, where, number)
        except OSError as exc:
            yield unreadable(name, exc)

    def count(self, tree: Tree, path: str, stopped: Stopped) -> int | None:
        """See `Container`."""
        if not isinstance(tree, LocalTree):
            return None
        try:
            with tree.open(path) as file:
                lines = bounded_lines(file, self._end)
                return number_of((line for line in lines if line not in (b"", b"\r")), stopped)
        except OSError:
            return 1


def too_long(where: str) -> ImageError:
    """Why a line has no image."""
    message = f"The line has more than {_MOST_LINE_BYTES >> 20} MiB."
    return ImageError(message, source=where, reason="LINE_TOO_LONG")


def unreadable(path: str, exc: Exception) -> Entry:
    """The entry in which a file ends that cannot be read on."""
    key = printable(path) or "-"
    what = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    message = f"The file cannot be read on: {what}."
    return Entry(key, ENDED, 0, ImageError(message, source=key, reason="SOURCE_UNREADABLE"))


class TextLines:
    """The lines of a text with their ends, as `csv` reads them. It can be asked on after it has raised.

    Raises:
        LineTooLong: A line is too long; those after it can be read.
        OSError: The file cannot be read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = bounded_lines(file)
        self._first = True

    def __iter__(self) -> "TextLines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if isinstance(line, LineTooLong):
            raise line
        # Paths may be no UTF-8; what Windows writes begins with a mark.
        text = os.fsdecode(line)
        if self._first:
            text, self._first = text.removeprefix("\ufeff"), False
        return text + "\n"
