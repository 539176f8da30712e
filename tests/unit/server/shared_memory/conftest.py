"""Regions, and objects that are removed afterwards."""

import os
import uuid
from collections.abc import Iterator

import pytest
from tests.unit.server.shared_memory.objects import CONTENT, SHM, Create

from retinue_server.shared_memory import SharedMemoryRegions


@pytest.fixture
def prefix() -> Iterator[str]:
    """What the names of a test's objects begin with; all of them are removed afterwards."""
    prefix = f"retinue-test-{uuid.uuid4().hex}-"
    yield prefix
    for path in SHM.glob(f"{prefix}*"):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


@pytest.fixture
def create(prefix: str) -> Create:
    """Makes an object, and gives its key."""

    def create(content: bytes = CONTENT, name: str = "object") -> str:
        file = os.open(SHM / f"{prefix}{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, content)
        finally:
            os.close(file)
        return f"/{prefix}{name}"

    return create


@pytest.fixture
def regions() -> Iterator[SharedMemoryRegions]:
    regions = SharedMemoryRegions()
    yield regions
    regions.close()
