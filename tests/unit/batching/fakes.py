"""Backends and a clock that a test drives."""

import asyncio
import threading
from collections.abc import Callable, Sequence

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import Stop
from retinue_server.errors import ImageError, RetinueError


class Clock:
    """Monotonic seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeBackend:
    """Doubles numbers; waits at a gate, so that a test decides when a batch is done; fails where told to."""

    max_batch_size = 4

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.fail_with: BaseException | None = None
        self.closed = False

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int | RetinueError]:
        self.batches.append(list(items))
        self.begun.release()
        assert self.gate.wait(10)
        if self.fail_with is not None:
            raise self.fail_with
        return [ImageError("negative") if item < 0 else 2 * item for item in items]

    def close(self) -> None:
        self.closed = True


class SlowBackend:
    """Doubles numbers; each takes its time on the test's clock, but not what cannot be read or raises."""

    max_batch_size = 4

    def __init__(self, clock: Clock, seconds_an_item: float) -> None:
        self.clock = clock
        self.seconds_an_item = seconds_an_item

    def run(self, items: Sequence[int], stop: Stop, *, alone: bool) -> list[int | RetinueError]:
        if None in items:
            raise ValueError("boom")
        self.clock.now += self.seconds_an_item * sum(item >= 0 for item in items)
        return [ImageError("negative") if item < 0 else 2 * item for item in items]


async def in_thread(wait: Callable[[], object]) -> None:
    await asyncio.to_thread(wait)


def values(outcomes: Sequence[object]) -> list[object]:
    return [outcome.value for outcome in outcomes]  # type: ignore[attr-defined]


async def hold_engine(backend: FakeBackend, batcher: Batcher[int, int]) -> "asyncio.Task[object]":
    """Makes the engine busy with item 0 until the test opens the gate."""
    backend.gate.clear()
    running = asyncio.ensure_future(batcher.submit([0]))
    await in_thread(backend.begun.acquire)
    return running
