"""Whatever happens, every accepted item is answered exactly once, with its own result."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Priority, Stop
from retinue_server.errors import ImageError, RetinueError


@dataclass(frozen=True, slots=True)
class Request:
    """What one caller does: sends items, some of which are bad, and may leave before they are answered."""

    caller: int
    priority: Priority
    model: int
    items: int
    bad_items: frozenset[int]
    starts_after_ms: int
    leaves_after_ms: int | None
    deadline_ms: int | None


requests = st.lists(
    st.builds(
        Request,
        caller=st.integers(0, 3),
        priority=st.sampled_from(Priority),
        model=st.integers(0, 1),
        items=st.integers(1, 12),
        bad_items=st.frozensets(st.integers(0, 11), max_size=3),
        starts_after_ms=st.integers(0, 10),
        leaves_after_ms=st.none() | st.integers(0, 15),
        deadline_ms=st.none() | st.integers(1, 40),
    ),
    min_size=1,
    max_size=20,
)


class Erratic:
    """Answers each item with itself, after a while; some items fail, and some batches raise as a whole."""

    def __init__(self, seed: int, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.ran: Counter[tuple[int, int]] = Counter()
        self._random = random.Random(seed)

    def run(
        self, items: Sequence[tuple[int, int, bool]], stop: Stop, *, alone: bool
    ) -> list[tuple[int, int] | RetinueError]:
        assert 1 <= len(items) <= self.max_batch_size
        self.ran.update((request, index) for request, index, _ in items)
        time.sleep(self._random.choice((0, 0, 0.0005, 0.002)))
        if self._random.random() < 0.1:
            raise ValueError("a network that fails now and then")
        return [ImageError("bad") if is_bad else (request, index) for request, index, is_bad in items]


@settings(max_examples=40, deadline=None)
@given(
    schedule=requests, instances=st.integers(1, 3), max_batch_size=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_every_accepted_item_is_answered_once_and_with_its_own_result(
    schedule: list[Request], instances: int, max_batch_size: int, seed: int
) -> None:
    engine = Engine(instances)
    backends = [Erratic(seed + number, max_batch_size) for number in range(2)]
    batchers = [
        Batcher(
            backend,
            engine,
            capacity=40,
            item_seconds=0.001,
            runs_with=lambda first, second: first[0] % 2 == second[0] % 2,
        )
        for backend in backends
    ]

    async def send(number: int, request: Request) -> None:
        await asyncio.sleep(request.starts_after_ms / 1000)
        items = [(number, index, index in request.bad_items) for index in range(request.items)]
        deadline = None if request.deadline_ms is None else engine.clock() + request.deadline_ms / 1000
        submitted = batchers[request.model].submit(
            items, caller=request.caller, priority=request.priority, deadline=deadline
        )
        try:
            leaves_after = None if request.leaves_after_ms is None else request.leaves_after_ms / 1000
            outcomes = await asyncio.wait_for(submitted, leaves_after)
        except (TimeoutError, RetinueError):
            return
        assert len(outcomes) == len(items)
        for (_, index, is_bad), outcome in zip(items, outcomes, strict=True):
            assert outcome is not None
            assert isinstance(outcome.value, RetinueError) or outcome.value == (number, index)
            assert not (is_bad and not isinstance(outcome.value, RetinueError))

    async def all_of_them() -> None:
        await asyncio.wait_for(
            asyncio.gather(*(send(number, request) for number, request in enumerate(schedule))), 30
        )

    engine.start()
    asyncio.run(all_of_them())
    engine.stop()
    for backend, batcher in zip(backends, batchers, strict=True):
        assert max(backend.ran.values(), default=1) == 1
        assert len(batcher) == 0
    assert engine.healthy
    assert engine.idle == instances
