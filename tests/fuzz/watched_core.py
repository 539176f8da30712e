"""The batching core, watched: each part checks what it is promised, and the networks do what the dice say."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from tests.fuzz.simulated_threads import Scheduler

from retinue_server.batching import batcher as batcher_module
from retinue_server.batching import diagnosis, origins, recovery
from retinue_server.batching import engine as engine_module
from retinue_server.batching.batch import Batch
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import Outcome, Priority, Stop, Ticket
from retinue_server.errors import ImageError

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


class WatchedBatcher(Batcher[Any, Any]):
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
        if batch is not None and not batch.is_probe:
            assert not any(self._expired(job.ticket) for job in batch.jobs)
            assert len({getattr(job.item, "kind", 0) for job in batch.jobs}) == 1
            assert not any(job.ticket.dropped for job in batch.jobs), "an item was taken that was withdrawn"
            self._check_turns(batch, waiting)
            self._check_turns_of_requests(batch)
        return batch

    def _judge(
        self, batch: Batch, values: Sequence[Any], raised: type[BaseException] | None, seconds: float
    ) -> None:
        # The engine logs what is raised here, and goes on.
        if all(job.ticket.dropped for job in batch.jobs) and not batch.stop.requested:
            self.faults.append("a batch ran on for nobody")
        if batch.stop.requested and not (
            batch.of_copies or self._engine._stopping or all(job.ticket.future.done() for job in batch.jobs)
        ):
            self.faults.append("a batch was stopped that somebody waits for")
        super()._judge(batch, values, raised, seconds)

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
        # What fills up a batch of a higher priority took no turn: it runs with what is first there.
        first = batch.jobs[0].ticket.priority
        for job in batch.jobs:
            job.ticket.passed_by.clear()
            if job.ticket.priority is not first:
                continue
            for ticket in self._waiting().get((job.ticket.priority, job.ticket.caller), {}):
                if ticket is not job.ticket and not self._expired(ticket):
                    ticket.passed_by[job.ticket] += 1
                    most = ticket.passed_by[job.ticket]
                    assert most <= self._runs.max_batch_size + 1, f"a request was passed over {most} times"

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

    def run(self, items: Sequence[Any], stop: Stop, *, alone: bool) -> list[Any]:
        """Answers each item, with itself, unless something comes between."""
        assert 1 <= len(items) <= self.max_batch_size
        assert not alone or len(items) == 1
        chance = self._scheduler.chance
        self.note(items)
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
            answers = [self.answer(item) for item in items]
            if chance.random() < self._faults / 2:
                return answers[:-1] if chance.random() < 0.5 else [*answers, answers[0]]
            return answers
        finally:
            self.running -= 1

    def note(self, items: Sequence[Any]) -> None:
        """Counts what is run."""
        self.ran.update((item.request, item.index) for item in items)

    def answer(self, item: Any) -> Any:
        """The answer of one that nothing came between."""
        return ImageError("bad") if item.is_bad else item

    def close(self) -> None:
        """Counts."""
        self.closed += 1


def failing_count(size: int, seconds: float) -> None:
    """Of a batch: what comes after its answers fails."""
    raise ValueError("a count that fails")


class _Silence:
    """In place of a log. A mock would be slow."""

    def error(self, event: str, **fields: Any) -> None:
        """Nothing."""

    exception = warning = info = error


@contextmanager
def watched() -> Iterator[None]:
    """Has the batching core use watched tickets, and log nothing."""
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(batcher_module, "Ticket", WatchedTicket))
        for module in (diagnosis, engine_module, origins, recovery):
            patches.enter_context(mock.patch.object(module, "_log", _Silence()))
        yield
