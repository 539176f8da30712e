"""Batches that hang cost their callers an answer, and nobody else anything."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.batching.fakes import Clock, FakeBackend, hold_engine, in_thread, values

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.recovery import Limits, Recovery, Remedy, State
from retinue_server.batching.tickets import Stop, Stopped
from retinue_server.batching.watchdog import Watchdog
from retinue_server.errors import DeviceError, EngineError, RetinueError, UnavailableError

LIMITS = Limits(batch_seconds=10, grace_seconds=5, failures=2, lost_threads=2)


class Model(FakeBackend):
    """A fake backend that stops when it is told to, where it is to; its probe fails where that is to."""

    def __init__(self, *, stops: bool = True) -> None:
        super().__init__()
        self.stops = stops
        self.probe_fails_with: Exception | None = None
        self.probes = 0

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int | RetinueError]:
        if self.stops:
            stop.when_requested(self.gate.set)
        answers = super().run(items, stop, alone=alone)
        if self.stops and stop.requested:
            raise Stopped
        return answers

    def probe(self, stop: Stop) -> None:
        self.probes += 1
        if self.probe_fails_with is not None:
            raise self.probe_fails_with


class Bench:
    """An engine of one thread with a model that is looked after, and another model.

    Attributes:
        models: What the first queue has run in, the latest last.
        closed: How many of them were closed.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.models: list[Model] = [Model()]
        self.reopen_fails_with: Exception | None = None
        self.closed = 0
        self.work: list[Callable[[], None]] = []
        self.counted: list[int] = []
        self.batcher: Batcher[int, int] = Batcher(
            self.models[0],
            engine,
            capacity=16,
            item_seconds=0.1,
            on_batch=lambda size, seconds: self.counted.append(size),
        )
        self.recovery = Recovery(
            Remedy(lambda model, stop: model.probe(stop), self.reopen, self.count_closed),
            LIMITS,
            clock=engine.clock,
            start=self.work.append,
        )
        self.batcher.heal_by(self.recovery)
        self.other: Batcher[int, int] = Batcher(FakeBackend(), engine, capacity=16, item_seconds=0.1)

    def reopen(self) -> Model:
        if self.reopen_fails_with is not None:
            raise self.reopen_fails_with
        self.models.append(Model())
        return self.models[-1]

    def count_closed(self) -> None:
        self.closed += 1

    def watch(self, seconds: float) -> None:
        """Has somebody watch what runs for so long."""
        self.engine.watch(seconds)
        self.engine.watch(seconds)

    def heal(self) -> None:
        """Does what other threads are to do."""
        assert self.work
        while self.work:
            self.work.pop(0)()

    async def hang(self, *, stops: bool) -> "asyncio.Task[Any]":
        """Has a batch hang; returns who waits for it."""
        self.models[-1].stops = stops
        return await hold_engine(self.models[-1], self.batcher)


@pytest.fixture
def bench(engine: Engine) -> Bench:
    return Bench(engine)


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    engine = Engine(instances=1, clock=clock)
    engine.start()
    yield engine
    engine.stop()


async def reason_of(running: "asyncio.Task[Any]") -> str:
    (error,) = values(await running)
    assert isinstance(error, EngineError)
    return error.reason


async def test_a_batch_that_takes_too_long_is_stopped_and_its_callers_are_told(bench: Bench) -> None:
    running = await bench.hang(stops=True)
    bench.watch(LIMITS.batch_seconds - 1)
    assert not running.done()
    bench.engine.watch(1)
    assert await reason_of(running) == "MODEL_HUNG"
    # The probe comes before what the next caller wants.
    assert values(await bench.batcher.submit([1])) == [2]
    assert bench.models[0].probes == 1
    assert bench.recovery.state is State.READY
    assert bench.recovery.lost_threads == 0


async def test_a_batch_that_has_just_begun_is_given_its_time_whatever_has_passed_before(bench: Bench) -> None:
    running = await bench.hang(stops=True)
    bench.engine.watch(1000)
    assert bench.recovery.hung == 0
    bench.models[0].gate.set()
    assert values(await running) == [0]


async def test_a_batch_that_always_takes_long_may_do_so(bench: Bench) -> None:
    bench.batcher.cost.seconds = 1.0
    running = await bench.hang(stops=True)
    bench.watch(19.0)
    assert bench.recovery.hung == 0
    bench.models[0].gate.set()
    assert values(await running) == [0]


async def test_a_thread_that_does_not_stop_is_given_up_and_another_serves_the_others(bench: Bench) -> None:
    running = await bench.hang(stops=False)
    waiting = asyncio.ensure_future(bench.batcher.submit([3]))
    of_other = asyncio.ensure_future(bench.other.submit([5]))
    await asyncio.sleep(0)
    bench.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)

    assert await reason_of(running) == "MODEL_HUNG"
    (refused,) = values(await waiting)
    assert isinstance(refused, UnavailableError)
    assert refused.reason == "MODEL_UNREADY"
    assert values(await of_other) == [10]
    with pytest.raises(UnavailableError) as raised:
        await bench.batcher.submit([4])
    assert raised.value.reason == "MODEL_UNREADY"
    # Nothing may use the one that hangs, and nothing may close it.
    assert (bench.batcher.former_backends, bench.closed) == (1, 0)

    bench.heal()
    assert values(await bench.batcher.submit([4])) == [8]
    assert bench.models[1].batches == [[4]]
    bench.models[0].gate.set()


async def test_a_thread_that_comes_back_at_last_answers_nobody_and_ends(bench: Bench) -> None:
    before = set(bench.engine._threads)
    running = await bench.hang(stops=False)
    bench.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)
    await running
    bench.heal()
    cost_seconds = bench.batcher.cost.seconds
    bench.models[0].gate.set()
    (lost,) = [thread for thread in before if thread not in bench.engine._threads]
    await in_thread(lambda: lost.join(10))

    assert not lost.is_alive()
    assert bench.recovery.lost_threads == 0
    bench.heal()
    assert (bench.batcher.former_backends, bench.closed) == (0, 1)
    assert bench.models[0].closed
    assert (bench.counted, bench.batcher.cost.seconds) == ([], cost_seconds)
    assert bench.engine.healthy
    assert values(await bench.batcher.submit([4])) == [8]
    assert bench.engine.idle == 1


async def test_even_a_lost_thread_that_dies_leaves_the_engine_healthy(bench: Bench) -> None:
    running = await bench.hang(stops=False)
    bench.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)
    await running
    bench.heal()
    bench.models[0].fail_with = SystemExit()
    bench.models[0].gate.set()
    while bench.recovery.lost_threads:
        await asyncio.sleep(0.001)
    assert bench.engine.healthy
    assert values(await bench.batcher.submit([4])) == [8]


async def test_a_lost_thread_does_not_keep_its_model_from_being_unloaded(bench: Bench) -> None:
    running = await bench.hang(stops=False)
    bench.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)
    await running
    await in_thread(lambda: bench.batcher.close(60))
    # What hangs keeps what it needs.
    assert bench.closed == 0
    bench.heal()
    # What was opened too late is closed.
    assert bench.closed == 1
    bench.models[0].gate.set()
    while bench.closed < 2:
        await asyncio.sleep(0.001)
    assert bench.recovery.lost_threads == 0


async def test_a_model_that_is_given_up_keeps_no_memory_but_what_hangs(bench: Bench, clock: Clock) -> None:
    for _ in range(LIMITS.lost_threads):
        running = await bench.hang(stops=False)
        # It fails otherwise, too, and is replaced before its thread is given up.
        clock.now += 1
        with bench.engine.lock:
            bench.recovery.device_failed()
        bench.heal()
        bench.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)
        assert await reason_of(running) == "MODEL_HUNG"
    assert bench.recovery.state is State.GIVEN_UP
    bench.heal()
    assert [model.closed for model in bench.models] == [False, False, True]
    for model in bench.models:
        model.gate.set()


async def test_a_batch_that_is_stopped_by_the_end_of_the_server_says_so(bench: Bench) -> None:
    running = await bench.hang(stops=True)
    await in_thread(lambda: bench.engine.stop(0))
    (error,) = values(await running)
    assert isinstance(error, EngineError)
    assert "the server is shutting down" in error.message


async def test_images_that_fail_do_not_take_the_model_from_others(bench: Bench) -> None:
    model = bench.models[0]
    for _ in range(3):
        model.fail_with = ValueError("boom")
        for _ in range(LIMITS.failures):
            await bench.batcher.submit([1])
        model.fail_with = None
        assert values(await bench.batcher.submit([2])) == [4]
    assert bench.batcher.refusal is None
    assert model.probes == 3


async def test_a_model_that_fails_its_probe_is_opened_anew(bench: Bench) -> None:
    model = bench.models[0]
    model.fail_with = model.probe_fails_with = ValueError("boom")
    for _ in range(LIMITS.failures):
        await bench.batcher.submit([1])
    while not bench.work:
        await asyncio.sleep(0.001)
    with pytest.raises(UnavailableError):
        await bench.batcher.submit([1])
    bench.heal()
    assert model.closed
    assert values(await bench.batcher.submit([1])) == [2]


async def test_closing_a_model_that_failed_keeps_no_thread_from_the_others(bench: Bench) -> None:
    model = bench.models[0]
    model.fail_with = DeviceError("CUDA failure 700")
    await bench.batcher.submit([1])
    # The engine's only thread has done with that batch.
    assert values(await bench.other.submit([1])) == [2]
    assert not model.closed
    bench.heal()
    assert model.closed


async def test_a_device_that_fails_is_a_reason_to_probe_all_models(bench: Bench) -> None:
    second = Bench(bench.engine)
    bench.models[0].fail_with = DeviceError("CUDA failure 700")
    assert await reason_of(asyncio.ensure_future(bench.batcher.submit([1]))) == "ENGINE_FAILED"
    with bench.engine.lock:
        assert bench.recovery.state is State.REBUILDING
    assert values(await second.batcher.submit([1])) == [2]
    assert second.models[0].probes == 1

    for one in (bench, second):
        one.reopen_fails_with = DeviceError("CUDA failure 700")
    with bench.engine.lock:
        second.recovery.device_failed()
    for _ in range(LIMITS.device_failures):
        assert not bench.engine.device_lost
        for one in (bench, second):
            one.heal()
        bench.engine.clock.now += 100  # type: ignore[attr-defined]
        bench.engine.watch(0.1)
    assert bench.engine.device_lost


async def test_a_model_too_slow_for_anybody_to_wait_is_probed(bench: Bench, clock: Clock) -> None:
    for _ in range(LIMITS.failures):
        running = await bench.hang(stops=True)
        clock.now += 9
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while bench.engine.idle < 1:
            await asyncio.sleep(0.001)
    assert values(await bench.batcher.submit([1])) == [2]
    assert bench.models[0].probes == 1


async def test_a_thread_that_cannot_be_replaced_is_replaced_when_it_can_be(bench: Bench) -> None:
    running = await bench.hang(stops=False)
    of_other = asyncio.ensure_future(bench.other.submit([5]))
    await asyncio.sleep(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        bench.engine.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no thread"):
                bench.engine.watch(LIMITS.batch_seconds + LIMITS.grace_seconds)
        assert bench.engine.idle == 0
    # Who waited for the batch is told all the same, once.
    assert await reason_of(running) == "MODEL_HUNG"
    assert bench.recovery.lost_threads == 1
    assert not of_other.done()
    bench.engine.watch(0.1)
    assert values(await of_other) == [10]
    assert bench.engine.idle == 1
    bench.models[0].gate.set()


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("no thread can be started")


def test_looking_goes_on_where_it_fails_and_that_is_told_once() -> None:
    looks: queue.SimpleQueue[float] = queue.SimpleQueue()

    def look(seconds: float) -> None:
        looks.put(seconds)
        if looks.qsize() < 4:
            raise RuntimeError("no thread can be started")

    watchdog = Watchdog(look, tick_seconds=0.001)
    with capture_logs() as logs:
        watchdog.start()
        while looks.qsize() < 6:
            time.sleep(0.001)
        watchdog.stop()
    assert [event["event"] for event in logs] == ["batch_watch_failed"]


def test_time_in_which_the_process_was_stopped_does_not_count(clock: Clock) -> None:
    seen: list[float] = []
    watchdog = Watchdog(seen.append, tick_seconds=1, clock=clock)
    for seconds in (1, 1.5, 3600, 1):
        clock.now += seconds
        watchdog.tick()
    assert seen == [1, 1.5, 2, 1]
