"""What is written is read again, and nothing a caller does to its objects harms the server."""

import errno
import os
from typing import Any

import numpy as np
import pytest
from tests.unit.server.refusals import refusal
from tests.unit.server.shared_memory.objects import CONTENT, Create, path

from retinue_server.shared_memory import Region, SharedMemoryRegions

# Reading and writing


def test_what_is_written_is_in_the_object_and_is_read_again(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 0, len(CONTENT))
    assert regions.read("region", 0, len(CONTENT)).tobytes() == CONTENT
    regions.write("region", 0, b"answer", 6)
    assert path(key).read_bytes() == b"answer" + CONTENT[6:]
    read = regions.read("region", 0, 8)
    assert (read.dtype, read.shape, read.tobytes()) == (np.uint8, (8,), b"answer\x06\x07")


def test_what_was_read_is_a_copy(regions: SharedMemoryRegions, create: Create) -> None:
    key = create()
    regions.register("region", key, 0, 16)
    read = regions.read("region", 0, 16)
    path(key).write_bytes(bytes(len(CONTENT)))
    assert read.tobytes() == CONTENT[:16]
    assert read.flags.writeable


def test_offsets_count_from_the_region_and_the_region_from_the_object(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 100, 50)
    assert regions.read("region", 20, 30).tobytes() == CONTENT[120:150]
    regions.check_writable("region", 40, 10)
    regions.write("region", 40, b"x" * 10, 10)
    assert path(key).read_bytes() == CONTENT[:140] + b"x" * 10 + CONTENT[150:]


def test_a_key_may_do_without_its_slash(regions: SharedMemoryRegions, create: Create) -> None:
    key = create().removeprefix("/")
    regions.register("region", key, 0, 4)
    assert regions.read("region", 0, 4).tobytes() == CONTENT[:4]
    assert regions.status() == [Region("region", key, 0, 4)]


def test_regions_of_one_object_see_each_others_writes(regions: SharedMemoryRegions, create: Create) -> None:
    key = create()
    regions.register("first", key, 0, 100)
    regions.register("second", key, 50, 100)
    regions.write("first", 50, b"seen", 4)
    assert regions.read("second", 0, 4).tobytes() == b"seen"


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (np.array([[1, 2], [3, 4]], np.int16), bytes([1, 0, 2, 0, 3, 0, 4, 0])),
        (np.array(1, np.float16), b"\x00\x3c"),
        (np.empty((0, 4), np.float32), b""),
        (b"", b""),
        ([], b""),
        ([b"ab", np.array([99, 100], np.uint8), b"", memoryview(b"e")], b"abcde"),
    ],
    ids=[
        "bytes",
        "bytearray",
        "memoryview",
        "array",
        "scalar",
        "empty array",
        "no bytes",
        "no pieces",
        "pieces",
    ],
)
def test_buffers_of_every_kind_are_written(
    regions: SharedMemoryRegions, create: Create, data: Any, written: bytes
) -> None:
    key = create()
    regions.register("region", key, 8, 16)
    regions.write("region", 0, data, 16)
    assert path(key).read_bytes() == CONTENT[:8] + written + CONTENT[8 + len(written) :]


def test_more_pieces_than_one_system_call_takes_are_written(
    regions: SharedMemoryRegions, create: Create
) -> None:
    regions.register("region", create(), 0, 4000)
    regions.write("region", 0, [bytes([index % 251]) for index in range(3000)], 4000)
    assert regions.read("region", 0, 3000).tobytes() == bytes(index % 251 for index in range(3000))


def test_no_bytes_are_read_from_anywhere_within(regions: SharedMemoryRegions, create: Create) -> None:
    regions.register("region", create(), 0, 16)
    assert regions.read("region", 0, 0).shape == (0,)
    assert regions.read("region", 16, 0).shape == (0,)


def test_reads_and_writes_that_come_out_short_are_continued(
    regions: SharedMemoryRegions, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create()
    regions.register("region", key, 3, 1000)
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda file, views, at: preadv(file, [views[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:7], at))
    assert regions.read("region", 5, 900).tobytes() == CONTENT[8:908]
    regions.write("region", 5, [b"a" * 50, b"b" * 50], 100)
    assert path(key).read_bytes() == CONTENT[:8] + b"a" * 50 + b"b" * 50 + CONTENT[108:]


# Bounds


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [
        (0, 101),
        (1, 100),
        (100, 1),
        (101, 0),
        (-1, 1),
        (0, -1),
        (10, -5),
        (0, 2**31),
        (2**32, 1),
        (2**63 - 1, 2**63 - 1),
        (2**64 - 1, 1),
        (1, 2**64 - 1),
        (2**64 - 50, 60),
        (10**30, 10**30),
    ],
)
def test_bytes_that_are_not_within_the_region_are_refused(
    regions: SharedMemoryRegions, create: Create, offset: int, byte_size: int
) -> None:
    key = create()
    regions.register("region", key, 10, 100)
    for call in (
        lambda: regions.read("region", offset, byte_size),
        lambda: regions.check_writable("region", offset, byte_size),
        lambda: regions.write("region", offset, b"", byte_size),
        lambda: regions.write("region", offset, b"x", byte_size),
    ):
        message = refusal("SHARED_MEMORY_OUT_OF_BOUNDS", call)
        assert "'region'" in message
        assert f"{byte_size} bytes from offset {offset} " in message
        assert "has 100" in message
    assert path(key).read_bytes() == CONTENT


def test_more_data_than_there_is_room_for_is_refused_and_nothing_written(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 0, 100)
    message = refusal(
        "SHARED_MEMORY_OUT_OF_BOUNDS", lambda: regions.write("region", 0, [b"x" * 8, b"y" * 3], 10)
    )
    assert "11 bytes" in message
    assert "gives it 10 " in message
    assert path(key).read_bytes() == CONTENT


# From 2^48 on no address space has so much, however freely the system promises memory.
@pytest.mark.parametrize("byte_size", [2**48, 2**62, 2**63 - 1])
def test_a_sparse_region_of_any_size_takes_no_memory(
    regions: SharedMemoryRegions, create: Create, byte_size: int
) -> None:
    key = create()
    os.truncate(path(key), byte_size)
    regions.register("region", key, 0, byte_size)
    message = refusal("SHARED_MEMORY_TOO_LARGE", lambda: regions.read("region", 0, byte_size))
    assert f"no memory for {byte_size} bytes" in message
    assert regions.read("region", byte_size - 5, 5).tobytes() == bytes(5)


# What callers do to their objects


@pytest.mark.parametrize("left", [0, 59, 109])
def test_an_object_that_was_truncated_is_refused_and_stays_as_it_is(
    regions: SharedMemoryRegions, create: Create, left: int
) -> None:
    key = create()
    regions.register("region", key, 10, 100)
    os.truncate(path(key), left)
    for call in (
        lambda: regions.read("region", 0, 100),
        lambda: regions.check_writable("region", 0, 100),
        lambda: regions.write("region", 0, b"x" * 100, 100),
        lambda: regions.write("region", 99, b"x", 1),
    ):
        assert "made smaller after it was registered; keep its size" in refusal(
            "SHARED_MEMORY_TRUNCATED", call
        )
    assert path(key).read_bytes() == CONTENT[:left]
    os.truncate(path(key), 200)
    regions.write("region", 99, b"x", 1)
    assert regions.read("region", 99, 1).tobytes() == b"x"


def test_an_object_that_is_truncated_while_it_is_read_is_refused(
    regions: SharedMemoryRegions, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create()
    regions.register("region", key, 0, 1000)
    preadv = os.preadv

    def truncating(file: int, views: list[memoryview], at: int) -> int:
        count = preadv(file, [views[0][:100]], at)
        os.truncate(path(key), 100)
        return count

    monkeypatch.setattr(os, "preadv", truncating)
    refusal("SHARED_MEMORY_TRUNCATED", lambda: regions.read("region", 0, 1000))


def test_an_object_that_is_truncated_while_it_is_written_is_refused_and_not_extended(
    regions: SharedMemoryRegions, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create()
    regions.register("region", key, 0, 1000)
    pwrite = os.pwrite

    def truncating(file: int, data: memoryview, at: int) -> int:
        count = pwrite(file, data[:100], at)
        os.truncate(path(key), 50)
        return count

    monkeypatch.setattr(os, "pwrite", truncating)
    refusal("SHARED_MEMORY_TRUNCATED", lambda: regions.write("region", 0, b"x" * 1000, 1000))
    assert path(key).read_bytes() == b"x" * 50


def test_memory_that_runs_out_is_told(
    regions: SharedMemoryRegions, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions.register("region", create(), 0, 16)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    message = refusal("SHARED_MEMORY_UNUSABLE", lambda: regions.write("region", 0, b"x", 1))
    assert "'region' cannot be written: No space left on device; make room" in message


def test_a_region_keeps_its_object_when_that_is_unlinked_and_made_anew(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create(b"old")
    regions.register("region", key, 0, 3)
    path(key).unlink()
    create(b"new")
    assert regions.read("region", 0, 3).tobytes() == b"old"
