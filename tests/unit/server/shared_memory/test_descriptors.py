"""Regions keep their files as long as they are used, and no longer."""

import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.server.refusals import refusal
from tests.unit.server.shared_memory.objects import CONTENT, Create, open_files, path

from retinue_server.errors import InvalidRequestError
from retinue_server.shared_memory import MAX_REGIONS, SharedMemoryRegions

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
        assert read == [CONTENT[:1000]]
    else:
        assert path(key).read_bytes() == b"x" * 1000 + CONTENT[1000:]
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
