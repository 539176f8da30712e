"""Files that are named by a folder, a pattern or a list, and images that are files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from retinue_client._errors import ImageError
from retinue_client._score.errors import SourceError
from retinue_client._score.sources.entry import (
    ASSUMED_BYTES,
    ENDED,
    Entry,
    Stopped,
    after_first,
    mark_of,
    never,
    number_of,
    printable,
)
from retinue_client._score.sources.tree import Tree
from retinue_client._score.sources.walk import Found, walk


@dataclass(frozen=True, slots=True)
class Place:
    """A file and where it stands among the others: a value that JSON knows."""

    position: Any
    file: Found


class Names(Protocol):
    """Which files of a tree are meant."""

    def places(self, after: Any = None) -> Iterator[Place]:
        """Those after a position, or all of them."""

    def at(self, position: Any) -> Place:
        """The one at a position."""


class Walked:
    """The files of a tree that somebody wants.

    Args:
        tree: The folder.
        wanted: Says of a path whether the file is meant.
    """

    def __init__(self, tree: Tree, wanted: Callable[[str], bool]) -> None:
        self._tree = tree
        self._wanted = wanted

    def places(self, after: Any = None) -> Iterator[Place]:
        """See `Names`."""
        return (Place(file.path, file) for file in walk(self._tree, wanted=self._wanted, after=after))

    def at(self, position: Any) -> Place:
        """See `Names`."""
        return Place(position, Found(position, None))


class Listed:
    """Files of a tree by their names, in the order in which they were given."""

    def __init__(self, tree: Tree, paths: list[str]) -> None:
        self._tree = tree
        self._paths = paths

    def places(self, after: Any = None) -> Iterator[Place]:
        """See `Names`."""
        return map(self.at, range(0 if after is None else after + 1, len(self._paths)))

    def at(self, position: Any) -> Place:
        """See `Names`."""
        path = self._paths[position]
        try:
            return Place(position, Found(path, self._tree.size_bytes(path)))
        except ImageError as error:
            return Place(position, Found(path, None, error))


class ImageFiles:
    """Images that are files.

    Args:
        name: See `Source`.
        tree: Where they are.
        names: Which they are.
    """

    def __init__(self, name: str, tree: Tree, names: Names) -> None:
        self.name = name
        self._tree = tree
        self._names = names

    def entries(self, after: Any) -> Iterator[Entry]:
        """See `Source`."""
        return (self._entry(place) for place in self._names.places(after))

    def count(self, stopped: Stopped = never) -> int | None:
        """See `Source`."""
        return number_of(self._names.places(), stopped)

    def _entry(self, place: Place) -> Entry:
        file = place.file
        key = printable(file.path)
        if file.error is not None:
            return Entry(key, place.position, 0, file.error)
        size_bytes = ASSUMED_BYTES if file.size_bytes is None else file.size_bytes
        return Entry(key, place.position, size_bytes, partial(self._tree.read, file.path))


class Container(Protocol):
    """A kind of file that holds many images, or says where they are."""

    def entries(self, tree: Tree, path: str, begin: Any) -> Iterator[Entry]:
        """The entries in one such file; a file that is damaged ends in an entry that says so.

        Args:
            tree: Where the file is.
            path: The file.
            begin: The cursor of the entry with which to begin, or None. The last entry of a damaged file has the
                cursor `ENDED`, with which nothing is asked for.

        Raises:
            SourceError: The file does not say what it has.
        """

    def count(self, tree: Tree, path: str, stopped: Stopped) -> int | None:
        """How many there are, or None where the whole file would come from elsewhere, or it is stopped."""


class Contained:
    """Images in files that hold many.

    Args:
        name: See `Source`.
        tree: Where the files are.
        names: Which they are.
        container: How they are read.
    """

    def __init__(self, name: str, tree: Tree, names: Names, container: Container) -> None:
        self.name = name
        self._tree = tree
        self._names = names
        self._container = container

    def entries(self, after: Any) -> Iterator[Entry]:
        """See `Source`. A cursor is a file's position, the cursor in it, and the entry's mark."""
        if after is None:
            position = None
        else:
            position, inner = after[:2]
            if inner != ENDED:
                rest = self._inside(self._names.at(position), inner, is_first=False)
                yield from after_first(rest, after, self.name)
        for number, place in enumerate(self._names.places(position)):
            yield from self._inside(place, None, is_first=after is None and number == 0)

    def count(self, stopped: Stopped = never) -> int | None:
        """See `Source`."""
        total = 0
        for place in self._names.places():
            file = place.file
            count = 1 if file.error is not None else self._container.count(self._tree, file.path, stopped)
            if count is None or stopped():
                return None
            total += count
        return total

    def _inside(self, place: Place, begin: Any, *, is_first: bool) -> Iterator[Entry]:
        """The entries in one file. One that does not say what it has is an error only where it is not the first."""
        file = place.file
        if file.error is not None:
            yield _ended(place, file.error)
            return
        try:
            for entry in self._container.entries(self._tree, file.path, begin):
                cursor = [place.position, entry.cursor, mark_of(entry.key)]
                yield Entry(entry.key, cursor, entry.size_bytes, entry.content)
        except SourceError as exc:
            if is_first:
                raise
            yield _ended(place, ImageError(str(exc), source=file.path, reason="SOURCE_UNREADABLE"))


def _ended(place: Place, error: ImageError) -> Entry:
    """The one entry of a file that cannot be read."""
    key = printable(place.file.path)
    return Entry(key, [place.position, ENDED, mark_of(key)], 0, error)
