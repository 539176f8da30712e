"""What is asked for often is called once, at the earliest time, on both kinds of event loops."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from retinue_server.workers.alarm import Alarm

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs something on an event loop; the server's is uvloop's."""
    runs: Run = request.param
    return runs


class Rings:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0
        self.alarm = Alarm(self._ring)

    def _ring(self) -> None:
        self.count += 1


def test_it_rings_once_at_the_earliest_time(run: Run) -> None:
    async def asked_often() -> None:
        rings = Rings()
        # A time that has come already, too, and one that the loop counts as such.
        for seconds in (60.0, 0.02, 0.0001, 0.0, 0.0, 30.0):
            rings.alarm.ring_in(seconds)
        await asyncio.sleep(0.05)
        assert rings.count == 1

    run(asked_often())


def test_it_rings_again_when_it_is_asked_again(run: Run) -> None:
    async def asked_again() -> None:
        rings = Rings()
        for number in range(1, 4):
            rings.alarm.ring_in(60.0)
            rings.alarm.ring_in(0.001)
            await asyncio.sleep(0.01)
            assert rings.count == number

    run(asked_again())


def test_what_it_calls_may_ask_again(run: Run) -> None:
    async def asked_by_itself() -> None:
        count = 0

        def ring() -> None:
            nonlocal count
            count += 1
            if count < 5:
                alarm.ring_in(0.0)

        alarm = Alarm(ring)
        alarm.ring_in(0.0)
        await asyncio.sleep(0.05)
        assert count == 5

    run(asked_by_itself())
