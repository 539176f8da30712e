"""A front-end holds a model until it says that nothing of it is left there, or is gone itself."""

import errno
import os
from collections.abc import Iterator

import pytest

from retinue_server.catalog import Leases
from retinue_server.workers.frames import FrameError
from retinue_server.workers.held import HeldModels
from retinue_server.workers.slots import Layout, Places, Row, SharedMemory, Slots

_LAYOUT = Layout(8, (Row("images", "uint8", (64, 64, 3)),), (Row("probabilities", "float32", (3,)),), ())


class NoQueue:
    def __len__(self) -> int:
        return 0


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.new()
    yield memory
    memory.close()


def _hold(held: HeldModels, leases: Leases, places: Places) -> int:
    place = places.new(_LAYOUT)
    held.hold(place, NoQueue(), leases)  # type: ignore[arg-type]
    held.hold(place, NoQueue(), leases)  # type: ignore[arg-type]
    return place.number


def test_a_model_is_leased_once_however_often_it_is_told_of(memory: SharedMemory) -> None:
    held, leases = HeldModels(memory), Leases()
    number = _hold(held, leases, Places())
    assert len(leases) == 1
    assert list(held) == [number]
    held.release(number)
    assert not len(leases)
    assert not held
    with pytest.raises(FrameError):
        held.release(number)


def test_memory_is_given_back_when_a_model_is(memory: SharedMemory) -> None:
    held, places = HeldModels(memory), Places()
    for _ in range(50):
        number = _hold(held, Leases(), places)
        held[number].slots.arrays["images"][...] = 1
        held.release(number)
    assert os.fstat(memory.file).st_blocks == 0


def test_a_kernel_that_cannot_give_memory_back_keeps_no_model(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(slots: Slots) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(Slots, "give_back", cannot)
    held, leases = HeldModels(memory), Leases()
    held.release(_hold(held, leases, Places()))
    assert not len(leases)
    assert not held


def test_all_leases_of_a_front_end_that_is_gone_are_given_back(memory: SharedMemory) -> None:
    held, places = HeldModels(memory), Places()
    leases = [Leases() for _ in range(3)]
    for one in leases:
        _hold(held, one, places)
    held.drop_all()
    held.drop_all()
    assert not any(map(len, leases))
    assert not held
