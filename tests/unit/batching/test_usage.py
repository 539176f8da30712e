"""What an engine tells of its threads."""

import asyncio

from tests.unit.batching.fakes import Clock, FakeBackend, hold_engine, in_thread

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import BatchEnd
from retinue_server.errors import EngineError


async def test_threads_are_busy_while_a_batch_runs_and_not_after(
    clock: Clock, engine: Engine, backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    running = await hold_engine(backend, batcher)
    waiting = asyncio.ensure_future(batcher.submit([1, 2, 3]))
    await asyncio.sleep(0)
    clock.now += 2
    usage = engine.usage()
    assert (usage.threads, usage.waiting, usage.busy_seconds) == (1, 3, 2)
    backend.gate.set()
    await asyncio.gather(running, waiting)
    clock.now += 5
    usage = engine.usage()
    assert (usage.waiting, usage.busy_seconds) == (0, 2)
    assert usage.batches == {BatchEnd.RAN: 2, BatchEnd.FAILED: 0, BatchEnd.STOPPED: 0}


async def test_a_batch_that_raises_has_failed(
    engine: Engine, backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    backend.fail_with = ValueError("boom")
    (outcome,) = await batcher.submit([1])
    assert isinstance(outcome.value, EngineError)
    assert engine.usage().batches == {BatchEnd.RAN: 0, BatchEnd.FAILED: 1, BatchEnd.STOPPED: 0}


async def test_a_batch_that_nobody_waited_for_was_stopped_and_has_not_failed(
    engine: Engine, backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    running = await hold_engine(backend, batcher)
    backend.fail_with = ValueError("stopped early")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    backend.gate.set()
    await in_thread(engine.stop)
    assert engine.usage().batches == {BatchEnd.RAN: 0, BatchEnd.FAILED: 0, BatchEnd.STOPPED: 1}


def test_an_engine_whose_thread_died_is_not_healthy(engine: Engine) -> None:
    assert engine.usage().healthy
    engine.healthy = False
    assert not engine.usage().healthy
