"""The batching core, watched: each part checks what it is promised."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
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
from retinue_server.batching.cost import ItemCost
from retinue_server.batching.recovery import State, taken
from retinue_server.batching.tickets import BatchEnd, Outcome, Priority, Ticket
from retinue_server.errors import RetinueError

CALLERS = 4

_Waiter = tuple[Priority, Hashable]


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


class WatchedCost(ItemCost):
    """Counts how often it learns."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.learned = 0

    def learn(self, seconds: float) -> None:
        """As `ItemCost.learn`."""
        self.learned += 1
        super().learn(seconds)


class WatchedBatcher(Batcher[Any, Any]):
    """Checks each batch for whose turn it was, and keeps accounts of its own.

    Attributes:
        faults: What was found where nobody would see it raised.
        begun: When each batch was begun that is counted.
        watched_seconds: How long each of them was watched.
        lost: Batches whose threads were given up and are not back.
        ends: How many batches ended how.
        busy_seconds: What they took, together.
        hung: Batches that were stopped since they took too long.
        answered: Those that had an answer for somebody in time.
        counted: As many batches the metrics were told of.
        takes_items: What its recovery has told last.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cost = WatchedCost(self.cost.seconds)
        self.faults: list[AssertionError] = []
        self.begun: dict[Batch, float] = {}
        self.watched_seconds: Counter[Batch] = Counter()
        self.lost: set[Batch] = set()
        self.ends: Counter[BatchEnd] = Counter()
        self.busy_seconds = 0.0
        self.hung = self.answered = self.counted = 0
        self._tell = self._on_batch
        self._on_batch = self._count_told
        self._ended_as: dict[Batch, BatchEnd] = {}
        self.takes_items = True
        # How many batches of their priority went by those who wait, and what they wait for.
        self._passed: dict[_Waiter, tuple[int, dict[Ticket, int]]] = {}

    def take(self, sharers: int) -> Batch | None:
        """As `Batcher.take`."""
        waiting = self._waiting()
        batch = super().take(sharers)
        if batch is not None:
            assert self.refusal is None, "a batch begins in a model that refuses"
            self.begun[batch] = self._clock()
            if not batch.is_probe:
                self._check_batch(batch, waiting)
        return batch

    def run(self, batch: Batch) -> None:
        """As `Batcher.run`."""
        try:
            super().run(batch)
        except AssertionError as error:
            # The engine logs what is raised here, and goes on.
            self.faults.append(error)
            raise
        finally:
            self.lost.discard(batch)

    def watch(self, batch: Batch, elapsed_seconds: float) -> bool:
        """As `Batcher.watch`."""
        if self.recovery is None:
            return super().watch(batch, elapsed_seconds)
        was_hung, state = batch.hung, self.recovery.state
        is_current = batch.tenure is self._runs._current
        self.watched_seconds[batch] += elapsed_seconds * (batch in self.watched_seconds)
        lost = super().watch(batch, elapsed_seconds)
        self.hung += batch.hung and not was_hung
        limits = self.recovery.limits
        if batch.hung or lost:
            at_least = limits.batch_seconds + limits.grace_seconds * lost
            assert self.watched_seconds[batch] >= at_least, "a batch had no time"
            assert batch.stop.requested, "a batch that hangs was not told to stop"
        if lost:
            self.lost.add(batch)
            self._count(batch, BatchEnd.FAILED)
            if not is_current and self.recovery.lost_threads < limits.lost_threads:
                assert self.recovery.state in (state, State.SUSPECT), "a network was judged that was replaced"
        return lost

    def start(self, work: Callable[[], None]) -> None:
        """For `Recovery`: has work done for a model that is not being unloaded."""
        assert not self._closed, "a model is healed that is unloaded"
        recovery._in_thread(work)

    def note_change(self) -> None:
        """For `Recovery.on_change`: it is told of each change, once, when it is so."""
        assert self.recovery is not None
        takes_items = taken(self.recovery.state)
        assert takes_items is not self.takes_items, "a change was told that is none"
        assert self._closed or takes_items is (self.refusal is None)
        self.takes_items = takes_items

    def _values(self, batch: Batch) -> Sequence[Any]:
        try:
            assert not batch.alone or self.all_cores or len(batch) == 1
            values = super()._values(batch)
        except BaseException as error:
            if isinstance(error, AssertionError):
                self.faults.append(error)
            is_stopped = batch.stop.requested and not batch.hung
            self._ended_as[batch] = BatchEnd.STOPPED if is_stopped else BatchEnd.FAILED
            raise
        self._ended_as[batch] = BatchEnd.RAN
        return values

    def _judge(
        self, batch: Batch, values: Sequence[Any], raised: type[BaseException] | None, seconds: float
    ) -> None:
        """Called for each batch that ends in time, with the lock."""
        self.answered += any(not isinstance(value, RetinueError) for value in values)
        self._count(batch, self._ended_as[batch])
        for fault in self._faults_of(batch, values):
            self.faults.append(AssertionError(fault))
        recovery = self.recovery
        state = None if recovery is None else recovery.state
        is_current = batch.tenure is self._runs._current
        super()._judge(batch, values, raised, seconds)
        if recovery is not None and not is_current and recovery.state is not state:
            self.faults.append(AssertionError("a model was judged by a network that was replaced"))

    def _faults_of(self, batch: Batch, values: Sequence[Any]) -> Iterator[str]:
        asked, has_left = batch.stop.requested, all(job.ticket.future.done() for job in batch.jobs)
        if batch.jobs and all(job.ticket.dropped for job in batch.jobs) and not asked:
            yield "a batch ran on for nobody"
        if asked and not (has_left or batch.of_copies or batch.hung or self._engine._stopping):
            yield "a batch was stopped that somebody waits for"
        gave_way = batch.of_copies and self._ended_as[batch] is BatchEnd.STOPPED
        if gave_way and any(value.reason != "GAVE_WAY" for value in values):
            yield "a copy gave way, and was told another reason"

    def _count_told(self, size: int, seconds: float) -> None:
        self.counted += 1
        self._tell(size, seconds)

    def _count(self, batch: Batch, end: BatchEnd) -> None:
        self.ends[end] += 1
        self.busy_seconds += self._clock() - self.begun.pop(batch)

    def _check_batch(self, batch: Batch, waiting: "dict[_Waiter, dict[Ticket, int]]") -> None:
        assert not any(self._expired(job.ticket) for job in batch.jobs)
        assert len({getattr(job.item, "kind", 0) for job in batch.jobs}) == 1
        assert not any(job.ticket.dropped for job in batch.jobs), "an item was taken that was withdrawn"
        self._check_turns(batch, waiting)
        self._check_turns_of_requests(batch)

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
