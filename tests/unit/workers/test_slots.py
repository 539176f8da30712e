import os
import threading

import numpy as np
import pytest

from retinue_server.batching.tickets import Priority
from retinue_server.errors import OverloadedError
from retinue_server.workers.slots import Layout, Lease, Row, SharedMemory, in_use

_LAYOUT = Layout(
    5,
    (Row("images", "uint8", (3, 3, 3)), Row("score_threshold", "float32", ())),
    (Row("boxes", "float32", (7, 4)),),
    (Row("masks", "float32", (7, 2, 2)),),
)
_OTHER = Layout(2, (Row("images", "uint8", (4, 4, 1)),), (Row("class_map", "int32", (4, 4)),), ())


def _two_views() -> tuple[SharedMemory, SharedMemory]:
    """The same memory, as two processes have it."""
    first = SharedMemory.new()
    return first, SharedMemory(os.dup(first.file))


def test_what_one_writes_the_other_reads_and_nothing_overlaps() -> None:
    ours, theirs = _two_views()
    ours.grow([_LAYOUT, _OTHER])
    written, read = ours.map([_LAYOUT, _OTHER]), theirs.map([_LAYOUT, _OTHER])
    everything = [(place, name) for place, slots in enumerate(written) for name in slots.arrays]
    for value, (place, name) in enumerate(everything):
        written[place].arrays[name][...] = value
    written[0].load.publish(1, 10, dict.fromkeys(Priority, 0.0))
    for value, (place, name) in enumerate(everything):
        array = read[place].arrays[name]
        assert array.dtype == written[place].arrays[name].dtype
        assert (array == value).all()
    assert read[0].arrays["boxes"].shape == (5, 7, 4)
    assert read[0].arrays["score_threshold"].shape == (5,)
    for memory in (ours, theirs):
        memory.close()


def test_a_layout_comes_out_of_json_as_it_went_in() -> None:
    assert Layout.from_json(_LAYOUT.to_json()) == _LAYOUT
    assert Layout.from_json([_LAYOUT.slots, *_LAYOUT.to_json()[1:]]).size_bytes == _LAYOUT.size_bytes


def test_slots_are_each_given_once_until_they_are_back() -> None:
    memory = SharedMemory.new()
    memory.grow([_LAYOUT])
    (slots,) = memory.map([_LAYOUT])
    first, numbers = slots.lease(3)
    second, more = slots.lease(2)
    assert sorted(numbers + more) == [0, 1, 2, 3, 4]
    with pytest.raises(OverloadedError, match=r"5, and 1 more are too many; retry in"):
        slots.lease(1)
    assert slots.free == 0
    first.end()
    assert slots.free == 3
    _, again = slots.lease(3)
    assert sorted(again) == sorted(numbers)
    second.end()
    assert slots.free == 2
    memory.close()


def test_slots_in_use_are_given_back_by_the_last_who_leaves() -> None:
    over: list[str] = []
    lease = Lease(lambda: over.append("over"))
    assert lease.use()
    assert lease.use()
    lease.end()
    assert not lease.use()
    lease.leave()
    assert not over
    lease.leave()
    assert over == ["over"]


def test_leases_that_have_ended_are_not_held() -> None:
    ended, alive = Lease(lambda: None), Lease(lambda: None)
    ended.end()
    with in_use([alive, ended, alive]) as held:
        assert held == {alive}


def test_a_lease_is_over_once_whoever_races() -> None:
    for _ in range(200):
        over: list[int] = []
        lease = Lease(lambda over=over: over.append(1))  # type: ignore[misc]
        start = threading.Barrier(3)

        def use(lease: Lease = lease, start: threading.Barrier = start) -> None:
            start.wait()
            if lease.use():
                lease.leave()

        users = [threading.Thread(target=use) for _ in range(2)]
        for user in users:
            user.start()
        start.wait()
        lease.end()
        for user in users:
            user.join()
        assert over == [1]


def test_sizes_are_those_of_the_arrays() -> None:
    assert _LAYOUT.size_bytes >= sum(
        _LAYOUT.slots * np.dtype(row.dtype).itemsize * int(np.prod(row.shape)) for row in _LAYOUT.rows
    )
