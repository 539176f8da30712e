"""Columns of CSV and JSONL files that say where images are."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from retinue_client._errors import ImageError
from retinue_client._score.errors import SourceError
from retinue_client._score.sources.entry import Entry, Stopped, number_of, printable
from retinue_client._score.sources.lines import (
    LineTooLong,
    TextLines,
    bounded_lines,
    entries_in,
    too_long,
    unreadable,
)
from retinue_client._score.sources.tree import LocalTree, Tree
from retinue_client._score.sources.values import Values
from retinue_client._score.sources.walk import looks_like_image

# Under these names lists have their images, where nobody says otherwise.
_USUAL_COLUMNS = ("path", "image", "image_path", "file", "file_name", "filename", "filepath", "url", "uri")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are read.

    Attributes:
        image: That of the paths or bytes; None where there is no doubt.
        key: That of the rows' keys; None takes the paths.
        urls: Whether values may be URLs.
    """

    image: str | None = None
    key: str | None = None
    urls: bool = False

    def image_among(self, names: list[str], file: str) -> str:
        """The images' column among those that a file has.

        Raises:
            SourceError: There is none, or several might be; or the keys' is not there.
        """
        listed = ", ".join(names[:30])
        for wanted in (self.image, self.key):
            if wanted is not None and wanted not in names:
                raise SourceError(f"{file} has no column {wanted!r}; it has {listed}.")
        if self.image is not None:
            return self.image
        usual = [name for name in _USUAL_COLUMNS if name in names]
        if len(names) == 1 or usual:
            return names[0] if len(names) == 1 else usual[0]
        raise SourceError(f"Which column of {file} has the images? Name one with --column: {listed}.")


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a list.

    Attributes:
        number: Of the row, from 1.
        fields: What is in its columns, or why it cannot be read.
    """

    number: int
    fields: dict[str, Any] | ImageError


class Records(Protocol):
    """A format of lists."""

    def columns(self, file: BinaryIO, name: str) -> tuple[Iterator[Record], list[str]]:
        """The rows of a file, and the names of the columns."""


class ListContainer:
    """CSV or JSONL files, a row of which is an image.

    Args:
        records: The format.
        columns: Which columns are read.
    """

    def __init__(self, records: Records, columns: Columns) -> None:
        self._records = records
        self._columns = columns

    def entries(self, tree: Tree, path: str, begin: Any) -> Iterator[Entry]:
        """See `Container`. A cursor is the number of rows up to the entry."""
        return entries_in(
            tree,
            path,
            lambda file, values: self.entries_of(file, values, path, begin),
            urls=self._columns.urls,
        )

    def entries_of(self, file: BinaryIO, values: Values, name: str, begin: Any) -> Iterator[Entry]:
        """The same of a file that is open and may be a pipe.

        Raises:
            SourceError: The columns are not there.
        """
        number = 0
        try:
            records, names = self._records.columns(file, name)
            image = self._columns.image_among(names, name or "the standard input")
            for record in records:
                number = record.number
                if begin is not None and number < begin:
                    continue
                where = f"{printable(name)}#{number}"
                if isinstance(record.fields, ImageError):
                    yield Entry(where, number, 0, record.fields)
                else:
                    key = None if self._columns.key is None else record.fields.get(self._columns.key)
                    yield values.entry(record.fields.get(image), key, where, number)
        except OSError as exc:
            yield unreadable(name, exc)

    def count(self, tree: Tree, path: str, stopped: Stopped) -> int | None:
        """See `Container`."""
        if not isinstance(tree, LocalTree):
            return None
        try:
            with tree.open(path) as file:
                return number_of(self._records.columns(file, path)[0], stopped)
        except OSError:
            return 1


class CsvRecords:
    """CSV with a header, in UTF-8."""

    def columns(self, file: BinaryIO, name: str) -> tuple[Iterator[Record], list[str]]:
        """See `Records`."""
        lines = TextLines(file)
        reader = csv.reader(lines)
        try:
            names = next(reader, [])
        except (csv.Error, LineTooLong) as exc:
            raise SourceError(f"{name} has no header that can be read: {exc}.") from exc
        if len(names) == 1 and (looks_like_image(names[0]) or "/" in names[0]):
            raise SourceError(
                f"{name} has no header: its first line is {names[0]!r}, which is an image. Put a line above it that "
                "names the column, such as path, or read it as a list with --source-format paths."
            )
        return self._records(reader, names), names

    def _records(self, reader: "Iterator[list[str]]", names: list[str]) -> Iterator[Record]:
        number = 0
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except LineTooLong:
                number += 1
                yield Record(number, too_long(f"#{number}"))
            except csv.Error as exc:
                number += 1
                yield Record(number, ImageError(f"The row is no CSV: {exc}.", reason="ROW_INVALID"))
            else:
                if fields:
                    number += 1
                    yield Record(number, dict(zip(names, fields, strict=False)))


class JsonlRecords:
    """JSON objects, one a line; the columns are those of the first."""

    def columns(self, file: BinaryIO, name: str) -> tuple[Iterator[Record], list[str]]:
        """See `Records`."""
        records = self._records(file)
        first = next(records, None)
        if first is None:
            return iter(()), ["path"]
        if isinstance(first.fields, ImageError):
            raise SourceError(f"{name} begins with a line that is no JSON object.")
        return _with_first(first, records), list(first.fields)

    def _records(self, file: BinaryIO) -> Iterator[Record]:
        for number, line in enumerate(bounded_lines(file), 1):
            if isinstance(line, LineTooLong):
                yield Record(number, too_long(f"#{number}"))
            elif line.strip():
                yield Record(number, _object(line))


def _object(line: bytes) -> dict[str, Any] | ImageError:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as exc:
        return ImageError(f"The line is no JSON: {exc}.", reason="ROW_INVALID")
    return (
        value if isinstance(value, dict) else ImageError("The line is no JSON object.", reason="ROW_INVALID")
    )


def _with_first(first: Record, others: Iterator[Record]) -> Iterator[Record]:
    yield first
    yield from others
