"""The folder that a job writes into, in steps each of which either has happened after a loss of power or has not."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

ASIDE = "_tmp"
_SYNCS_AT_ONCE = 16


class Disk:
    """A folder whose files appear whole or not at all.

    A file is written aside, in `_tmp`, brought to the disk, and then given its name. Names are relative to the folder.

    Args:
        root: The folder.
        aside: Where files are written aside: in `_tmp`, or for one of several writers a folder of its own in there.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path, aside: str = ASIDE) -> None:
        self.root = root
        self._aside = aside

    def create(self, name: str) -> BinaryIO:
        """A new file that is written aside, to be kept with `keep`.

        Raises:
            OSError: It cannot be created.
        """
        path = self.aside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")

    def aside(self, name: str) -> Path:
        """Where a file is until it is kept."""
        return self.root / self._aside / name

    def sync(self, file: BinaryIO) -> None:
        """Brings what was written to a file to the disk, and closes it.

        Raises:
            OSError: It does not fit there, or cannot be written.
        """
        with file:
            file.flush()
            os.fsync(file.fileno())

    def sync_all(self, names: Sequence[str]) -> None:
        """Brings files that were written aside and closed to the disk, many at once, which costs little more than one.

        Raises:
            OSError: They do not fit there, or cannot be written.
        """
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as threads:
            for _ in threads.map(_sync_path, map(self.aside, names)):
                pass

    def keep(self, name: str) -> None:
        """Gives a file, or a folder, that was written aside its name, in place of what had it.

        Raises:
            OSError: It cannot be renamed.
        """
        path = self.root / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            sync_folder(path.parent.parent)
        if path.is_dir():
            shutil.rmtree(path)
        if self.aside(name).is_dir():
            sync_folder(self.aside(name))
        self.aside(name).replace(path)
        sync_folder(path.parent)

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file.

        Raises:
            OSError: It does not fit on the disk, or cannot be written.
        """
        file = self.create(name)
        try:
            file.write(content)
        except OSError:
            file.close()
            raise
        self.sync(file)
        self.keep(name)

    def append(self, name: str, line: bytes) -> None:
        """Adds a line to a file, which is made if it is not there, and brings it to the disk.

        Raises:
            OSError: It cannot be written; a part of the line may be there then.
        """
        path = self.root / name
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)

    def cut(self, name: str, size_bytes: int) -> None:
        """Shortens a file.

        Raises:
            OSError: It cannot be written.
        """
        with (self.root / name).open("r+b") as file:
            file.truncate(size_bytes)
            os.fsync(file.fileno())

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it, if it is there.

        Raises:
            OSError: It cannot be removed.
        """
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def names(self, folder: str = "") -> Iterator[str]:
        """The names of the files and folders in a folder, without its own; none where it is not there."""
        path = self.root / folder
        if path.is_dir():
            with os.scandir(path) as entries:
                yield from (entry.name for entry in entries)

    def size_bytes(self, name: str) -> int | None:
        """The size of a file, or None where it is not there."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file, 64 lower-case hexadecimal digits."""
        with (self.root / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_path(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk.

    Raises:
        OSError: The disk has failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
