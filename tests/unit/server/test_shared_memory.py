"""Shared memory regions hold what callers put there, and nothing a caller does to its objects harms the server."""

import errno
import gc
import os
import resource
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinue_server.errors import Code, InvalidRequestError
from retinue_server.shared_memory import MAX_REGIONS, Region, SharedMemoryRegions

_SHM = Path("/dev/shm")
_CONTENT = bytes(range(256)) * 16

Create = Callable[..., str]


@pytest.fixture
def prefix() -> Iterator[str]:
    """What the names of a test's objects begin with; all of them are removed afterwards."""
    prefix = f"retinue-test-{uuid.uuid4().hex}-"
    yield prefix
    for path in _SHM.glob(f"{prefix}*"):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


@pytest.fixture
def create(prefix: str) -> Create:
    """Makes an object, and gives its key."""

    def create(content: bytes = _CONTENT, name: str = "object") -> str:
        file = os.open(_SHM / f"{prefix}{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
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


def path(key: str) -> Path:
    return _SHM / key.removeprefix("/")


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def refusal(reason: str, call: Callable[[], object]) -> str:
    """The message of a call that must be refused for a reason."""
    with pytest.raises(InvalidRequestError) as raised:
        call()
    assert (raised.value.code, raised.value.reason) == (Code.INVALID_ARGUMENT, reason)
    return raised.value.message


def unusable(regions: SharedMemoryRegions, key: str, offset: int = 0, byte_size: int = 1) -> str:
    """The message of a registration that must be refused, and must leave nothing open."""
    before = open_files()
    message = refusal("SHARED_MEMORY_UNUSABLE", lambda: regions.register("region", key, offset, byte_size))
    assert open_files() == before
    assert regions.status() == []
    return message


# Reading and writing


def test_what_is_written_is_in_the_object_and_is_read_again(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 0, len(_CONTENT))
    assert regions.read("region", 0, len(_CONTENT)).tobytes() == _CONTENT
    regions.write("region", 0, b"answer", 6)
    assert path(key).read_bytes() == b"answer" + _CONTENT[6:]
    read = regions.read("region", 0, 8)
    assert (read.dtype, read.shape, read.tobytes()) == (np.uint8, (8,), b"answer\x06\x07")


def test_what_was_read_is_a_copy(regions: SharedMemoryRegions, create: Create) -> None:
    key = create()
    regions.register("region", key, 0, 16)
    read = regions.read("region", 0, 16)
    path(key).write_bytes(bytes(len(_CONTENT)))
    assert read.tobytes() == _CONTENT[:16]
    assert read.flags.writeable


def test_offsets_count_from_the_region_and_the_region_from_the_object(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 100, 50)
    assert regions.read("region", 20, 30).tobytes() == _CONTENT[120:150]
    regions.check_writable("region", 40, 10)
    regions.write("region", 40, b"x" * 10, 10)
    assert path(key).read_bytes() == _CONTENT[:140] + b"x" * 10 + _CONTENT[150:]


def test_a_key_may_do_without_its_slash(regions: SharedMemoryRegions, create: Create) -> None:
    key = create().removeprefix("/")
    regions.register("region", key, 0, 4)
    assert regions.read("region", 0, 4).tobytes() == _CONTENT[:4]
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
    assert path(key).read_bytes() == _CONTENT[:8] + written + _CONTENT[8 + len(written) :]


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
    assert regions.read("region", 5, 900).tobytes() == _CONTENT[8:908]
    regions.write("region", 5, [b"a" * 50, b"b" * 50], 100)
    assert path(key).read_bytes() == _CONTENT[:8] + b"a" * 50 + b"b" * 50 + _CONTENT[108:]


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
    assert path(key).read_bytes() == _CONTENT


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
    assert path(key).read_bytes() == _CONTENT


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
    assert path(key).read_bytes() == _CONTENT[:left]
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


# Registering


def test_regions_are_listed_as_they_were_registered(regions: SharedMemoryRegions, create: Create) -> None:
    key = create()
    regions.register("second", key, 3, 10)
    regions.register("first", key, 0, 20)
    assert regions.status() == [Region("second", key, 3, 10), Region("first", key, 0, 20)]
    assert regions.status("first") == [Region("first", key, 0, 20)]


def test_a_region_that_is_not_registered_is_unknown(regions: SharedMemoryRegions, create: Create) -> None:
    regions.register("region", create(), 0, 10)
    for call in (
        lambda: regions.status("other"),
        lambda: regions.read("other", 0, 1),
        lambda: regions.check_writable("other", 0, 1),
        lambda: regions.write("other", 0, b"x", 1),
    ):
        assert "no shared memory region 'other'; register it" in refusal("SHARED_MEMORY_UNKNOWN", call)
    message = refusal("SHARED_MEMORY_UNKNOWN", lambda: regions.status("\x1b[31m" + "x" * 1_000_000))
    assert message.isprintable()
    assert len(message) < 200


def test_a_region_is_registered_once_and_stays_what_it_was(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 0, 10)
    other = create(b"other", "other")
    message = refusal("SHARED_MEMORY_ALREADY_REGISTERED", lambda: regions.register("region", other, 0, 5))
    assert "'region' is registered already; unregister it first" in message
    assert regions.status() == [Region("region", key, 0, 10)]
    regions.unregister("region")
    regions.register("region", other, 0, 5)
    assert regions.read("region", 0, 5).tobytes() == b"other"


def test_what_is_unregistered_is_gone(regions: SharedMemoryRegions, create: Create) -> None:
    key = create()
    regions.register("region", key, 0, 10)
    regions.register("other", key, 0, 10)
    regions.unregister("region")
    refusal("SHARED_MEMORY_UNKNOWN", lambda: regions.read("region", 0, 1))
    assert regions.read("other", 0, 1).tobytes() == b"\0"
    regions.unregister_all()
    assert regions.status() == []


def test_to_unregister_what_is_not_registered_is_no_error(regions: SharedMemoryRegions) -> None:
    regions.unregister("region")
    regions.unregister("")
    regions.unregister_all()


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0b", "\x1b[31m", "a\u2028b", "\x85", "a\ud800"])
def test_a_name_that_is_none_is_refused(regions: SharedMemoryRegions, create: Create, name: str) -> None:
    key = create()
    message = refusal("SHARED_MEMORY_UNUSABLE", lambda: regions.register(name, key, 0, 1))
    assert "1 to 128 characters, and no control characters" in message


@pytest.mark.parametrize("name", ["x", "x" * 128, "a b/c", "Gerät 猫"])
def test_other_names_are_taken(regions: SharedMemoryRegions, create: Create, name: str) -> None:
    regions.register(name, create(), 0, 1)
    assert [region.name for region in regions.status(name)] == [name]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        ".",
        "..",
        "/.",
        "/..",
        "//object",
        "/a/b",
        "a/b",
        "object/",
        "../etc/passwd",
        "/../etc/passwd",
        "/dev/shm/object",
        "a\0b",
        "/" + "x" * 256,
        "ä" * 128,
        "x" * 1_000_000,
    ],
)
def test_a_key_that_is_none_is_refused(regions: SharedMemoryRegions, key: str) -> None:
    message = unusable(regions, key)
    assert "a key has 1 to 255 bytes and no slash but a leading one; use the one of shm_open." in message
    assert len(message) < 300
    assert message.isprintable()


@pytest.mark.parametrize("key", ["x" * 255, "/" + "x" * 255, "\x1b[31m\n", "\ud800"])
def test_a_key_that_names_nothing_is_refused(regions: SharedMemoryRegions, key: str) -> None:
    message = unusable(regions, key)
    assert "has no such object; create it before it is registered" in message
    assert len(message) < 400
    assert message.isprintable()


def test_a_message_names_the_object(regions: SharedMemoryRegions) -> None:
    assert unusable(regions, "/my-object").startswith(
        "shared memory object '/my-object' cannot be registered: "
    )


def test_a_key_as_long_as_may_be_is_taken(regions: SharedMemoryRegions, create: Create, prefix: str) -> None:
    key = create(name="x" * (255 - len(prefix)))
    assert len(key) == 256
    regions.register("region", key, 0, 1)
    assert regions.read("region", 0, 1).tobytes() == b"\0"


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [(-1, 1), (0, 0), (0, -1), (2**63, 1), (0, 2**63), (2**64 - 1, 2**64 - 1), (10**30, 1)],
)
def test_an_offset_or_a_size_out_of_range_is_refused(
    regions: SharedMemoryRegions, create: Create, offset: int, byte_size: int
) -> None:
    assert "an offset from 0 and a size from 1 byte" in unusable(regions, create(), offset, byte_size)


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [(0, 4097), (1, 4096), (4096, 1), (2**63 - 1, 1), (1, 2**63 - 1), (2**63 - 1, 2**63 - 1)],
)
def test_an_object_that_is_too_small_is_refused(
    regions: SharedMemoryRegions, create: Create, offset: int, byte_size: int
) -> None:
    message = unusable(regions, create(), offset, byte_size)
    assert f"it has 4096 bytes, and offset and size of the region ask for {offset + byte_size};" in message


def test_a_symbolic_link_is_not_followed(
    regions: SharedMemoryRegions, create: Create, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for number, target in enumerate([str(tmp_path / "secret"), create().removeprefix("/")]):
        link = f"{prefix}link{number}"
        (_SHM / link).symlink_to(target)
        assert "it is a symbolic link; register the object itself." in unusable(regions, link)


def test_a_directory_is_refused(regions: SharedMemoryRegions, prefix: str) -> None:
    (_SHM / f"{prefix}directory").mkdir()
    assert "it is a directory" in unusable(regions, f"/{prefix}directory")


def test_a_fifo_is_refused_and_not_waited_for(regions: SharedMemoryRegions, prefix: str) -> None:
    os.mkfifo(_SHM / f"{prefix}fifo")
    assert "it is no regular file" in unusable(regions, f"/{prefix}fifo")


def test_a_socket_is_refused(regions: SharedMemoryRegions, prefix: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(_SHM / f"{prefix}socket"))
        assert "it is a socket" in unusable(regions, f"/{prefix}socket")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errno.EACCES, "the server's user may not read and write it; give that user both rights."),
        (errno.EMFILE, "Too many open files; register another object, or try again later."),
    ],
)
def test_an_object_that_cannot_be_opened_is_refused(
    regions: SharedMemoryRegions,
    create: Create,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    advice: str,
) -> None:
    key = create()
    opened = os.open

    def refusing(name: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            raise OSError(error, os.strerror(error))
        return opened(name, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    assert advice in unusable(regions, key)


# Descriptors


def fill(regions: SharedMemoryRegions, key: str, count: int) -> None:
    for number in range(count):
        regions.register(f"region {number}", key, 0, 1)


def test_there_are_so_many_regions_and_no_more(regions: SharedMemoryRegions, create: Create) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * MAX_REGIONS:
        pytest.skip(f"a process may have only {hard} descriptors here")
    key = create()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * MAX_REGIONS, hard))
    try:
        fill(regions, key, MAX_REGIONS)
        message = refusal("SHARED_MEMORY_TOO_MANY", lambda: regions.register("another", key, 0, 1))
        assert "1024 shared memory regions are registered" in message
        assert "unregister some" in message
        regions.unregister("region 7")
        regions.register("another", key, 0, 1)
    finally:
        regions.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_regions_leave_descriptors_for_connections(regions: SharedMemoryRegions, create: Create) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    key = create()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        fill(regions, key, 256)
        message = refusal("SHARED_MEMORY_TOO_MANY", lambda: regions.register("another", key, 0, 1))
        assert "256 shared memory regions are registered" in message
    finally:
        regions.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_region_that_is_unregistered_closes_its_file(regions: SharedMemoryRegions, create: Create) -> None:
    key = create()
    before = open_files()
    for number in range(2000):
        regions.register(f"region {number}", key, 0, 16)
        regions.read(f"region {number}", 0, 16)
        regions.write(f"region {number}", 0, b"x", 1)
        regions.unregister(f"region {number}")
    assert open_files() == before


@pytest.mark.parametrize("give_back", [SharedMemoryRegions.unregister_all, SharedMemoryRegions.close])
def test_all_files_are_closed(create: Create, give_back: Callable[[SharedMemoryRegions], None]) -> None:
    key = create()
    before = open_files()
    regions = SharedMemoryRegions()
    fill(regions, key, 20)
    assert open_files() == before + 20
    give_back(regions)
    assert open_files() == before


def test_a_process_that_the_server_starts_inherits_no_object(
    regions: SharedMemoryRegions, create: Create
) -> None:
    key = create()
    regions.register("region", key, 0, 1)
    (file,) = (int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.resolve() == path(key))
    assert not os.get_inheritable(file)


@pytest.mark.parametrize("call", ["read", "write"])
def test_a_region_that_is_unregistered_while_it_is_used_is_used_to_the_end(
    regions: SharedMemoryRegions, create: Create, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    key = create()
    other = create(b"!" * 1000, "other")
    before = open_files()
    regions.register("region", key, 0, 1000)
    begun, unregistered = threading.Event(), threading.Event()
    preadv, pwrite = os.preadv, os.pwrite

    def slow_preadv(file: int, views: list[memoryview], at: int) -> int:
        begun.set()
        assert unregistered.wait(10)
        return preadv(file, [views[0][:100]], at)

    def slow_pwrite(file: int, data: memoryview, at: int) -> int:
        begun.set()
        assert unregistered.wait(10)
        return pwrite(file, data[:100], at)

    monkeypatch.setattr(os, "preadv", slow_preadv)
    monkeypatch.setattr(os, "pwrite", slow_pwrite)
    read: list[bytes] = []

    def use() -> None:
        if call == "read":
            read.append(regions.read("region", 0, 1000).tobytes())
        else:
            regions.write("region", 0, b"x" * 1000, 1000)

    thread = threading.Thread(target=use)
    thread.start()
    assert begun.wait(10)
    regions.unregister("region")
    # What is opened now would get the descriptor if that had been closed.
    regions.register("region", other, 0, 1000)
    unregistered.set()
    thread.join(10)
    assert not thread.is_alive()
    if call == "read":
        assert read == [_CONTENT[:1000]]
    else:
        assert path(key).read_bytes() == b"x" * 1000 + _CONTENT[1000:]
    assert path(other).read_bytes() == b"!" * 1000
    regions.close()
    assert open_files() == before


def test_threads_that_use_regions_while_they_come_and_go_see_only_their_own(
    regions: SharedMemoryRegions, create: Create
) -> None:
    numbers = range(2)
    keys = [create(bytes([number]) * 64, f"object{number}") for number in numbers]
    before = open_files()
    registered, done = threading.Event(), threading.Event()
    served = [threading.Event() for _ in numbers]
    wrong: list[object] = []

    def use(number: int) -> None:
        while not done.is_set():
            assert registered.wait(10)
            try:
                read = regions.read(f"region {number}", 0, 64).tobytes()
                regions.write(f"region {number}", 0, bytes([number]) * 64, 64)
            except InvalidRequestError as error:
                if error.reason != "SHARED_MEMORY_UNKNOWN":
                    wrong.append(error.message)
            else:
                served[number].set()
                if read != bytes([number]) * 64:
                    wrong.append(read)

    threads = [threading.Thread(target=use, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    try:
        for turn in range(200):
            # The order changes, so that descriptors go from one to the other.
            order = sorted(numbers, reverse=bool(turn % 2))
            for number in order:
                regions.register(f"region {number}", keys[number], 0, 64)
                served[number].clear()
            registered.set()
            for number in order:
                assert served[number].wait(10)
            registered.clear()
            regions.unregister_all()
    finally:
        done.set()
        registered.set()
    for thread in threads:
        thread.join(10)
    assert wrong == []
    assert [path(key).read_bytes() for key in keys] == [bytes([number]) * 64 for number in numbers]
    assert open_files() == before
