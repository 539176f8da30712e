"""The files under a folder, in an order that is always the same, from any of them on."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from retinue_client._errors import ImageError
from retinue_client._score.sources.tree import Item, Tree

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """A file under a folder.

    Attributes:
        path: Relative to the folder, with forward slashes; a folder that cannot be listed ends in one.
        size_bytes: Its size, or None where it is not known.
        error: Why it cannot even be tried, or None.
    """

    path: str
    size_bytes: int | None
    error: ImageError | None = None


def looks_like_image(name: str) -> bool:
    """Whether a file has the suffix of an image format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def any_file(_path: str) -> bool:
    """Takes every file."""
    return True


def walk(tree: Tree, *, wanted: Callable[[str], bool], after: str | None = None) -> Iterator[Found]:
    """The files under a folder, sorted by path, folder by folder (as `sorted` sorts `pathlib.Path`).

    What is no regular file, and a folder that cannot be listed, come with an error: nothing that is wanted is passed
    over in silence.

    Args:
        tree: The folder.
        wanted: Says of a path whether the file is.
        after: The path of the file, or of the folder that could not be listed, after which to begin.

    Raises:
        OSError: The folder itself cannot be listed.
    """
    begin = None if after is None else after.split("/")
    waiting = [("", _from(tree.items(""), begin, 0))]
    while waiting:
        folder, items = waiting[-1]
        item = next(items, None)
        if item is None:
            waiting.pop()
            continue
        path = f"{folder}{item.name}"
        if item.is_folder:
            try:
                waiting.append((f"{path}/", _from(tree.items(path), _rest(begin, path), path.count("/") + 1)))
            except OSError as exc:
                if f"{path}/" != after:
                    yield Found(f"{path}/", None, _unlisted(exc, f"{path}/"))
        elif path != after and wanted(path):
            yield _found(tree, path, item)


def _from(items: Iterator[Item], begin: list[str] | None, depth: int) -> Iterator[Item]:
    """Without those that sort before the path with which to begin."""
    if begin is None:
        return items
    return (item for item in items if item.name >= begin[depth])


def _rest(begin: list[str] | None, folder: str) -> list[str] | None:
    """The path with which to begin, where it leads through this folder."""
    if begin is None or len(begin) <= folder.count("/") + 1:
        return None
    return begin if begin[: folder.count("/") + 1] == folder.split("/") else None


def _found(tree: Tree, path: str, item: Item) -> Found:
    if item.size_bytes is not None:
        return Found(path, item.size_bytes)
    try:
        return Found(path, tree.size_bytes(path))
    except ImageError as error:
        return Found(path, None, error)


def _unlisted(exc: OSError, path: str) -> ImageError:
    message = f"The folder cannot be listed: {exc.strerror or exc}."
    return ImageError(message, source=path, reason="FOLDER_UNREADABLE")
