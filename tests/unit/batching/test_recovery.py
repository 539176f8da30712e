"""A model's way from failing to answering again, with a hand-driven clock and no model."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.unit.batching.fakes import Clock

from retinue_server.batching.recovery import Limits, Recovery, Remedy, State
from retinue_server.batching.tickets import Stop
from retinue_server.errors import DeviceError, RetinueError, UnavailableError

LIMITS = Limits(failures=3, lost_threads=2, first_pause_seconds=1, longest_pause_seconds=4, device_failures=2)


class Backend:
    """Nothing that runs."""

    max_batch_size = 1

    def run(self, items: Sequence[Any], stop: Stop, *, alone: bool) -> list[Any | RetinueError]:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


class Bench:
    """A model that is healed when the test says so."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.work: list[Callable[[], None]] = []
        self.error: Exception | None = None
        self.told: list[str] = []
        self.changes = 0
        self.recovery = Recovery(
            Remedy(lambda backend, stop: None, self.reopen),
            LIMITS,
            name="a/1",
            on_change=self.changed,
            clock=self.clock,
            start=self.work.append,
        )
        self.recovery.look_after(self)

    def reopen(self) -> Backend:
        self.told.append("reopen")
        if self.error is not None:
            raise self.error
        return Backend()

    def changed(self) -> None:
        self.changes += 1

    def want_probe(self) -> None:
        self.told.append("probe")

    def refuse(self, error: UnavailableError) -> None:
        assert error.reason == "MODEL_UNREADY"
        self.told.append("refuse")

    def clear(self) -> None:
        self.told.append("clear")

    def accept(self, backend: Any) -> None:
        assert isinstance(backend, Backend)
        self.told.append("accept")

    def fail(self, times: int = LIMITS.failures) -> None:
        for _ in range(times):
            self.recovery.batch_failed()

    def heal(self) -> None:
        """Does the work that was begun."""
        (work,) = self.work
        self.work.clear()
        work()

    def fail_to_heal(self, error: Exception) -> None:
        self.error = error
        self.heal()
        self.error = None

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.recovery.tick()

    @property
    def state(self) -> State:
        return self.recovery.state


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_batches_that_fail_in_a_row_are_a_reason_to_probe_and_not_to_refuse(bench: Bench) -> None:
    bench.fail(LIMITS.failures - 1)
    assert (bench.state, bench.told) == (State.READY, [])
    bench.fail(1)
    assert (bench.state, bench.told, bench.changes) == (State.SUSPECT, ["probe"], 0)


def test_one_answer_between_them_forgives_all_failures(bench: Bench) -> None:
    bench.fail(LIMITS.failures - 1)
    bench.recovery.batch_answered()
    bench.fail(LIMITS.failures - 1)
    assert bench.state is State.READY


def test_a_model_that_answers_the_probe_stays_whatever_callers_send(bench: Bench) -> None:
    for _ in range(3):
        bench.fail()
        bench.recovery.probe_answered()
        assert bench.state is State.READY
    assert bench.told == ["probe"] * 3
    assert bench.changes == 0


def test_a_model_that_fails_the_probe_refuses_is_opened_anew_and_takes_requests_again(bench: Bench) -> None:
    bench.fail()
    bench.recovery.probe_failed()
    assert (bench.state, bench.changes) == (State.REBUILDING, 1)
    # The former backend goes before there is another, since there need not be memory for two.
    bench.heal()
    assert bench.told == ["probe", "refuse", "clear", "reopen", "accept", "clear"]
    assert (bench.state, bench.changes, bench.recovery.rebuilds) == (State.READY, 2, 1)


def test_the_pause_between_attempts_doubles_up_to_its_most(bench: Bench) -> None:
    bench.recovery.thread_lost(current=True)
    for pause_seconds in (1, 2, 4, 4):
        bench.fail_to_heal(ValueError("no"))
        assert bench.state is State.WAITING
        bench.wait(pause_seconds - 0.01)
        assert not bench.work
        bench.wait(0.01)
        assert bench.state is State.REBUILDING
    bench.heal()
    assert bench.state is State.READY
    assert bench.recovery.failed_rebuilds == 4
    assert bench.changes == 2


def test_a_model_that_falls_ill_before_it_has_answered_anybody_waits_too(bench: Bench) -> None:
    bench.recovery.device_failed()
    bench.heal()
    bench.recovery.device_failed()
    assert bench.state is State.WAITING
    bench.wait(1)
    bench.heal()
    bench.recovery.batch_answered()
    bench.recovery.device_failed()
    assert bench.state is State.REBUILDING


def test_a_batch_that_hangs_is_a_reason_to_probe_at_once(bench: Bench) -> None:
    bench.recovery.batch_hung()
    assert (bench.state, bench.recovery.hung) == (State.SUSPECT, 1)


def test_a_model_that_has_lost_too_many_threads_is_given_up_until_one_is_back(bench: Bench) -> None:
    bench.recovery.thread_lost(current=True)
    bench.heal()
    bench.recovery.thread_lost(current=True)
    assert bench.state is State.GIVEN_UP
    # It is not opened, but closed.
    bench.heal()
    assert bench.told[-2:] == ["refuse", "clear"]
    bench.wait(1000)
    assert (bench.state, bench.work) == (State.GIVEN_UP, [])
    bench.recovery.thread_back()
    assert bench.recovery.lost_threads == 1
    bench.heal()
    assert bench.state is State.READY


def test_a_thread_that_was_lost_to_the_backend_before_says_nothing_of_this_one(bench: Bench) -> None:
    bench.recovery.device_failed()
    bench.heal()
    bench.recovery.thread_lost(current=False)
    assert (bench.state, bench.recovery.lost_threads) == (State.READY, 1)


def test_a_model_that_loses_the_last_thread_while_it_is_opened_is_given_up(bench: Bench) -> None:
    bench.recovery.thread_lost(current=True)
    bench.recovery.thread_lost(current=True)
    assert bench.state is State.REBUILDING
    bench.heal()
    assert bench.state is State.GIVEN_UP
    # What was opened is closed.
    assert bench.told[-3:] == ["accept", "refuse", "clear"]


def test_a_device_is_lost_when_it_fails_every_attempt(bench: Bench) -> None:
    bench.recovery.device_failed()
    bench.fail_to_heal(DeviceError("gone"))
    assert not bench.recovery.device_lost
    bench.wait(1)
    bench.fail_to_heal(DeviceError("gone"))
    assert bench.recovery.device_lost
    bench.wait(2)
    bench.heal()
    assert not bench.recovery.device_lost


def test_a_lack_of_memory_is_no_lost_device(bench: Bench) -> None:
    bench.recovery.device_failed()
    for pause_seconds in (1, 2, 4):
        bench.fail_to_heal(RuntimeError("CUDA failure 2: out of memory"))
        bench.wait(pause_seconds)
    assert not bench.recovery.device_lost


def test_a_model_that_is_unloaded_meanwhile_is_left_alone(bench: Bench) -> None:
    bench.recovery.device_failed()
    bench.recovery.detach()
    bench.heal()
    # It is for the queue to have it closed.
    assert bench.told[-2:] == ["accept", "clear"]
    bench.fail()
    bench.recovery.device_failed()
    assert bench.told[-1] == "clear"
    assert bench.changes == 1


def test_a_model_is_opened_later_where_no_thread_can_be_started_for_it() -> None:
    bench = Bench()
    begin, bench.recovery._start = bench.recovery._start, no_thread
    bench.recovery.device_failed()
    assert bench.recovery.state is State.WAITING
    assert bench.told == ["refuse"]
    bench.recovery._start = begin
    bench.wait(LIMITS.first_pause_seconds)
    bench.heal()
    assert bench.recovery.state is State.READY


def no_thread(work: Callable[[], None]) -> None:
    raise RuntimeError("can't start new thread")
