import pytest
from tests.unit.batching.fakes import Clock

from retinue_server.batching.tickets import Priority
from retinue_server.errors import OverloadedError
from retinue_server.workers.load import LOAD_BYTES, Load

_NO_WAITS = dict.fromkeys(Priority, 0.0)


def _load() -> tuple[Load, Clock]:
    clock = Clock()
    return Load(memoryview(bytearray(LOAD_BYTES)), clock), clock


def test_what_does_not_fit_is_refused() -> None:
    load, _ = _load()
    load.publish(38, 40, _NO_WAITS)
    load.check(2, Priority.NORMAL, None)
    with pytest.raises(OverloadedError, match=r"38 of 40 images: 3 more are too many; retry in") as raised:
        load.check(3, Priority.NORMAL, None)
    assert raised.value.reason == "QUEUE_FULL"
    assert raised.value.retry_after_seconds > 0


def test_room_is_told_of_at_once_and_what_was_told_of_waits_stays() -> None:
    load, clock = _load()
    load.publish(40, 40, dict.fromkeys(Priority, 1.0))
    load.publish_waiting(39)
    load.check(1, Priority.NORMAL, None)
    with pytest.raises(OverloadedError):
        load.check(1, Priority.NORMAL, clock.now + 0.5)


def test_a_deadline_that_cannot_be_met_is_refused_by_priority() -> None:
    load, clock = _load()
    load.publish(5, 40, {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0})
    load.check(1, Priority.HIGH, clock.now + 0.01)
    load.check(1, Priority.NORMAL, clock.now + 1.5)
    with pytest.raises(OverloadedError) as raised:
        load.check(1, Priority.LOW, clock.now + 1.5)
    assert raised.value.reason == "DEADLINE_TOO_SHORT"
    assert raised.value.retry_after_seconds == pytest.approx(3)


def test_a_wait_gets_shorter_by_itself() -> None:
    load, clock = _load()
    load.publish(5, 40, dict.fromkeys(Priority, 1.0))
    clock.now += 0.9
    load.check(1, Priority.NORMAL, clock.now + 0.2)
    clock.now += 10
    load.check(1, Priority.NORMAL, clock.now)
