"""A folder behind a URL, as fsspec and the library of its protocol read it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO

from retinue_client._errors import ImageError
from retinue_client._images import file_error, read_stream
from retinue_client._score.errors import SourceError
from retinue_client._score.sources.tree import Item
from retinue_client._urls import as_os_error, open_in, without_secrets

# A file takes no longer to read, or is an error.
READ_SECONDS = 120.0


def in_time(read: Callable[[], bytes], name: str) -> bytes:
    """What it reads from elsewhere, unless that takes too long; then it is left to itself.

    Raises:
        ImageError: It cannot be read, or not in time.
    """
    outcome: Future[bytes] = Future()
    thread = threading.Thread(target=_settle, args=(outcome, read), name="reading a URL", daemon=True)
    thread.start()
    try:
        return outcome.result(READ_SECONDS)
    except TimeoutError as exc:
        message = f"The file did not come within {READ_SECONDS:g} s."
        raise ImageError(message, source=name, reason="FILE_UNREADABLE") from exc


def _settle(outcome: "Future[bytes]", read: Callable[[], bytes]) -> None:
    try:
        outcome.set_result(read())
    except BaseException as exc:
        outcome.set_exception(exc)


class RemoteTree:
    """A folder behind a URL: s3://, gs://, az://, https://, memory:// and what else fsspec knows.

    The listing of one folder is in memory as a whole, since fsspec gives it so.

    Args:
        url: Of the folder.

    Raises:
        SourceError: No library here speaks the protocol, or it does not take the URL.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 (an extra, needed for URLs only)
        except ModuleNotFoundError as exc:
            raise SourceError(
                f"{without_secrets(url)!r} is a URL, which needs another library: pip install 'retinue-client[fsspec]'."
            ) from exc
        try:
            self._files, self._root = url_to_fs(url, use_listings_cache=False)
        except Exception as exc:  # whatever the storage's own library raises; ftp:// connects here
            raise SourceError(f"{without_secrets(url)!r} cannot be opened: {as_os_error(exc)}") from exc

    def items(self, folder: str) -> Iterator[Item]:
        """See `Tree`."""
        try:
            listed = self._files.ls(self._path(folder), detail=True)
        except Exception as exc:  # whatever the storage's own library raises
            raise as_os_error(exc) from exc
        own = self._path(folder).strip("/")
        items = [
            Item(name, entry["type"] == "directory", _size_of(entry))
            for entry in listed
            # A store without folders lists the empty object that stands for this one.
            if entry["name"].strip("/") != own and (name := entry["name"].rstrip("/").rpartition("/")[2])
        ]
        return iter(sorted(items, key=lambda item: item.name))

    def size_bytes(self, path: str) -> int:
        """See `Tree`."""
        try:
            found = self._files.info(self._path(path))
        except Exception as exc:  # whatever the storage's own library raises
            raise file_error(as_os_error(exc), path) from exc
        if found["type"] != "file":
            raise ImageError("It is no regular file.", source=path, reason="FILE_NOT_REGULAR")
        return _size_of(found) or 0

    def read(self, path: str) -> bytes:
        """See `Tree`."""
        return in_time(partial(self._read, path), path)

    def _read(self, path: str) -> bytes:
        try:
            with open_in(self._files, self._path(path)) as file:
                return read_stream(file, path)
        except ImageError:
            raise
        except Exception as exc:  # whatever the storage's own library raises
            raise file_error(as_os_error(exc), path) from exc

    def open(self, path: str) -> BinaryIO:
        """See `Tree`."""
        try:
            file: BinaryIO = self._files.open(self._path(path), "rb")
        except Exception as exc:  # whatever the storage's own library raises
            raise as_os_error(exc) from exc
        return file

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else self._root


def _size_of(entry: dict[str, Any]) -> int | None:
    size_bytes = entry.get("size")
    return size_bytes if isinstance(size_bytes, int) else None
