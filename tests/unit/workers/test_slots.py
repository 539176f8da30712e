import os
import threading
from itertools import pairwise

import numpy as np
import pytest

from retinue_server.batching.tickets import Priority
from retinue_server.errors import OverloadedError
from retinue_server.workers.slots import Layout, Lease, Place, Places, Row, SharedMemory, Slots, in_use

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


def _places(*layouts: Layout) -> list[Place]:
    places = Places()
    return [places.new(layout) for layout in layouts]


def _slots(memory: SharedMemory) -> Slots:
    (place,) = _places(_LAYOUT)
    memory.grow(place)
    return memory.map(place)


def _held_bytes(memory: SharedMemory) -> int:
    return os.fstat(memory.file).st_blocks * 512


def test_what_one_writes_the_other_reads_and_nothing_overlaps() -> None:
    ours, theirs = _two_views()
    places = _places(_LAYOUT, _OTHER)
    for place in places:
        ours.grow(place)
    written, read = ([memory.map(place) for place in places] for memory in (ours, theirs))
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
    slots = _slots(memory)
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


def test_no_model_has_anothers_number_or_place() -> None:
    places = _places(*[_LAYOUT, _OTHER] * 20)
    assert len({place.number for place in places}) == len(places)
    for one, following in pairwise(places):
        assert one.offset + one.layout.size_bytes <= following.offset


def test_memory_of_a_model_is_given_back_and_others_keep_theirs() -> None:
    memory, theirs = _two_views()
    going, staying = _places(_LAYOUT, _OTHER)
    for place in (staying, going):
        memory.grow(place)
    gone, kept, seen = memory.map(going), memory.map(staying), theirs.map(going)
    kept.arrays["images"][...] = 7
    before = _held_bytes(memory)
    seen.arrays["boxes"][...] = 7
    assert _held_bytes(memory) > before
    gone.give_back()
    assert _held_bytes(memory) == before
    assert (kept.arrays["images"] == 7).all()
    for view in (memory, theirs):
        view.close()


def test_who_waits_for_all_slots_is_told_once_when_they_are_back() -> None:
    memory = SharedMemory.new()
    slots = _slots(memory)
    told: list[str] = []
    slots.when_all_free(lambda: told.append("at once"))
    assert told == ["at once"]
    first, _ = slots.lease(2)
    second, _ = slots.lease(1)
    slots.when_all_free(lambda: told.append("all back"))
    assert second.use()
    first.end()
    second.end()
    assert told == ["at once"]
    second.leave()
    assert told == ["at once", "all back"]
    slots.lease(1)[0].end()
    assert told == ["at once", "all back"]
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
