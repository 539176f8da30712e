"""Shared memory objects, for tests."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

from tests.unit.server.refusals import refusal

from retinue_server.shared_memory import SharedMemoryRegions

SHM = Path("/dev/shm")
CONTENT = bytes(range(256)) * 16

Create = Callable[..., str]


def path(key: str) -> Path:
    return SHM / key.removeprefix("/")


def open_files() -> int:
    gc.collect()
    return len(_descriptors())


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def unusable(regions: SharedMemoryRegions, key: str, offset: int = 0, byte_size: int = 1) -> str:
    """The message of a registration that must be refused, and must leave nothing open."""
    before = _descriptors()
    message = refusal("SHARED_MEMORY_UNUSABLE", lambda: regions.register("region", key, offset, byte_size))
    # Others may have been closed meanwhile, and to collect garbage each time takes a second in a large process.
    assert _descriptors() <= before
    assert regions.status() == []
    return message
