"""Between callers, priorities and models; and what becomes of work that nobody waits for."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from tests.unit.batching.fakes import Clock, FakeBackend, SlowBackend, hold_engine, in_thread, values

from retinue_server.batching.backend import Plan
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Priority, Stop, Stopped
from retinue_server.errors import OverloadedError, RetinueError


async def test_a_large_request_does_not_hold_up_a_small_one(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    large = asyncio.ensure_future(batcher.submit([1] * 5, caller="alice"))
    small = asyncio.ensure_future(batcher.submit([2], caller="bob"))
    same_caller = asyncio.ensure_future(batcher.submit([3], caller="alice"))
    await asyncio.sleep(0)
    backend.gate.set()
    await asyncio.gather(first, large, small, same_caller)
    assert sorted(backend.batches[1]) == [1, 1, 2, 3]


async def test_a_high_priority_goes_before_all_that_waits_and_a_low_one_after(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    waiting = [
        asyncio.ensure_future(batcher.submit([number] * 4, caller=number, priority=priority))
        for number, priority in ((1, Priority.LOW), (2, Priority.NORMAL), (3, Priority.HIGH))
    ]
    await asyncio.sleep(0)
    backend.gate.set()
    await asyncio.gather(first, *waiting)
    assert backend.batches[1:] == [[3] * 4, [2] * 4, [1] * 4]


async def test_one_caller_cannot_fill_the_queue_of_all(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    greedy = [asyncio.ensure_future(batcher.submit([1], caller="alice")) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="8 of them this caller's") as refusal:
        await batcher.submit([1], caller="alice")
    assert refusal.value.reason == "QUEUE_FULL"
    modest = asyncio.ensure_future(batcher.submit([2] * 4, caller="bob"))
    await asyncio.sleep(0)
    assert len(batcher) == 12
    backend.gate.set()
    await asyncio.gather(first, modest, *greedy)


async def test_copies_take_neither_a_turn_nor_room_from_what_is_asked_for(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    copies = [
        asyncio.ensure_future(batcher.submit([9] * 4, caller="shadow", priority=Priority.COPY))
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="8 of 16"):
        batcher.check_room(4, caller="shadow", priority=Priority.COPY, deadline=None)
    asked = [
        asyncio.ensure_future(batcher.submit([number] * 4, caller=number, priority=Priority.LOW))
        for number in range(1, 5)
    ]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="16 of 16"):
        batcher.check_room(1, caller="another", priority=Priority.HIGH, deadline=None)
    assert len(batcher) == 24
    backend.gate.set()
    await asyncio.gather(first, *copies, *asked)
    assert backend.batches[1:5] == [[1, 2, 3, 4]] * 4
    assert backend.batches[5:] == [[9] * 4] * 2


async def test_a_deadline_is_judged_by_the_turns_of_its_caller(
    backend: FakeBackend, batcher: Batcher[int, int], clock: Clock
) -> None:
    first = await hold_engine(backend, batcher)
    greedy = [asyncio.ensure_future(batcher.submit([1], caller="alice")) for _ in range(7)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match=r"0\.800 s of work"):
        await batcher.submit([2], caller="alice", deadline=clock.now + 0.8)
    # Behind the item that runs and one of alice's.
    modest = asyncio.ensure_future(batcher.submit([2], caller="bob", deadline=clock.now + 0.35))
    urgent = asyncio.ensure_future(
        batcher.submit([3], caller="carol", deadline=clock.now + 0.25, priority=Priority.HIGH)
    )
    await asyncio.sleep(0)
    backend.gate.set()
    assert values(await modest) == [4]
    assert values(await urgent) == [6]
    await asyncio.gather(first, *greedy)


async def test_models_share_the_engine_by_time_and_not_by_items(clock: Clock) -> None:
    engine = Engine(instances=1, clock=clock)
    seconds = {"quick": 0.0, "slow": 0.0}

    class Counting(SlowBackend):
        def __init__(self, name: str, seconds_an_item: float) -> None:
            super().__init__(clock, seconds_an_item)
            self.name = name

        def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[object]:
            if seconds["quick"] < 19.9:
                shares.append(seconds["quick"] - seconds["slow"])
            seconds[self.name] += self.seconds_an_item * len(items)
            return super().run(items, stop, alone=alone)

    shares: list[float] = []
    batchers = [
        Batcher(Counting(name, cost), engine, capacity=400, item_seconds=cost)
        for name, cost in (("quick", 0.1), ("slow", 1.0))
    ]
    pending = [asyncio.ensure_future(batcher.submit([1] * 200)) for batcher in batchers]
    await asyncio.sleep(0)
    engine.start()
    await pending[0]
    # While both had work, neither was ever ahead by more than the largest batch takes.
    assert max(map(abs, shares)) <= 4.4
    await pending[1]
    engine.stop()


async def test_a_model_that_was_idle_has_no_claim_to_the_time_it_did_not_use(clock: Clock) -> None:
    engine = Engine(instances=1, clock=clock)
    engine.start()
    order: list[str] = []

    class Noting(SlowBackend):
        def __init__(self, name: str) -> None:
            super().__init__(clock, 1.0)
            self.name = name

        def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int | RetinueError]:
            order.append(self.name)
            return super().run(items, stop, alone=alone)

    busy, idle = (Batcher(Noting(name), engine, capacity=400, item_seconds=1.0) for name in ("busy", "idle"))
    await busy.submit([1] * 100)
    order.clear()
    gate = FakeBackend()
    holding: Batcher[int, int] = Batcher(gate, engine, capacity=4, item_seconds=0.0)
    first = await hold_engine(gate, holding)
    pending = [asyncio.ensure_future(batcher.submit([1] * 8)) for batcher in (busy, idle)]
    await asyncio.sleep(0)
    gate.gate.set()
    await asyncio.gather(first, *pending)
    engine.stop()
    assert order in (["busy", "idle", "busy", "idle"], ["idle", "busy", "idle", "busy"])


class StoppableBackend:
    """Runs until it is stopped."""

    max_batch_size = 2

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int]:
        if 0 not in items:
            return [2 * item for item in items]
        asked = threading.Event()
        stop.when_requested(asked.set)
        self.begun.release()
        assert asked.wait(10)
        self.ended.release()
        raise Stopped


async def test_a_batch_that_runs_for_nobody_is_stopped(engine: Engine) -> None:
    backend = StoppableBackend()
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    leaving = asyncio.ensure_future(batcher.submit([0]))
    await in_thread(backend.begun.acquire)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await asyncio.to_thread(backend.ended.acquire, timeout=10)
    assert values(await batcher.submit([1])) == [2]


async def test_a_copy_that_runs_gives_way_to_a_request_of_any_model(engine: Engine) -> None:
    backend, other = StoppableBackend(), FakeBackend()
    candidate: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    asked: Batcher[int, int] = Batcher(other, engine, capacity=16, item_seconds=0.1)
    copy = asyncio.ensure_future(candidate.submit([0], priority=Priority.COPY))
    await in_thread(backend.begun.acquire)
    # Another copy waits for its turn.
    later = asyncio.ensure_future(candidate.submit([1], priority=Priority.COPY))
    await asyncio.sleep(0)
    assert not copy.done()
    assert values(await asyncio.wait_for(asked.submit([1]), 10)) == [2]
    (gone,) = values(await copy)
    assert isinstance(gone, OverloadedError)
    assert values(await later) == [2]


async def test_copies_run_on_where_a_thread_is_free() -> None:
    engine = Engine(2)
    engine.start()
    backend = StoppableBackend()
    candidate: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    asked: Batcher[int, int] = Batcher(FakeBackend(), engine, capacity=16, item_seconds=0.1)
    copy = asyncio.ensure_future(candidate.submit([0], priority=Priority.COPY))
    await in_thread(backend.begun.acquire)
    assert values(await asked.submit([1])) == [2]
    assert not backend.ended.acquire(blocking=False)
    copy.cancel()
    assert await asyncio.to_thread(backend.ended.acquire, timeout=10)
    engine.stop()


async def test_a_batch_that_runs_for_somebody_else_too_goes_on(engine: Engine) -> None:
    backend = StoppableBackend()
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    holding = asyncio.ensure_future(batcher.submit([0]))
    await in_thread(backend.begun.acquire)
    leaving, staying = (asyncio.ensure_future(batcher.submit([0])) for _ in range(2))
    await asyncio.sleep(0)
    holding.cancel()
    # The two run together now.
    await in_thread(backend.begun.acquire)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await asyncio.to_thread(backend.ended.acquire, timeout=10)
    assert not await asyncio.to_thread(backend.ended.acquire, timeout=0.1)
    staying.cancel()
    assert await asyncio.to_thread(backend.ended.acquire, timeout=10)


class Alone:
    """Notes which batches were told that they are alone; may be held."""

    max_batch_size = 4

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int]:
        self.told.append(alone)
        self.begun.release()
        assert self.gate.wait(10)
        return [2 * item for item in items]


async def test_an_item_is_alone_after_some_that_were() -> None:
    engine = Engine(instances=2)
    engine.start()
    backend = Alone()
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    for _ in range(5):
        await batcher.submit([1])
    assert backend.told == [False, False, False, True, True]
    # A request of two images is faster on two threads.
    await batcher.submit([1, 2])
    assert backend.told[5:] == [False, False]
    engine.stop()


async def test_an_item_is_not_alone_while_another_runs_nor_soon_after() -> None:
    engine = Engine(instances=2)
    engine.start()
    backend = Alone()
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    for _ in range(4):
        await batcher.submit([1])
    backend.gate.clear()
    first, second = (asyncio.ensure_future(batcher.submit([1])) for _ in range(2))
    for _ in range(6):
        await in_thread(backend.begun.acquire)
    backend.gate.set()
    await asyncio.gather(first, second)
    await batcher.submit([1])
    assert backend.told[-2:] == [False, False]
    engine.stop()


class Counted:
    """Notes how many of its batches run at once, and whether each had the machine to itself."""

    max_batch_size = 1

    def __init__(self) -> None:
        self.most = self._running = 0
        self.alone: set[bool] = set()
        self._lock = threading.Lock()

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int]:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        self.alone.add(alone)
        time.sleep(0.002)
        with self._lock:
            self._running -= 1
        return list(items)

    def close(self) -> None:
        """Holds nothing."""


@pytest.mark.parametrize(("most_running", "all_cores"), [(1, True), (2, False), (0, False)])
async def test_no_more_batches_of_a_model_run_at_once_than_are_good_for_it(
    most_running: int, all_cores: bool
) -> None:
    engine = Engine(3)
    limited, other = Counted(), Counted()
    batchers: list[Batcher[int, int]] = [
        Batcher(limited, engine, capacity=100, item_seconds=0.002, plan=Plan(most_running, all_cores)),
        Batcher(other, engine, capacity=100, item_seconds=0.002),
    ]
    engine.start()
    try:
        answers = await asyncio.gather(*(batcher.submit(range(30)) for batcher in batchers))
    finally:
        engine.stop()
    assert [values(outcomes) for outcomes in answers] == [list(range(30))] * 2
    assert limited.most <= (most_running or 3)
    assert limited.alone == {all_cores}


@pytest.mark.parametrize(("most_running", "refused"), [(0, False), (1, True)])
async def test_a_request_waits_longer_where_fewer_batches_run_at_once(
    most_running: int, refused: bool, clock: Clock
) -> None:
    """Of a model that may use one of three threads, sixty items of a second take sixty seconds and not twenty."""
    batcher: Batcher[int, int] = Batcher(
        FakeBackend(), Engine(3, clock=clock), capacity=100, item_seconds=1.0, plan=Plan(most_running)
    )
    requests = [
        asyncio.ensure_future(batcher.submit(range(30), deadline=clock() + seconds)) for seconds in (100, 45)
    ]
    await asyncio.sleep(0)
    assert [request.done() for request in requests] == [False, refused]
    for request in requests:
        request.cancel()
    endings = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(endings[1], OverloadedError) is refused


async def test_what_runs_counts_as_the_threads_that_must_idle_meanwhile(clock: Clock) -> None:
    """Behind a batch of a second that has the machine to itself an item waits a second, and not a third of it."""
    backend = FakeBackend()
    engine = Engine(3, clock=clock)
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=9, item_seconds=1.0, plan=Plan(1, True))
    engine.start()
    try:
        first = await hold_engine(backend, batcher)
        assert batcher.wait_seconds(Priority.NORMAL) == pytest.approx(1.0)
        second = asyncio.ensure_future(batcher.submit([2]))
        await asyncio.sleep(0)
        assert batcher.wait_seconds(Priority.LOW) == pytest.approx(2.0)
        backend.gate.set()
        await asyncio.gather(first, second)
    finally:
        engine.stop()


async def test_nothing_of_a_lower_priority_fills_a_batch_up_while_a_higher_one_waits(clock: Clock) -> None:
    backend = FakeBackend()
    engine = Engine(1, clock=clock)
    batcher: Batcher[int, int] = Batcher(
        backend, engine, capacity=9, item_seconds=1.0, runs_with=lambda first, second: first % 2 == second % 2
    )
    engine.start()
    try:
        first = await hold_engine(backend, batcher)
        waiting = [
            asyncio.ensure_future(batcher.submit([number], priority=priority))
            for number, priority in ((1, Priority.HIGH), (2, Priority.HIGH), (3, Priority.NORMAL))
        ]
        await asyncio.sleep(0)
        backend.gate.set()
        await asyncio.gather(first, *waiting)
    finally:
        engine.stop()
    assert backend.batches[1:] == [[1], [2], [3]]
