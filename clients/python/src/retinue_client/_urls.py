"""Files that lie elsewhere, such as at https:// or s3://, opened with fsspec as those of this machine are."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeGuard

from retinue_client._channel import deadline_seconds
from retinue_client._deadline import remaining_seconds
from retinue_client._errors import ImageError

# Several kinds in a row are fsspec's way to say, for example, that a file is kept here once it was read.
_URL = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://")
_USER = re.compile(r"://[^/?#\s]*@")
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_QUERY_IN_TEXT = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\"]*")
_FORBIDDEN = (401, 403)
_LONGEST_REASON = 200


def is_url(source: object) -> TypeGuard[str]:
    """Whether this is text that begins as a URL does. A `Path` never is one."""
    return isinstance(source, str) and _URL.match(source) is not None


def without_secrets(text: str) -> str:
    """A URL, or what is said of one, without the user, the password and the query, which may be a signature."""
    text = _USER.sub("://", text)
    return _QUERY.sub("", text) if is_url(text) else _QUERY_IN_TEXT.sub(r"\1", text)


def name_of(url: str) -> str:
    """What a URL may be called where others read it; those that differ in what is left out differ in a hash."""
    name = without_secrets(url)
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return name if name == url else f"{name} (and {digest[:16]})"


@contextmanager
def open_url(url: str) -> Iterator[BinaryIO]:
    """Opens a file that is read from its beginning to its end, from a web server within what `deadline` leaves.

    Raises:
        OSError: It cannot be read, then or later; of the same kind as for a file of this machine.
    """
    is_of_the_web = url.startswith(("http://", "https://"))
    try:
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 (it is an extra)
        except ImportError as exc:
            raise OSError("reading from a URL needs a package more: install retinue-client[fsspec]") from exc
        filesystem, path = url_to_fs(url)
        with open_in(filesystem, path) as file:
            yield file
    except TimeoutError as exc:
        # Others have limits of their own.
        if not is_of_the_web:
            raise
        raise TimeoutError("it did not come within the time of its call; timeout_seconds gives more") from exc
    except (OSError, ImageError):
        raise
    except Exception as exc:  # each of fsspec's file systems has errors of its own
        raise as_os_error(exc) from exc


def open_in(filesystem: Any, path: str) -> BinaryIO:
    """The same of a file system of fsspec's, whose errors are its own.

    A web server is asked once, for the whole file, and given up when the time is over. fsspec would ask for its size
    first, take every failure of that for a file that is not there, and then ask for one block after the other. It asks
    for no size where it is told one, which without blocks it does not use.

    Raises:
        TimeoutError: There is no time.
    """
    options = _of_the_web() if "https" in filesystem.protocol else {}
    file: BinaryIO = filesystem.open(path, "rb", **options)
    return file


def _of_the_web() -> dict[str, Any]:
    from aiohttp import ClientTimeout  # noqa: PLC0415 (it comes with the extra)

    asked_once: dict[str, Any] = {"block_size": 0, "size": 1}
    left = deadline_seconds(remaining_seconds())
    if left is None:
        return asked_once
    # To aiohttp 0 is for ever.
    if left <= 0:
        raise TimeoutError
    return {**asked_once, "timeout": ClientTimeout(total=left)}


def as_os_error(exc: Exception) -> OSError:
    """What a file that is none of this machine's raised, as one of this machine's would."""
    # fsspec's often lack the number.
    for missing, number in ((FileNotFoundError, errno.ENOENT), (PermissionError, errno.EACCES)):
        if isinstance(exc, missing) and exc.errno is None:
            return OSError(number, os.strerror(number))
    if isinstance(exc, OSError):
        return exc
    # What aiohttp says of an answer repeats the URL, which may hold a signature.
    status = getattr(exc, "status", None)
    if isinstance(status, int):
        kind = PermissionError if status in _FORBIDDEN else OSError
        return kind(f"its server answered {status}")
    said = without_secrets(next(iter(str(exc).splitlines()), ""))[:_LONGEST_REASON].rstrip(".")
    return OSError(f"{type(exc).__name__}: {said}" if said else type(exc).__name__)
