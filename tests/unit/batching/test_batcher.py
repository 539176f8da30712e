import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.unit.batching.fakes import Clock, FakeBackend, SlowBackend, hold_engine, in_thread, values

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Priority, Stop
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    ImageError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)


async def test_a_lone_item_runs_at_once_and_alone(backend: FakeBackend, batcher: Batcher[int, int]) -> None:
    assert values(await batcher.submit([21])) == [42]
    assert backend.batches == [[21]]


async def test_items_that_come_while_the_engine_is_busy_run_together(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    waiting = [asyncio.ensure_future(batcher.submit([number])) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    backend.gate.set()
    assert [values(outcomes) for outcomes in await asyncio.gather(*waiting)] == [[2], [4], [6]]
    assert values(await first) == [0]  # type: ignore[arg-type]
    assert backend.batches == [[0], [1, 2, 3]]


async def test_a_request_larger_than_a_batch_is_split_and_answered_in_order(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    outcomes = await batcher.submit(list(range(10)))
    assert values(outcomes) == [2 * number for number in range(10)]
    assert max(map(len, backend.batches)) == backend.max_batch_size


async def test_what_cannot_run_together_waits_in_its_place_and_is_answered(
    backend: FakeBackend, engine: Engine
) -> None:
    batcher = Batcher(
        backend,
        engine,
        capacity=16,
        item_seconds=0.1,
        runs_with=lambda first, second: first % 2 == second % 2,
    )
    first = await hold_engine(backend, batcher)
    waiting = [asyncio.ensure_future(batcher.submit([number])) for number in (1, 2, 3, 4, 6, 5)]
    await asyncio.sleep(0)
    backend.gate.set()
    answers = await asyncio.gather(*waiting)
    assert [values(outcomes) for outcomes in answers] == [[2], [4], [6], [8], [12], [10]]
    await first
    assert backend.batches == [[0], [1, 3, 5], [2, 4, 6]]


async def test_one_bad_item_fails_alone(backend: FakeBackend, batcher: Batcher[int, int]) -> None:
    good, bad, also_good = values(await batcher.submit([1, -1, 3]))
    assert (good, also_good) == (2, 6)
    assert isinstance(bad, ImageError)


async def test_a_batch_that_raises_fails_its_items_and_the_next_one_runs(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    backend.fail_with = ValueError("boom")
    (failed,) = values(await batcher.submit([1]))
    assert isinstance(failed, EngineError)
    assert "boom" not in failed.message
    backend.fail_with = None
    assert values(await batcher.submit([2])) == [4]


async def test_a_backend_that_loses_an_answer_fails_the_batch(
    backend: FakeBackend, batcher: Batcher[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "run", lambda items, stop, alone: [0])
    assert [type(value) for value in values(await batcher.submit([1, 2]))] == [EngineError, EngineError]


async def test_an_expired_item_is_never_run(
    backend: FakeBackend, batcher: Batcher[int, int], clock: Clock
) -> None:
    first = await hold_engine(backend, batcher)
    late = asyncio.ensure_future(batcher.submit([1], deadline=clock.now + 5))
    patient = asyncio.ensure_future(batcher.submit([2], deadline=clock.now + 50))
    await asyncio.sleep(0)
    clock.now += 10
    backend.gate.set()
    (expired,) = values(await late)
    assert isinstance(expired, DeadlineExpiredError)
    assert values(await patient) == [4]
    await first
    assert [1] not in backend.batches
    assert backend.batches[-1] == [2]


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(
    backend: FakeBackend, batcher: Batcher[int, int], clock: Clock
) -> None:
    first = await hold_engine(backend, batcher)
    waiting = [asyncio.ensure_future(batcher.submit([1])) for _ in range(7)]
    await asyncio.sleep(0)
    # Seven items of a tenth of a second wait, behind one that runs. Of what just fits, much would be late.
    for seconds in (0.8, 1.05):
        with pytest.raises(OverloadedError) as refusal:
            await batcher.submit([2], deadline=clock.now + seconds)
        assert refusal.value.reason == "DEADLINE_TOO_SHORT"
        assert refusal.value.retry_after_seconds == pytest.approx(0.8)
        with pytest.raises(OverloadedError):
            batcher.check_room(1, caller=None, priority=Priority.NORMAL, deadline=clock.now + seconds)
    batcher.check_room(1, caller=None, priority=Priority.NORMAL, deadline=clock.now + 1.2)
    backend.gate.set()
    await asyncio.gather(first, *waiting)
    assert [2] not in backend.batches


async def test_a_deadline_that_the_running_batch_makes_impossible_is_refused_at_once(
    backend: FakeBackend, batcher: Batcher[int, int], clock: Clock
) -> None:
    batcher.cost.seconds = 10.0
    first = await hold_engine(backend, batcher)
    with pytest.raises(OverloadedError):
        await batcher.submit([1], deadline=clock.now + 1)
    backend.gate.set()
    await first


async def test_a_request_too_large_for_its_deadline_is_refused_by_an_idle_engine_that_knows_the_cost(
    engine: Engine, clock: Clock
) -> None:
    backend = SlowBackend(clock, seconds_an_item=0.1)
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=300, item_seconds=0.1)
    await batcher.submit([1])
    with pytest.raises(OverloadedError):
        await batcher.submit([1] * 256, deadline=clock.now + 1)
    assert values(await batcher.submit([1, 2], deadline=clock.now + 1)) == [2, 4]


@pytest.mark.parametrize("unanswered", [-1, None])
async def test_a_batch_without_an_answer_says_nothing_of_the_cost(
    unanswered: Any, engine: Engine, clock: Clock
) -> None:
    sizes: list[int] = []
    backend = SlowBackend(clock, seconds_an_item=0.1)
    batcher: Batcher[int, int] = Batcher(
        backend, engine, capacity=300, item_seconds=0.1, on_batch=lambda size, _: sizes.append(size)
    )
    await batcher.submit([1])
    for _ in range(50):
        (value,) = values(await batcher.submit([unanswered]))
        assert isinstance(value, RetinueError)
    assert batcher.cost.seconds == pytest.approx(0.1)
    with pytest.raises(OverloadedError, match=r"the request takes 25\.600 s"):
        await batcher.submit([1] * 256, deadline=clock.now + 1)
    await batcher.submit([1])
    engine.stop()
    assert sizes == [1, 1]


async def test_an_idle_engine_is_not_made_to_refuse_by_one_slow_item(engine: Engine, clock: Clock) -> None:
    backend = SlowBackend(clock, seconds_an_item=0.005)
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.005)
    await batcher.submit([1])
    backend.seconds_an_item = 60.0
    await batcher.submit([1])
    backend.seconds_an_item = 0.005
    for _ in range(20):
        assert values(await batcher.submit([1], deadline=clock.now + 0.01)) == [2]
    assert batcher.cost.seconds == pytest.approx(0.005, rel=0.2)


async def test_what_does_not_fit_into_the_queue_is_refused_whole(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    waiting = asyncio.ensure_future(batcher.submit([1] * 15))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refusal:
        await batcher.submit([2, 3])
    assert refusal.value.reason == "QUEUE_FULL"
    assert len(batcher) == 15
    backend.gate.set()
    await asyncio.gather(first, waiting)


async def test_a_cancelled_caller_leaves_the_queue_and_its_neighbours_are_answered(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    leaving = asyncio.ensure_future(batcher.submit([7, 8]))
    staying = asyncio.ensure_future(batcher.submit([9]))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert len(batcher) == 1
    backend.gate.set()
    assert values(await staying) == [18]
    await first
    assert backend.batches == [[0], [9]]


async def test_a_caller_cancelled_while_its_batch_runs_harms_nobody(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    first = await hold_engine(backend, batcher)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    backend.gate.set()
    assert values(await batcher.submit([1])) == [2]


class Answer:
    """An answer that tells when nobody has it any more."""


class AnsweringBackend(FakeBackend):
    """Gives each item an answer of its own, and keeps none; may hold every batch but the first."""

    def __init__(self, *, holds: bool = False) -> None:
        super().__init__()
        self.holds = holds
        self.answers: weakref.WeakSet[Answer] = weakref.WeakSet()

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[Any]:
        super().run(items, stop, alone=alone)
        if self.holds:
            self.gate.clear()
        answers = [Answer() for _ in items]
        self.answers.update(answers)
        return answers


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def vanished(answers: "weakref.WeakSet[Answer]") -> bool:
    """Whether nobody has them soon: the engine's thread lets go just after its caller is woken."""
    for _ in range(100):
        if not answers:
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.usefixtures("no_garbage_collection")
async def test_an_idle_engine_keeps_nothing_of_what_it_answered(engine: Engine) -> None:
    backend = AnsweringBackend()
    batcher: Batcher[int, Answer] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    outcomes = await batcher.submit(list(range(10)))
    assert len(backend.answers) == 10
    del outcomes
    assert await vanished(backend.answers)


@pytest.mark.usefixtures("no_garbage_collection")
async def test_the_answers_of_a_caller_who_left_are_dropped_while_the_rest_still_runs(engine: Engine) -> None:
    backend = AnsweringBackend(holds=True)
    batcher: Batcher[int, Answer] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    leaving = asyncio.ensure_future(batcher.submit(list(range(10))))
    await in_thread(backend.begun.acquire)
    await in_thread(backend.begun.acquire)
    assert len(backend.answers) == backend.max_batch_size
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await vanished(backend.answers)
    backend.holds = False
    backend.gate.set()
    assert isinstance(values(await batcher.submit([1]))[0], Answer)


async def test_a_thread_is_idle_before_its_answer_is_seen(engine: Engine, backend: FakeBackend) -> None:
    slow_to_count = threading.Event()
    batcher: Batcher[int, int] = Batcher(
        backend,
        engine,
        capacity=16,
        item_seconds=0.1,
        on_batch=lambda size, seconds: slow_to_count.wait(10) and None,
    )
    assert values(await batcher.submit([1])) == [2]
    assert engine.idle == 1
    slow_to_count.set()


async def test_idle_threads_share_what_arrives_together(backend: FakeBackend) -> None:
    engine = Engine(instances=2)
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    engine.start()
    backend.gate.clear()
    pending = asyncio.ensure_future(batcher.submit([1, 2, 3, 4]))
    await in_thread(backend.begun.acquire)
    await in_thread(backend.begun.acquire)
    backend.gate.set()
    assert values(await pending) == [2, 4, 6, 8]
    assert len(backend.batches) == 2
    engine.stop()


async def test_the_model_that_waited_longest_goes_first(engine: Engine, clock: Clock) -> None:
    slow, late, early = FakeBackend(), FakeBackend(), FakeBackend()
    ran: list[str] = []
    batchers = {}
    for name, fake in (("slow", slow), ("late", late), ("early", early)):
        batchers[name] = Batcher(
            fake,
            engine,
            capacity=4,
            item_seconds=0.1,
            on_batch=lambda size, seconds, name=name: ran.append(name),  # type: ignore[misc]
        )
    first = await hold_engine(slow, batchers["slow"])
    clock.now += 1
    pending = [asyncio.ensure_future(batchers["early"].submit([1]))]
    await asyncio.sleep(0)
    clock.now += 1
    pending.append(asyncio.ensure_future(batchers["late"].submit([1])))
    await asyncio.sleep(0)
    slow.gate.set()
    await asyncio.gather(first, *pending)
    engine.stop()
    assert ran == ["slow", "early", "late"]


async def test_stopping_answers_what_waits_and_finishes_what_runs(
    backend: FakeBackend, batcher: Batcher[int, int], engine: Engine
) -> None:
    running = await hold_engine(backend, batcher)
    waiting = asyncio.ensure_future(batcher.submit([1]))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(asyncio.to_thread(engine.stop))
    (refused,) = values(await waiting)
    assert isinstance(refused, UnavailableError)
    backend.gate.set()
    await stopping
    assert values(await running) == [0]  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        await batcher.submit([2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_fails_every_waiter_and_turns_health_off(backend: FakeBackend) -> None:
    failures: list[bool] = []
    engine = Engine(instances=1, on_failure=lambda: failures.append(True))
    engine.start()
    batcher: Batcher[int, int] = Batcher(backend, engine, capacity=16, item_seconds=0.1)
    running = await hold_engine(backend, batcher)
    waiting = asyncio.ensure_future(batcher.submit([1]))
    await asyncio.sleep(0)
    backend.fail_with = SystemExit()
    backend.gate.set()
    (failed,) = values(await running)  # type: ignore[arg-type]
    assert isinstance(failed, EngineError)
    (refused,) = values(await waiting)
    assert isinstance(refused, UnavailableError)
    engine.stop()
    assert failures == [True]
    assert not engine.healthy
    with pytest.raises(UnavailableError):
        await batcher.submit([2])
