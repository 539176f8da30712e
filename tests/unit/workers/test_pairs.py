"""A front-end and the engine's process together: each caller has its own answers, whoever leaves."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.workers.pairs import OPTIONS, Pair, broken_work, pair, work, works

from retinue_server.batching.tickets import Priority
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    ImageError,
    OverloadedError,
    UnavailableError,
)
from retinue_server.results import Answer


def classes(outcomes: Sequence[Any]) -> list[int]:
    return [outcome.value.result.class_ids[0] for outcome in outcomes]


async def all_free(both: Pair) -> None:
    async with asyncio.timeout(10):
        while both.slots.free < both.slots.layout.slots:
            await asyncio.sleep(0.001)


async def in_thread(wait: Any) -> None:
    await asyncio.to_thread(wait)


@pytest.mark.parametrize("quick", [True, False])
async def test_answers_come_in_order_with_their_times(quick: bool) -> None:
    with pair() as both:
        outcomes = await both.remote.submit([work(n, quick=quick) for n in range(10)], caller="a")
        assert classes(outcomes) == list(range(10))
        for outcome in outcomes:
            assert isinstance(outcome.value, Answer)
            assert outcome.queue_seconds is not None
            assert outcome.queue_seconds >= 0
            assert outcome.value.inference_seconds > 0
            assert 1 <= outcome.value.batch_size <= 4
        await all_free(both)


async def test_a_bad_image_fails_alone_and_is_not_run() -> None:
    with pair() as both:
        outcomes = await both.remote.submit([work(3, quick=False), broken_work(), work(5, quick=False)])
        assert isinstance(outcomes[1].value, ImageError | EngineError)
        assert classes([outcomes[0], outcomes[2]]) == [3, 5]
        assert sorted(level for batch in both.network.batches for level in batch) == [3, 5]
        only = await both.remote.submit([broken_work()])
        assert isinstance(only[0].value, ImageError | EngineError)
        await all_free(both)


async def test_a_network_that_fails_costs_its_batch_only() -> None:
    with pair(batch_size=1) as both:
        both.network.fails_on = 7
        outcomes = await both.remote.submit([work(6), work(7), work(8)])
        assert isinstance(outcomes[1].value, EngineError)
        assert classes([outcomes[0], outcomes[2]]) == [6, 8]
        await all_free(both)


async def test_extra_outputs_are_computed_for_who_wants_them() -> None:
    with pair() as both:
        wants = replace(OPTIONS, heatmap=True)
        (shown,) = await both.remote.submit([work(9, options=wants)])
        (plain,) = await both.remote.submit([work(9)])
        assert shown.value.result.heatmap.startswith(b"\x89PNG")  # type: ignore[union-attr]
        assert plain.value.result.heatmap is None  # type: ignore[union-attr]
        assert both.network.extra == [{"heatmap"}, frozenset()]


async def test_a_queue_without_room_refuses_and_gives_the_slots_back() -> None:
    with pair(capacity=4) as both:
        both.network.gate.clear()
        running = asyncio.ensure_future(both.remote.submit([work(1)]))
        await in_thread(both.network.begun.acquire)
        waiting = asyncio.ensure_future(both.remote.submit(works(2, 3), caller="a"))
        async with asyncio.timeout(10):
            while len(both.queue) < 3:
                await asyncio.sleep(0.001)
        # Told at once by what is published, and by the engine's process where that is not so strict.
        with pytest.raises(OverloadedError, match="3 of 4 images: 2 more"):
            await both.remote.submit(works(3, 2), caller="b")
        with pytest.raises(OverloadedError, match="3 of them this caller's"):
            await both.remote.submit([work(3)], caller="a")
        assert both.slots.free == both.slots.layout.slots - 4
        both.network.gate.set()
        assert classes(await running + await waiting) == [1, 2, 2, 2]
        await all_free(both)


async def test_more_images_than_slots_are_refused() -> None:
    with pair(slots=8, capacity=100) as both:
        with pytest.raises(OverloadedError, match="8, and 9 more are too many"):
            await both.remote.submit(works(1, 9))
        assert classes(await both.remote.submit(works(1, 8))) == [1] * 8


async def test_a_deadline_that_passes_in_the_queue_ends_the_request() -> None:
    with pair() as both:
        both.network.gate.clear()
        running = asyncio.ensure_future(both.remote.submit([work(1)]))
        await in_thread(both.network.begun.acquire)
        deadline = both.engine.clock() + 0.05
        late = asyncio.ensure_future(both.remote.submit([work(2)], deadline=deadline))
        await asyncio.sleep(0.1)
        both.network.gate.set()
        (outcome,) = await late
        assert isinstance(outcome.value, DeadlineExpiredError)
        assert classes(await running) == [1]
        assert both.network.batches == [[1]]
        await all_free(both)


async def test_a_higher_priority_runs_first() -> None:
    with pair(batch_size=1) as both:
        both.network.gate.clear()
        first = asyncio.ensure_future(both.remote.submit([work(1)]))
        await in_thread(both.network.begun.acquire)
        low = asyncio.ensure_future(both.remote.submit(works(2, 2), priority=Priority.LOW))
        high = asyncio.ensure_future(both.remote.submit(works(3, 2), priority=Priority.HIGH))
        async with asyncio.timeout(10):
            while len(both.queue) < 4:
                await asyncio.sleep(0.001)
        both.network.gate.set()
        await asyncio.gather(first, low, high)
        assert both.network.batches == [[1], [3], [3], [2], [2]]


async def test_who_leaves_is_taken_out_of_the_queue() -> None:
    with pair() as both:
        both.network.gate.clear()
        running = asyncio.ensure_future(both.remote.submit([work(1)]))
        await in_thread(both.network.begun.acquire)
        leaving = asyncio.ensure_future(both.remote.submit(works(2, 5)))
        async with asyncio.timeout(10):
            while len(both.queue) < 5:
                await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        async with asyncio.timeout(10):
            while both.slots.free < both.slots.layout.slots - 1:
                await asyncio.sleep(0.001)
        assert len(both.queue) == 0
        both.network.gate.set()
        assert classes(await running) == [1]
        assert both.network.batches == [[1]]


async def test_slots_of_a_batch_that_runs_are_nobody_elses_until_it_ends() -> None:
    with pair() as both:
        both.network.gate.clear()
        leaving = asyncio.ensure_future(both.remote.submit(works(1, 2)))
        staying = asyncio.ensure_future(both.remote.submit(works(2, 2)))
        await in_thread(both.network.begun.acquire)
        leaving.cancel()
        await asyncio.sleep(0.05)
        assert both.slots.free == both.slots.layout.slots - 4
        both.network.gate.set()
        assert classes(await staying) == [2, 2]
        await all_free(both)


async def test_a_front_end_that_dies_leaves_nothing_in_the_queue() -> None:
    with pair() as both:
        both.network.gate.clear()
        calls = [asyncio.ensure_future(both.remote.submit(works(n, 3))) for n in range(4)]
        await in_thread(both.network.begun.acquire)
        both.submissions.drop_all()
        await both.submissions.answered()
        assert len(both.queue) == 0
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()


async def test_what_waits_when_the_engine_stops_is_told() -> None:
    with pair() as both:
        both.network.gate.clear()
        running = asyncio.ensure_future(both.remote.submit([work(1)]))
        await in_thread(both.network.begun.acquire)
        waiting = asyncio.ensure_future(both.remote.submit([work(2)]))
        async with asyncio.timeout(10):
            while len(both.queue) < 1:
                await asyncio.sleep(0.001)
        stopping = asyncio.ensure_future(asyncio.to_thread(both.engine.stop))
        (outcome,) = await waiting
        assert isinstance(outcome.value, UnavailableError)
        assert outcome.value.reason == "DRAINING"
        both.network.gate.set()
        await stopping
        assert classes(await running) == [1]
        with pytest.raises(UnavailableError, match="retry on another one"):
            await both.remote.submit([work(3)])


@pytest.mark.parametrize("seed", range(4))
async def test_nobody_gets_anothers_answer_however_many_leave(seed: int) -> None:
    randomly = random.Random(seed)
    answered = 0

    async def call(both: Pair) -> None:
        nonlocal answered
        numbers = [randomly.randrange(1, 200) for _ in range(randomly.randrange(1, 9))]
        images = [work(number, quick=randomly.random() < 0.5) for number in numbers]
        asked = asyncio.ensure_future(both.remote.submit(images, caller=randomly.randrange(5)))
        if randomly.random() < 0.5:
            await asyncio.sleep(randomly.random() * 0.003)
            asked.cancel()
        try:
            outcomes = await asked
        except OverloadedError:
            await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            pass
        else:
            assert classes(outcomes) == numbers
            answered += 1

    async def caller(both: Pair) -> None:
        for _ in range(40):
            await call(both)

    with pair(slots=64, instances=2, capacity=1000) as both:
        async with asyncio.timeout(60):
            await asyncio.gather(*(caller(both) for _ in range(12)))
        assert answered > 50
        await both.submissions.answered()
        await all_free(both)
        assert len(both.queue) == 0
