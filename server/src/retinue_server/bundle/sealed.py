"""A copy of a graph in memory that nobody can change, so that what was checked is what is loaded."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinue_server.bundle import json_file
from retinue_server.errors import BundleError

_PART_BYTES = 8 * 1024 * 1024
_SEALS = ("F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE")

AVAILABLE = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
"""Whether this system has such memory: Linux does."""


@contextmanager
def copy(path: Path, sha256: str) -> Iterator[Path]:
    """Copies a file that has this hash, and none else; the copy has a path as long as it is needed.

    Args:
        path: Of the file.
        sha256: Lower-case hexadecimal.

    Raises:
        BundleError: It has another hash, or changes meanwhile, or there is no memory.
    """
    try:
        copied = os.memfd_create(path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise _not_copied(path, error) from error
    with os.fdopen(copied, "r+b", buffering=0) as memory:
        with json_file.opened(path) as file:
            # Before memory is taken: whatever lies there now may be of any size.
            holds = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            size_bytes = file.tell()
            file.seek(0)
            try:
                while (
                    holds
                    and (left := size_bytes - memory.tell())
                    and (part := file.read(min(left, _PART_BYTES)))
                ):
                    memory.write(part)
            except OSError as error:
                raise _not_copied(path, error) from error
        fcntl.fcntl(copied, fcntl.F_ADD_SEALS, sum(getattr(fcntl, seal) for seal in _SEALS))
        memory.seek(0)
        if not holds or hashlib.file_digest(memory, "sha256").hexdigest() != sha256:
            raise BundleError(
                f"{path} was changed while it was loaded; put a bundle there by renaming its folder, and leave it as "
                "it is.",
                reason="BUNDLE_CHANGED",
            )
        yield Path(f"/proc/self/fd/{copied}")


def _not_copied(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be copied into memory to be checked: {error.strerror}; grant the server more of it."
    )
