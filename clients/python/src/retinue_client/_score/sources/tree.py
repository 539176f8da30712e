"""A folder and all that is under it, on this machine."""

import heapq
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from retinue_client._errors import ImageError
from retinue_client._images import file_error, read_file

# Names of one folder that are sorted in memory; more are sorted in runs of so many, through files.
_NAMES_IN_MEMORY = 100_000


@dataclass(frozen=True, slots=True)
class Item:
    """What has a name in a folder.

    Attributes:
        name: Its name, without its folder's.
        is_folder: Whether it is a folder that is to be entered.
        size_bytes: Of a file; None where it is not known yet.
    """

    name: str
    is_folder: bool
    size_bytes: int | None = None


class Tree(Protocol):
    """A folder and what is under it. Paths in it are relative to it, with forward slashes; "" is the folder itself."""

    def items(self, folder: str) -> Iterator[Item]:
        """What is in a folder, sorted by name.

        Raises:
            OSError: It cannot be listed.
        """

    def size_bytes(self, path: str) -> int:
        """The size of a file.

        Raises:
            ImageError: There is none, or it is no regular file.
        """

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            ImageError: It cannot be read, or has too many.
        """

    def open(self, path: str) -> BinaryIO:
        """A file to be read from its beginning.

        Raises:
            OSError: It cannot be opened.
        """


class LocalTree:
    """A folder of this machine.

    Links to files are followed, links to folders are not entered, so that a walk ends.

    Args:
        root: The folder.
        leave_out: Files and folders under it that are taken for not being there, relative to it.
    """

    def __init__(self, root: Path, leave_out: frozenset[str] = frozenset()) -> None:
        self._root = root
        self._leave_out = leave_out

    def items(self, folder: str) -> Iterator[Item]:
        """See `Tree`."""
        prefix = f"{folder}/" if folder else ""
        names = _sorted_names(self._root / folder)
        return (
            Item(name, is_folder) for name, is_folder in names if f"{prefix}{name}" not in self._leave_out
        )

    def size_bytes(self, path: str) -> int:
        """See `Tree`."""
        try:
            status = (self._root / path).stat()
        except (OSError, ValueError) as exc:
            raise file_error(exc, path) from exc
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("It is no regular file.", source=path, reason="FILE_NOT_REGULAR")
        return status.st_size

    def read(self, path: str) -> bytes:
        """See `Tree`."""
        return read_file(self._root / path)

    def open(self, path: str) -> BinaryIO:
        """See `Tree`."""
        return (self._root / path).open("rb")


def _sorted_names(folder: Path) -> Iterator[tuple[str, bool]]:
    """The names in a folder, sorted, and which are of folders; of any number of them in bounded memory."""
    runs = ExitStack()
    files = []
    names: list[tuple[str, bool]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(names) == _NAMES_IN_MEMORY:
                file = runs.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))  # noqa: SIM115 (it is)
                file.writelines(map(_name_line, sorted(names)))
                files.append(file)
                names.clear()
            names.append((entry.name, entry.is_dir(follow_symlinks=False)))
    names.sort()
    if not files:
        return iter(names)
    return _merged(runs, [*map(_names_of, files), iter(names)])


def _merged(runs: ExitStack, parts: list[Iterator[tuple[str, bool]]]) -> Iterator[tuple[str, bool]]:
    with runs:
        yield from heapq.merge(*parts)


def _name_line(name: tuple[str, bool]) -> str:
    return json.dumps(name) + "\n"


def _names_of(file: TextIO) -> Iterator[tuple[str, bool]]:
    file.seek(0)
    for line in file:
        name, is_folder = json.loads(line)
        yield name, is_folder
