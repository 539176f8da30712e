"""System shared memory: regions that callers on this machine registered, to put inputs in and take outputs from.

A POSIX shared memory object is a file in /dev/shm, and that is how it is used here: by reads and writes, never mapped.
Whoever maps a file that somebody else can truncate is killed with SIGBUS when they do; a read only comes out short.
It copies as well, so that what was checked cannot be changed by the caller afterwards.

A caller reaches whatever in /dev/shm the server's user may read and write, other programs' objects too. Only callers
that are trusted with these may register regions.
"""

import errno
import os
import re
import resource
import stat
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retinue_server.errors import InvalidRequestError

MAX_REGIONS = 1024

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

_DIRECTORY = "/dev/shm"
_MAX_KEY_BYTES = 255
_MAX_CHARACTERS_SHOWN = 64
_LARGEST = 2**63 - 1

# As a model's label: one line, without what steers a terminal, and nothing that is no text.
_NAME_PATTERN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,128}")
# Every region holds a descriptor, and connections need them as well.
_SHARE_OF_DESCRIPTORS = 4
# No link leads out of the directory, and whatever lies there, opening it waits for nobody.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_UNUSABLE = "SHARED_MEMORY_UNUSABLE"
_OUT_OF_BOUNDS = "SHARED_MEMORY_OUT_OF_BOUNDS"

_ADVICE = {
    errno.ENOENT: "the server's /dev/shm has no such object; create it before it is registered, and let a server in a "
    "container share the machine's /dev/shm.",
    errno.EACCES: "the server's user may not read and write it; give that user both rights.",
    errno.ELOOP: "it is a symbolic link; register the object itself.",
    errno.EISDIR: "it is a directory; register an object made with shm_open.",
    errno.ENXIO: "it is a socket or a device; register an object made with shm_open.",
}


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory object, as it was registered.

    Attributes:
        name: What requests call it.
        key: The object's name, as shm_open takes it.
        offset: Where the region begins in the object, in bytes.
        byte_size: How many bytes it has.
    """

    name: str
    key: str
    offset: int
    byte_size: int


class SharedMemoryRegions:
    """The regions that are registered.

    One thread, the event loop's, registers and unregisters; any thread may read and write meanwhile. A region owns its
    file, which is closed when nothing refers to the region any more. Whoever reads or writes holds it until done, so a
    region that is unregistered meanwhile is still read or written to its end, and its descriptor never becomes
    another file's under it.
    """

    def __init__(self) -> None:
        self._regions: dict[str, _OpenRegion] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens a shared memory object, of which a region is to be read and written under a name.

        The object stays the one that it is now, even if it is unlinked and another one takes its key.

        Args:
            name: What requests will call the region.
            key: The object's name, as shm_open takes it.
            offset: Where the region begins in the object, in bytes.
            byte_size: How many bytes it has.

        Raises:
            InvalidRequestError: The name is taken, there are too many regions, an argument is out of its range, or
                the object cannot be opened or has not so many bytes.
        """
        if not _NAME_PATTERN.fullmatch(name):
            raise _refusal(
                _UNUSABLE,
                "a shared memory region's name must have 1 to 128 characters, and no control characters.",
            )
        if name in self._regions:
            raise _refusal(
                "SHARED_MEMORY_ALREADY_REGISTERED",
                f"shared memory region '{_shown(name)}' is registered already; unregister it first, or choose another "
                "name.",
            )
        most = _most_regions()
        if len(self._regions) >= most:
            raise _refusal(
                "SHARED_MEMORY_TOO_MANY",
                f"{most} shared memory regions are registered, which is as many as the server holds; unregister some, "
                "or register fewer and larger ones and use them by offset.",
            )
        if not (0 <= offset <= _LARGEST and 1 <= byte_size <= _LARGEST):
            raise _refusal(
                _UNUSABLE,
                f"shared memory region '{_shown(name)}' must have an offset from 0 and a size from 1 byte, both less "
                "than 2^63.",
            )
        file = _opened(key, offset + byte_size)
        self._regions[name] = _OpenRegion(Region(name, key, offset, byte_size), file)

    def unregister(self, name: str) -> None:
        """Gives a region back; one that is not registered is no error, as Triton has it."""
        self._regions.pop(name, None)

    def unregister_all(self) -> None:
        """Gives all regions back."""
        self._regions.clear()

    def close(self) -> None:
        """Gives everything back, as far as nobody is reading or writing it: that goes when they are done."""
        self.unregister_all()

    def status(self, name: str = "") -> list[Region]:
        """The regions that are registered, in their order; with a name only that one.

        Raises:
            InvalidRequestError: None has that name.
        """
        if name:
            return [self._get(name).region]
        return [opened.region for opened in self._regions.values()]

    def read(self, name: str, offset: int, byte_size: int) -> npt.NDArray[np.uint8]:
        """Copies bytes out of a region.

        They are read, not mapped: a caller that truncates the object under a mapping would kill the server with SIGBUS.

        Args:
            name: The region's.
            offset: Where they begin in the region.
            byte_size: How many. Objects may be sparse, and far larger than this machine's memory, so whoever calls has
                held this against what the input takes and a request may hold.

        Returns:
            uint8 [byte_size], nobody else's.

        Raises:
            InvalidRequestError: There is no such region, the bytes are not within it, its object was truncated
                since, or there is no memory for so many.
        """
        opened = self._get(name)
        opened.check(offset, byte_size)
        return opened.read(offset, byte_size)

    def check_writable(self, name: str, offset: int, byte_size: int) -> None:
        """Finds out whether `write` could write so many bytes now, before an answer is computed for nothing.

        Args:
            name: The region's.
            offset: Where they would begin in the region.
            byte_size: How many there is room for.

        Raises:
            InvalidRequestError: There is no such region, the bytes are not within it, or its object was truncated
                since.
        """
        self._get(name).check(offset, byte_size)

    def write(self, name: str, offset: int, data: Buffer | Sequence[Buffer], byte_size: int) -> None:
        """Copies bytes into a region, and never makes its object larger.

        Only a caller that truncates its object between the look at its size and the write after it finds the object
        grown again, to the end of what was written.

        Args:
            name: The region's.
            offset: Where they begin in the region.
            data: The bytes, in one piece or in several that follow each other; each is contiguous.
            byte_size: How many the caller has room for there.

        Raises:
            InvalidRequestError: There is no such region, the room is not within it or too small for the data, its
                object was truncated since, or the machine has no memory left for it.
        """
        opened = self._get(name)
        opened.check(offset, byte_size)
        pieces = [data] if isinstance(data, bytes | bytearray | memoryview | np.ndarray) else data
        # A view of no elements cannot be cast, and has nothing to write.
        views = [_view(piece).cast("B") for piece in pieces if _view(piece).nbytes]
        data_bytes = sum(view.nbytes for view in views)
        if data_bytes > byte_size:
            raise _refusal(
                _OUT_OF_BOUNDS,
                f"the output has {data_bytes} bytes, and the request gives it {byte_size} in shared memory region "
                f"'{_shown(name)}'; give it more room.",
            )
        for view in views:
            opened.write(offset, view)
            offset += view.nbytes

    def _get(self, name: str) -> "_OpenRegion":
        opened = self._regions.get(name)
        if opened is None:
            raise _refusal(
                "SHARED_MEMORY_UNKNOWN",
                f"there is no shared memory region '{_shown(name)}'; register it first.",
            )
        return opened


class _OpenRegion:
    """A region and its object's file, which is closed when nothing refers to this any more.

    Args:
        region: What was registered.
        file: The file's descriptor, which is this object's from now on.
    """

    def __init__(self, region: Region, file: int) -> None:
        self.region = region
        self._file = file
        # Descriptors go with the process when it ends.
        weakref.finalize(self, os.close, file).atexit = False

    def check(self, offset: int, byte_size: int) -> None:
        """Makes sure that bytes are within the region, and that its object still has them."""
        room_bytes = self.region.byte_size
        if not (0 <= offset <= room_bytes and 0 <= byte_size <= room_bytes - offset):
            raise _refusal(
                _OUT_OF_BOUNDS,
                f"{byte_size} bytes from offset {offset} are not within shared memory region "
                f"'{_shown(self.region.name)}', which has {room_bytes}; ask for less, or register a larger region.",
            )
        if os.fstat(self._file).st_size < self.region.offset + offset + byte_size:
            raise self._truncated()

    def read(self, offset: int, byte_size: int) -> npt.NDArray[np.uint8]:
        """Reads bytes that are within the region."""
        try:
            data = np.empty(byte_size, np.uint8)
        except MemoryError as error:
            raise _refusal(
                "SHARED_MEMORY_TOO_LARGE",
                f"the server has no memory for {byte_size} bytes of shared memory region "
                f"'{_shown(self.region.name)}' at once; ask for less.",
            ) from error
        done = 0
        while done < byte_size:
            count = os.preadv(self._file, [data.data[done:]], self.region.offset + offset + done)
            if not count:
                raise self._truncated()
            done += count
        return data

    def write(self, offset: int, data: memoryview) -> None:
        """Writes bytes that are within the region."""
        done = 0
        while done < data.nbytes:
            self.check(offset + done, data.nbytes - done)
            try:
                done += os.pwrite(self._file, data[done:], self.region.offset + offset + done)
            except OSError as error:
                raise _refusal(
                    _UNUSABLE,
                    f"shared memory region '{_shown(self.region.name)}' cannot be written: {error.strerror}; make room "
                    "in the /dev/shm of the server.",
                ) from error

    def _truncated(self) -> InvalidRequestError:
        return _refusal(
            "SHARED_MEMORY_TRUNCATED",
            f"the object of shared memory region '{_shown(self.region.name)}' was made smaller after it was "
            "registered; keep its size until the region is unregistered.",
        )


def _opened(key: str, size_bytes: int) -> int:
    """Opens a shared memory object that has so many bytes.

    Raises:
        InvalidRequestError: The key is none, or what it names cannot be opened, is no such object or is smaller.
    """
    file_name = key.removeprefix("/").encode("utf-8", "surrogatepass")
    if (
        not 1 <= len(file_name) <= _MAX_KEY_BYTES
        or b"/" in file_name
        or b"\0" in file_name
        or file_name in (b".", b"..")
    ):
        raise _unusable(
            key,
            f"a key has 1 to {_MAX_KEY_BYTES} bytes and no slash but a leading one; use the one of shm_open.",
        )
    try:
        directory = os.open(_DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            file = os.open(file_name, _FLAGS, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        advice = _ADVICE.get(
            error.errno or 0, f"{error.strerror}; register another object, or try again later."
        )
        raise _unusable(key, advice) from error
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_size >= size_bytes:
        return file
    os.close(file)
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(key, "it is no regular file; register an object made with shm_open.")
    raise _unusable(
        key,
        f"it has {found.st_size} bytes, and offset and size of the region ask for {size_bytes}; make it larger, or "
        "register less.",
    )


def _most_regions() -> int:
    """How many regions there may be, so that enough descriptors are left for connections."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_REGIONS
    return min(MAX_REGIONS, descriptors // _SHARE_OF_DESCRIPTORS)


def _view(data: Buffer) -> memoryview:
    return data.data if isinstance(data, np.ndarray) else memoryview(data)


def _unusable(key: str, advice: str) -> InvalidRequestError:
    return _refusal(_UNUSABLE, f"shared memory object '{_shown(key)}' cannot be registered: {advice}")


def _refusal(reason: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, reason=reason)


def _shown(text: str) -> str:
    """A caller's text as messages hold it: cut where it is long, without what steers a terminal."""
    shown = text if len(text) <= _MAX_CHARACTERS_SHOWN else f"{text[: _MAX_CHARACTERS_SHOWN - 3]}..."
    return "".join(character if character.isprintable() else "?" for character in shown)
