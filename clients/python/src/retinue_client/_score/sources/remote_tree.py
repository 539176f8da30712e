"""A folder behind a URL, as fsspec and the library of its protocol read it."""

import errno
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from retinue_client._errors import ImageError
from retinue_client._images import MAX_FILE_BYTES, file_error, read_stream
from retinue_client._score.errors import SourceError
from retinue_client._score.sources.tree import Item

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")


def is_url(text: str) -> bool:
    """Whether it names something by a protocol rather than by a path."""
    return _URL.match(text) is not None


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
                f"{url!r} is a URL, which needs another library: pip install 'retinue-client[fsspec]'."
            ) from exc
        try:
            self._files, self._root = url_to_fs(url, use_listings_cache=False)
        except Exception as exc:  # whatever the storage's own library raises; ftp:// connects here
            raise SourceError(f"{url!r} cannot be opened: {exc}") from exc

    def items(self, folder: str) -> Iterator[Item]:
        """See `Tree`."""
        try:
            listed = self._files.ls(self._path(folder), detail=True)
        except Exception as exc:  # whatever the storage's own library raises
            raise _as_os_error(exc) from exc
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
            raise file_error(_as_os_error(exc), path) from exc
        if found["type"] != "file":
            raise ImageError("It is no regular file.", source=path, reason="FILE_NOT_REGULAR")
        return _size_of(found) or 0

    def read(self, path: str) -> bytes:
        """See `Tree`."""
        try:
            # Without read-ahead: it is read as a whole.
            with self._files.open(self._path(path), "rb", cache_type="none") as file:
                size_bytes = getattr(file, "size", None)
                if isinstance(size_bytes, int) and size_bytes <= MAX_FILE_BYTES:
                    return bytes(file.read())
                return read_stream(file, path)
        except ImageError:
            raise
        except Exception as exc:  # whatever the storage's own library raises
            raise file_error(_as_os_error(exc), path) from exc

    def open(self, path: str) -> BinaryIO:
        """See `Tree`."""
        try:
            file: BinaryIO = self._files.open(self._path(path), "rb")
        except Exception as exc:  # whatever the storage's own library raises
            raise _as_os_error(exc) from exc
        return file

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else self._root


def _size_of(entry: dict[str, Any]) -> int | None:
    size_bytes = entry.get("size")
    return size_bytes if isinstance(size_bytes, int) else None


def _as_os_error(exc: Exception) -> OSError:
    """The exception as the operating system would have it; fsspec's often lack the number."""
    for kind, number in ((FileNotFoundError, errno.ENOENT), (PermissionError, errno.EACCES)):
        if isinstance(exc, kind) and exc.errno is None:
            return OSError(number, os.strerror(number))
    return exc if isinstance(exc, OSError) else OSError(None, f"{type(exc).__name__}: {exc}")
