"""Random schedules of requests and faults for the batching core, and what must hold in each of them.

    python -m tests.fuzz.fault_schedules --count 10000

A schedule is made up by a seed: callers that submit, leave and set deadlines, networks that raise, answer too few, are
slow or kill their thread, models that are closed, an engine that is stopped. Threads are simulated, time is driven by
hand, so a seed always does the same.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from tests.fuzz.simulated_threads import Scheduler, Thread, in_place_of_threading

from retinue_server.batching import batcher as batcher_module
from retinue_server.batching import engine as engine_module
from retinue_server.batching.batcher import Batch, Batcher, Plan
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome, Priority, Stop, Ticket
from retinue_server.errors import DeadlineExpiredError, ImageError, RetinueError

CALLERS = 4

_Waiter = tuple[Priority, Hashable]


class ThreadKiller(BaseException):
    """No Exception: the thread that runs a batch ends by it."""


@dataclass(frozen=True, slots=True)
class Image:
    """An item of a request.

    Attributes:
        request: Whose.
        index: Which of it.
        is_bad: Whether it fails by itself.
        kind: It runs with those of its kind only.
    """

    request: int
    index: int
    is_bad: bool
    kind: int


class Clock:
    """Seconds that a schedule moves; whoever reads them outside of the lock gives way."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.now = 100.0
        self.lock: Any = None
        self._scheduler = scheduler

    def __call__(self) -> float:
        if self.lock is not None and not self.lock.depth:
            self._scheduler.pause()
        return self.now


class WatchedTicket(Ticket):
    """Counts what is put for each item, and how many items of each other request of its caller went before its own."""

    __slots__ = ("dropped", "passed_by", "puts")

    def __init__(self, size: int, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        super().__init__(size, caller, priority, deadline)
        self.puts: Counter[int] = Counter()
        self.passed_by: Counter[Ticket] = Counter()
        self.dropped = False

    def drop(self) -> None:
        """As `Ticket.drop`."""
        self.dropped = True
        super().drop()

    def put(self, index: int, outcome: Outcome[Any]) -> None:
        """As `Ticket.put`, once an item."""
        self.puts[index] += 1
        assert self.puts[index] == 1, f"item {index} was answered twice"
        super().put(index, outcome)


class WatchedBatcher(Batcher[Image, Image]):
    """Checks each batch for whose turn it was."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.faults: list[str] = []
        # How many batches of their priority went by those who wait, and what they wait for.
        self._passed: dict[_Waiter, tuple[int, dict[Ticket, int]]] = {}

    def take(self, sharers: int) -> Batch | None:
        """As `Batcher.take`."""
        waiting = self._waiting()
        batch = super().take(sharers)
        if batch is not None:
            assert not any(self._expired(job.ticket) for job in batch.jobs)
            assert len({job.item.kind for job in batch.jobs}) == 1
            assert not any(job.ticket.dropped for job in batch.jobs), "an item was taken that was withdrawn"
            self._check_turns(batch, waiting)
            self._check_turns_of_requests(batch)
        return batch

    def run(self, batch: Batch) -> None:
        """As `Batcher.run`."""
        try:
            super().run(batch)
        finally:
            # The engine logs what is raised here, and goes on.
            if all(job.ticket.dropped for job in batch.jobs) and not batch.stop.requested:
                self.faults.append("a batch ran on for nobody")
            if batch.stop.requested and not all(job.ticket.future.done() for job in batch.jobs):
                self.faults.append("a batch was stopped that somebody waits for")

    def _check_turns(self, batch: Batch, waiting: "dict[_Waiter, dict[Ticket, int]]") -> None:
        left = self._waiting()
        lowest = max(job.ticket.priority for job in batch.jobs)
        assert all(lowest <= priority for priority, _ in left), "a lower priority went before a higher one"
        first = batch.jobs[0].ticket.priority
        before, self._passed = self._passed, {}
        for waiter, tickets in waiting.items():
            if left.get(waiter) != tickets:
                continue  # It had a turn; an item that has expired takes one, too.
            passed, known = before.get(waiter, (0, tickets))
            passed = passed * bool(known.keys() & tickets.keys()) + (waiter[0] == first)
            assert passed < CALLERS, f"a caller was passed over {passed} times"
            self._passed[waiter] = passed, tickets

    def _check_turns_of_requests(self, batch: Batch) -> None:
        for job in batch.jobs:
            job.ticket.passed_by.clear()
            for ticket in self._waiting().get((job.ticket.priority, job.ticket.caller), {}):
                if ticket is not job.ticket and not self._expired(ticket):
                    ticket.passed_by[job.ticket] += 1
                    most = ticket.passed_by[job.ticket]
                    assert most <= self._backend.max_batch_size + 1, f"a request was passed over {most} times"

    def _expired(self, ticket: Ticket) -> bool:
        return ticket.deadline is not None and ticket.deadline <= self._clock()

    def _waiting(self) -> "dict[_Waiter, dict[Ticket, int]]":
        """Whoever waits in a priority, and how many items of which requests."""
        return {
            (priority, name): {ticket: len(jobs) for ticket, jobs in caller.tickets.items()}
            for priority, level in self._queue._levels.items()
            for name, caller in level.callers.items()
        }


class Network:
    """A backend that does what the dice say."""

    def __init__(self, scheduler: Scheduler, clock: Clock, faults: float, deaths: float) -> None:
        self.max_batch_size = scheduler.chance.choice((1, 2, 3, 5, 8))
        self.ran: Counter[tuple[int, int]] = Counter()
        self.closed = 0
        self.running = 0
        self._scheduler = scheduler
        self._clock = clock
        self._faults = faults
        self._deaths = deaths

    def run(self, items: Sequence[Image], stop: Stop, *, alone: bool) -> list[Image | RetinueError]:
        """Answers each item with itself, unless something comes between."""
        assert 1 <= len(items) <= self.max_batch_size
        assert not alone or len(items) == 1
        chance = self._scheduler.chance
        self.ran.update((item.request, item.index) for item in items)
        self.running += 1
        try:
            for _ in range(chance.choice((0, 0, 1, 3, 10))):
                self._scheduler.pause()
                self._clock.now += chance.random() * 0.01
                stop.check()
            if chance.random() < self._deaths:
                raise ThreadKiller
            if chance.random() < self._faults:
                raise chance.choice((ValueError, MemoryError, StopIteration, KeyError))(
                    "a network that fails"
                )
            answers = [ImageError("bad") if item.is_bad else item for item in items]
            if chance.random() < self._faults / 2:
                return answers[:-1] if chance.random() < 0.5 else [*answers, answers[0]]
            return answers
        finally:
            self.running -= 1

    def close(self) -> None:
        """Counts."""
        self.closed += 1


class Schedule:
    """One schedule, from first request to last.

    Args:
        chance: The dice that make it up.

    Attributes:
        outcomes: How many items came to which end.
    """

    def __init__(self, chance: random.Random) -> None:
        self.outcomes: Counter[str] = Counter()
        self._chance = chance
        self._scheduler = Scheduler(chance)
        self._clock = Clock(self._scheduler)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stop_began = False
        self._closing: list[Network] = []
        self._helpers: list[Thread] = []

    def run(self) -> None:
        """Runs it and checks that everything came to its end.

        Raises:
            AssertionError: Something did not.
        """
        modules = in_place_of_threading(self._scheduler, engine_module, batcher_module)
        with modules, _watched(), asyncio.Runner() as runner:
            runner.run(self._all())

    async def _all(self) -> None:
        chance = self._chance
        self._engine = Engine(chance.randint(1, 3), clock=self._clock)
        self._clock.lock = self._engine.lock
        faults, deaths = chance.choice(((0, 0), (0.1, 0), (0.5, 0), (0.1, 0), (0.1, 0.02)))
        self._networks = [
            Network(self._scheduler, self._clock, faults, deaths) for _ in range(chance.randint(1, 3))
        ]
        on_batch_fails = chance.random() < 0.1
        self._batchers = [
            WatchedBatcher(
                network,
                self._engine,
                capacity=chance.choice((3, 12, 40)),
                item_seconds=0.01,
                runs_with=lambda first, second: first.kind == second.kind,
                plan=Plan(chance.choice((0, 0, 1, 2)), chance.random() < 0.2),
                on_batch=_failing if on_batch_fails else lambda size, seconds: None,
            )
            for network in self._networks
        ]
        self._engine.start()
        for _ in range(chance.randint(20, 120)):
            self._act()
            if chance.random() < 0.6:
                await asyncio.sleep(0)
        await self._drain()
        self._check_idle()
        for network in self._networks:
            self._close(network)
        self._stop()
        await self._drain()
        self._check_end()

    def _act(self) -> None:
        """Does one thing."""
        chance = self._chance
        act = chance.random()
        if act < 0.22:
            number = len(self._tasks)
            self._tasks[number] = asyncio.create_task(self._send(number))
        elif act < 0.30 and self._tasks:
            self._tasks[chance.randrange(len(self._tasks))].cancel()
        elif act < 0.36:
            self._clock.now += chance.choice((0.001, 0.01, 0.1))
        elif act < 0.364:
            self._close(chance.choice(self._networks))
        elif act < 0.365:
            self._stop()
        else:
            for _ in range(chance.randint(1, 4)):
                self._scheduler.step()

    async def _send(self, number: int) -> None:
        """What one caller does."""
        chance = self._chance
        kinds = chance.choice((1, 1, 2))
        kind = chance.randrange(kinds)
        items = [
            Image(number, index, chance.random() < 0.1, kind)
            for index in range(chance.choice((1, 1, 2, 5, 9)))
        ]
        place = chance.randrange(len(self._batchers))
        deadline = None if chance.random() < 0.6 else self._clock.now + chance.choice((0.0, 0.02, 0.1, 1))
        try:
            outcomes = await self._batchers[place].submit(
                items,
                caller=chance.randrange(CALLERS),
                priority=chance.choice(list(Priority)),
                deadline=deadline,
            )
        except asyncio.CancelledError:
            self.outcomes["withdrawn"] += len(items)
            raise
        except RetinueError as error:
            assert not any(self._networks[place].ran[number, item.index] for item in items)
            self.outcomes[f"refused: {error.reason}"] += len(items)
            return
        assert len(outcomes) == len(items)
        for item, outcome in zip(items, outcomes, strict=True):
            self._check_outcome(place, item, outcome)

    def _check_outcome(self, place: int, item: Image, outcome: Outcome[Image]) -> None:
        value = outcome.value
        ran = self._networks[place].ran[item.request, item.index]
        if isinstance(value, RetinueError):
            assert not (isinstance(value, ImageError) and not item.is_bad)
            assert not (isinstance(value, DeadlineExpiredError) and ran)
            self.outcomes[value.reason] += 1
        else:
            assert value == item
            assert not item.is_bad
            assert ran == 1
            self.outcomes["answered"] += 1

    def _close(self, network: Network) -> None:
        if network not in self._closing:
            self._closing.append(network)
            batcher = self._batchers[self._networks.index(network)]
            self._helpers.append(self._scheduler.spawn(lambda: batcher.close(30)))

    def _stop(self) -> None:
        if not self._stop_began:
            self._stop_began = True
            self._helpers.append(self._scheduler.spawn(self._engine.stop))

    async def _drain(self) -> None:
        """Lets everything go on that can."""
        quiet = 0
        while quiet < 4:
            quiet = 0 if self._scheduler.step() else quiet + 1
            await asyncio.sleep(0)

    def _check_idle(self) -> None:
        """Nothing waits that could run, and the accounts are balanced."""
        for thread in (*self._engine._threads, *self._helpers):
            error = thread.error  # type: ignore[union-attr]
            if error is not None and not isinstance(error, ThreadKiller):
                raise error
        assert all(task.done() for task in self._tasks.values()), "a caller was never answered"
        for task in self._tasks.values():
            if not task.cancelled():
                task.result()
        for thread in self._scheduler.threads:
            assert not thread.expires, "a wait was ended by its time limit only"
        for batcher, network in zip(self._batchers, self._networks, strict=True):
            assert len(batcher) == batcher.requested == 0
            assert all(
                not level.size and not level.callers and not batcher._queue.waiting(priority)
                for priority, level in batcher._queue._levels.items()
            )
            assert not batcher._running
            assert not batcher.faults
            assert network.running == 0
            assert max(network.ran.values(), default=1) == 1, "an item ran twice"
        assert not self._engine._done_at
        assert self._engine.idle == self._engine.instances

    def _check_end(self) -> None:
        self._check_idle()
        assert not self._scheduler.threads, "a thread never ended"
        assert [network.closed for network in self._networks] == [1] * len(self._networks)
        died = any(thread.error for thread in self._engine._threads)  # type: ignore[attr-defined]
        assert self._engine.healthy == (not died)


def _failing(size: int, seconds: float) -> None:
    raise ValueError("a count that fails")


@contextmanager
def _watched() -> Iterator[None]:
    log = mock.Mock(exception=lambda *event, **fields: None)
    with (
        mock.patch.object(batcher_module, "Ticket", WatchedTicket),
        mock.patch.object(batcher_module, "_log", log),
        mock.patch.object(engine_module, "_log", log),
    ):
        yield


def run_schedules(seeds: Sequence[int]) -> Counter[str]:
    """Runs the schedules of these seeds, and returns how many items came to which end.

    Raises:
        AssertionError: Of the first that fails; it says which.
    """
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        schedule = Schedule(random.Random(seed))
        try:
            schedule.run()
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
        outcomes.update(schedule.outcomes)
    return outcomes


def main() -> int:
    """Runs as many as are asked for and prints what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="schedules")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    arguments = parser.parse_args()
    outcomes = run_schedules(range(arguments.first, arguments.first + arguments.count))
    print(f"{arguments.count} schedules, {sum(outcomes.values())} images, none lost, none answered twice:")
    for what, count in outcomes.most_common():
        print(f"  {count:>9,}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
