"""What a value of a list is: the path of an image, or its bytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from retinue_client._errors import ImageError
from retinue_client._images import MAX_FILE_BYTES, read_file
from retinue_client._score.sources.entry import ASSUMED_BYTES, Entry, printable
from retinue_client._score.sources.remote_tree import RemoteTree, in_time
from retinue_client._score.sources.tree import LocalTree, Tree
from retinue_client._urls import is_url

_MOST_KEY_CHARACTERS = 4096


class Values:
    """Makes entries of the values of one list.

    Paths are relative to the list, and a list of this machine may name any file that the user may read, `../`
    included: it is the user's own. A list behind a URL names only what lies beside it or deeper. URLs are followed
    only where that was asked for, for what asks for them is this machine, with its credentials.

    Args:
        tree: Where the list is.
        folder: In which folder of it; its paths begin there.
        urls: Whether values may be URLs.
    """

    def __init__(self, tree: Tree, folder: str, *, urls: bool) -> None:
        self._tree = tree
        self._folder = folder
        self._urls = urls

    def entry(self, value: object, key: object, where: str, cursor: Any) -> Entry:
        """The entry of one value.

        Args:
            value: A path, or bytes, or what else stands there; Hugging Face's {"bytes": ..., "path": ...} is either.
            key: What it is to be called, or None.
            where: Which row it is, such as "list.csv#12", for what has no other name.
            cursor: See `Entry`.
        """
        if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
            value = value.get("bytes") or value.get("path")
        if key is not None:
            name = printable(str(key))[:_MOST_KEY_CHARACTERS]
        else:
            name = printable(value)[:_MOST_KEY_CHARACTERS] if isinstance(value, str) and value else where
        try:
            return self._entry(value, name, cursor)
        except ImageError as error:
            return Entry(name, cursor, 0, error)

    def _entry(self, value: object, name: str, cursor: Any) -> Entry:
        if isinstance(value, bytes):
            if len(value) > MAX_FILE_BYTES:
                message = f"The file has more than {MAX_FILE_BYTES >> 20} MiB: it is no photo."
                raise ImageError(message, source=name, reason="FILE_TOO_LARGE")
            return Entry(name, cursor, len(value), value)
        if value is None or value == "":
            raise ImageError("The row names no image.", source=name, reason="VALUE_MISSING")
        if not isinstance(value, str):
            message = f"The row has a value of type {type(value).__name__}, which is no image."
            raise ImageError(message, source=name, reason="VALUE_INVALID")
        if is_url(value):
            return Entry(name, cursor, ASSUMED_BYTES, self._from_url(value))
        if isinstance(self._tree, RemoteTree) and _leads_away(value):
            message = "The path leads away from the list that names it, which came from elsewhere."
            raise ImageError(message, source=name, reason="PATH_OUTSIDE")
        if not isinstance(self._tree, LocalTree):
            return Entry(name, cursor, ASSUMED_BYTES, partial(self._tree.read, self._path(value)))
        path = self._path(value)
        return Entry(name, cursor, self._tree.size_bytes(path), partial(self._tree.read, path))

    def _path(self, value: str) -> str:
        return str(Path(self._folder) / value)

    def _from_url(self, url: str) -> Callable[[], bytes]:
        if not self._urls:
            message = "The row names a URL; --allow-urls has URLs read."
            raise ImageError(message, source=url, reason="URL_NOT_ALLOWED")
        return partial(in_time, partial(read_file, url), url)


def _leads_away(path: str) -> bool:
    """Whether a path may leave its folder, also after a web server has read its escapes."""
    path = unquote(path).replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/")
