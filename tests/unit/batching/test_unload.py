"""A model that is taken off the engine leaves nobody waiting, and others alone."""

import asyncio

import pytest
from tests.unit.batching.fakes import FakeBackend, hold_engine, in_thread, values

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.errors import UnavailableError


async def test_what_waits_is_refused_and_what_runs_is_finished(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    running = await hold_engine(backend, batcher)
    waiting = asyncio.ensure_future(batcher.submit([1, 2]))
    await asyncio.sleep(0)

    closing = asyncio.ensure_future(in_thread(lambda: batcher.close(10)))
    refused = values(await waiting)
    assert not closing.done()
    assert not backend.closed
    backend.gate.set()

    assert values(await running) == [0]
    await closing
    assert [(type(value), value.reason) for value in refused] == [(UnavailableError, "UNLOADING")] * 2
    assert backend.batches == [[0]]
    assert backend.closed


async def test_nothing_more_is_taken(batcher: Batcher[int, int]) -> None:
    batcher.close(10)
    with pytest.raises(UnavailableError, match="being unloaded"):
        await batcher.submit([1])


async def test_closing_again_is_harmless(backend: FakeBackend, batcher: Batcher[int, int]) -> None:
    batcher.close(10)
    batcher.close(10)
    assert backend.closed


async def test_a_batch_that_hangs_is_not_waited_for_forever(
    backend: FakeBackend, batcher: Batcher[int, int]
) -> None:
    running = await hold_engine(backend, batcher)
    await in_thread(lambda: batcher.close(0.01))
    assert backend.closed
    backend.gate.set()
    assert values(await running) == [0]


async def test_another_model_goes_on(
    backend: FakeBackend, batcher: Batcher[int, int], engine: Engine
) -> None:
    other = Batcher(FakeBackend(), engine, capacity=16, item_seconds=0.1)
    running = await hold_engine(backend, batcher)
    waiting = asyncio.ensure_future(other.submit([3]))
    closing = asyncio.ensure_future(in_thread(lambda: batcher.close(10)))
    backend.gate.set()
    await asyncio.gather(running, closing)
    assert values(await waiting) == [6]
    assert values(await other.submit([4])) == [8]
