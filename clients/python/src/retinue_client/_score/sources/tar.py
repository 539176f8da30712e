"""Images in tar files, such as WebDataset's shards: read in one go, never unpacked to the disk."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from retinue_client._errors import ImageError
from retinue_client._images import MAX_FILE_BYTES
from retinue_client._score.sources.entry import ENDED, Entry, Stopped, printable
from retinue_client._score.sources.tree import Tree
from retinue_client._score.sources.walk import looks_like_image

# A member's long name or attributes, which tarfile reads into memory whatever size they claim.
_MOST_HEADER_BYTES = 1 << 20
_HEADERS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
# It may ask so often for what follows the last member.
_MOST_ENDS = 4
# What tarfile and the decompressors under it raise of damaged files; a chain of headers makes it recurse.
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError)


class TarContainer:
    """Tar files, plain or compressed, whose members are images. A member's key is FILE/MEMBER.

    Args:
        all_files: Take members whatever they are called, not only those with the suffix of an image format.
    """

    def __init__(self, *, all_files: bool) -> None:
        self._all_files = all_files

    def entries(self, tree: Tree, path: str, begin: Any) -> Iterator[Entry]:
        """See `Container`. A cursor is the number of members up to the entry, of any kind."""
        try:
            file = tree.open(path)
        except OSError as exc:
            yield _damaged(path, exc)
            return
        with file:
            yield from self.entries_of(file, path, begin)

    def entries_of(self, file: BinaryIO, name: str, begin: Any) -> Iterator[Entry]:
        """The same of a file that is open and may be a pipe."""
        number = 0
        try:
            stream: Any = _Ending(file)
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as tar:
                while (member := tar.next()) is not None:
                    # Else all that were read are kept.
                    tar.members = []  # type: ignore[attr-defined]
                    number += 1
                    if (begin is None or number >= begin) and self._is_wanted(member):
                        yield _entry(tar, member, name, number)
        except _DAMAGE as exc:
            yield _damaged(name, exc)

    def count(self, tree: Tree, path: str, stopped: Stopped) -> int | None:
        """See `Container`."""
        del tree, path, stopped
        return None

    def _is_wanted(self, member: tarfile.TarInfo) -> bool:
        return not member.isdir() and (self._all_files or looks_like_image(member.name))


class _Ending:
    """A file whose end is told: tarfile asks on after it, once for each block that a member claims to have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ends = 0

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end.

        Raises:
            EOFError: That was said before, more than once.
        """
        data = self._file.read(size)
        self._ends += not data
        if self._ends > _MOST_ENDS:
            raise EOFError("it ends within a member")
        return data


class _Member(tarfile.TarInfo):
    """A member whose headers are bounded, and whose damage is told: tarfile takes it for the end of the file.

    Source: https://docs.python.org/3/library/tarfile.html, which has `tarinfo` for this
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Reads a header.

        Raises:
            tarfile.TarError: It is damaged, or the file ends.
        """
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EmptyHeaderError as exc:  # type: ignore[attr-defined]
            # Two blocks of zeros end a tar file, so that one that was cut between members can be told.
            raise tarfile.ReadError("it ends without an end mark, as if it was cut off") from exc
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as exc:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a header is damaged: {exc}") from exc

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, number: int) -> Entry:
    key = f"{printable(name)}/{printable(member.name)}" if name else printable(member.name)
    if not member.isreg() or member.issparse():
        error = ImageError("It is no regular file.", source=key, reason="FILE_NOT_REGULAR")
        return Entry(key, number, 0, error)
    if member.size > MAX_FILE_BYTES:
        message = f"The file has more than {MAX_FILE_BYTES >> 20} MiB: it is no photo."
        return Entry(key, number, 0, ImageError(message, source=key, reason="FILE_TOO_LARGE"))
    file = tar.extractfile(member)
    content = file.read() if file is not None else b""
    return Entry(key, number, len(content), content)


def _damaged(path: str, exc: BaseException) -> Entry:
    key = printable(path) or "-"
    what = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    message = f"The tar file cannot be read on: {what}."
    return Entry(key, ENDED, 0, ImageError(message, source=key, reason="SOURCE_UNREADABLE"))
