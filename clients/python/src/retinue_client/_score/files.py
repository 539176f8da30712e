"""The images of a folder, in order, without holding their list in memory."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retinue_client._errors import ImageError
from retinue_client._images import file_error

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to score.

    Attributes:
        path: Relative to the folder, with forward slashes; a folder that cannot be read ends in one.
        size_bytes: Its size, 0 where it is unknown.
        error: Why it cannot even be tried, or None.
    """

    path: str
    size_bytes: int
    error: ImageError | None = None


def walk(folder: Path, *, all_files: bool, leave_out: frozenset[Path]) -> Iterator[Entry]:
    """The images under a folder, sorted by path, folder by folder (as `sorted` sorts `pathlib.Path`).

    Links to files are followed, links to folders are not, so that the walk ends. What is no regular file, and a folder
    that cannot be listed, come as entries with an error: nothing that looks like an image is passed over in silence.

    Args:
        folder: Where to begin.
        all_files: Take files whatever they are called, not only those with the suffix of an image format.
        leave_out: Files to pass over.

    Raises:
        OSError: The folder itself cannot be listed.
    """
    waiting = [_sorted_entries(folder)]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            continue
        relative = Path(entry.path).relative_to(folder).as_posix()
        if entry.is_dir(follow_symlinks=False):
            try:
                waiting.append(_sorted_entries(Path(entry.path)))
            except OSError as exc:
                message = f"The folder cannot be listed: {exc.strerror or exc}."
                error = ImageError(message, source=relative + "/", reason="FOLDER_UNREADABLE")
                yield Entry(relative + "/", 0, error)
        elif _is_wanted(entry, all_files) and Path(entry.path) not in leave_out:
            yield _file_entry(entry, relative)


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


def printable(path: str) -> str:
    """The path with bytes that are no UTF-8, which a file system may have, written as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _sorted_entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def _is_wanted(entry: "os.DirEntry[str]", all_files: bool) -> bool:
    return all_files or os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES


def _file_entry(entry: "os.DirEntry[str]", relative: str) -> Entry:
    try:
        status = entry.stat()
    except OSError as exc:
        return Entry(relative, 0, file_error(exc, relative))
    if not stat.S_ISREG(status.st_mode):
        error = ImageError("It is no regular file.", source=relative, reason="FILE_NOT_REGULAR")
        return Entry(relative, 0, error)
    return Entry(relative, status.st_size)
