"""What can be registered, and what is refused."""

import errno
import os
import socket
from pathlib import Path

import pytest
from tests.unit.server.refusals import refusal
from tests.unit.server.shared_memory.objects import SHM, Create, unusable

from retinue_server.shared_memory import Region, SharedMemoryRegions

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
        (SHM / link).symlink_to(target)
        assert "it is a symbolic link; register the object itself." in unusable(regions, link)


def test_a_directory_is_refused(regions: SharedMemoryRegions, prefix: str) -> None:
    (SHM / f"{prefix}directory").mkdir()
    assert "it is a directory" in unusable(regions, f"/{prefix}directory")


def test_a_fifo_is_refused_and_not_waited_for(regions: SharedMemoryRegions, prefix: str) -> None:
    os.mkfifo(SHM / f"{prefix}fifo")
    assert "it is no regular file" in unusable(regions, f"/{prefix}fifo")


def test_a_socket_is_refused(regions: SharedMemoryRegions, prefix: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(SHM / f"{prefix}socket"))
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
