"""One model's queue: takes requests of several items, hands out batches, and puts each answer where it belongs."""

import asyncio
import math
import secrets
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import structlog

from retinue_server.batching.fair_queue import FairQueue
from retinue_server.batching.tickets import Batch, Job, Outcome, Priority, Stop, Ticket
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)

if TYPE_CHECKING:
    from retinue_server.batching.engine import Engine

_log = structlog.get_logger(__name__)

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)

# A new measurement of the cost of an item moves the estimate by this share, and counts as at most this many times the
# estimate: one huge image must not make the queue look long.
_COST_SMOOTHING = 0.1
_MOST_TIMES_ESTIMATE = 10
_LEAST_RETRY_SECONDS = 0.05
# Of images that will just meet their deadline if all goes on as it does, one in twenty does not.
_CAUTION = 1.25


class Backend(Protocol[Item, Result]):
    """What runs batches."""

    @property
    def max_batch_size(self) -> int:
        """The most items of one batch."""
        ...

    def run(self, items: Sequence[Item], stop: Stop, *, alone: bool) -> Sequence[Result | RetinueError]:
        """Answers each item, in order; an error answers one item and leaves the others theirs. Blocks.

        Args:
            items: From 1 to `max_batch_size`.
            stop: Requested when nobody waits for the answers any more; then the run may end with any exception.
            alone: Whether nothing else runs or waits, nor has of late: a lone item may take the whole machine.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds; nothing is run any more."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How the batches of a model share the machine under load.

    Attributes:
        most_running: How many run at once; 0 for as many as the engine has threads.
        all_cores: Whether each takes the whole machine.
    """

    most_running: int = 0
    all_cores: bool = False


class Batcher(Generic[Item, Result]):
    """A bounded queue in front of a backend; an `Engine`'s threads empty it.

    Args:
        backend: What runs the batches.
        engine: Whose threads do it.
        capacity: Items that may wait.
        item_seconds: First estimate of one item's cost; measured from then on.
        runs_with: Whether a second item can be in one batch with a first.
        plan: How its batches share the machine under load.
        name: Of the model, for the log.
        on_batch: Called with the size of every batch that answered an item, and the seconds it took.
    """

    def __init__(
        self,
        backend: Backend[Item, Result],
        engine: "Engine",
        *,
        capacity: int,
        item_seconds: float,
        runs_with: Callable[[Any, Any], bool] = lambda first, second: True,
        plan: Plan = Plan(),
        name: str = "",
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.item_seconds = item_seconds
        self.all_cores = plan.all_cores
        # Which of several models is next: the one that had least of the engine, and then the one that waits longest.
        self.virtual_seconds = self.joined_at = 0.0
        self._backend = backend
        self._engine = engine
        self._capacity = capacity
        self._runs_with = runs_with
        self._name = name
        self._on_batch = on_batch
        self._clock = engine.clock
        self._fastest_item_seconds = math.inf
        self._queue = FairQueue()
        self._running: set[Batch] = set()
        self._most_running = min(plan.most_running or engine.instances, engine.instances)
        self._closed = False
        # Not the engine's, which wakes as many threads as there are items.
        self._batch_ended = threading.Condition(engine.lock)
        engine.add(self)

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def capacity(self) -> int:
        """Items that may wait, but for copies."""
        return self._capacity

    @property
    def requested(self) -> int:
        """Items that wait, but for copies. Called under the engine's lock, or where it may be out of date."""
        return len(self._queue) - self._queue.waiting(Priority.COPY)

    def wait_seconds(self, priority: Priority) -> float:
        """How long one more item would wait, of a caller who has none waiting."""
        with self._engine.condition:
            item_seconds = self.item_engine_seconds
            ahead_seconds = self._queue.ahead_of(1, object(), priority) * item_seconds
            return self._engine.wait_seconds(self, priority, ahead_seconds, ahead_seconds + item_seconds)

    @property
    def priority(self) -> Priority | None:
        """That of the next item; None where none waits that may run now. Called under the engine's lock."""
        return None if self.saturated else self._queue.priority

    @property
    def saturated(self) -> bool:
        """Whether as many batches run as may. Called under the engine's lock."""
        return len(self._running) >= self._most_running

    @property
    def threads_a_batch(self) -> float:
        """How many threads a batch takes: more than its own where others must idle meanwhile."""
        return self._engine.instances / self._most_running

    @property
    def item_engine_seconds(self) -> float:
        """What an item takes of all threads' time."""
        return self.item_seconds * self.threads_a_batch

    async def submit(
        self,
        items: Sequence[Item],
        *,
        caller: Hashable = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> list[Outcome[Result]]:
        """Waits for the outcomes of all items, in order; an item whose deadline passed in the queue gets that error.

        If the caller is cancelled, its items leave the queue unrun, and a batch that runs for nobody else is stopped.

        Args:
            items: At least one.
            caller: Whose they are: callers take turns.
            priority: Items of a lower one wait for all of a higher one.
            deadline: When the answers are worthless, on the batcher's clock.

        Raises:
            OverloadedError: The items do not fit into the queue, or it is too long for the deadline.
            UnavailableError: The model is being unloaded, or the engine is stopping or has failed.
        """
        ticket = Ticket(len(items), caller, priority, deadline)
        with self._engine.condition:
            self._check_room(len(items), caller, priority, deadline)
            if not self._queue:
                self._engine.join(self)
            now = self._clock()
            self._queue.add(ticket, [Job(item, ticket, index, now) for index, item in enumerate(items)])
            self._engine.condition.notify(len(items))
            if priority is not Priority.COPY:
                self._engine.make_way()
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise

    def check_room(self, count: int, *, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        """Refuses what `submit` would refuse now, so that a caller need not make the items first.

        Args:
            count: Of the items.
            caller: As for `submit`.
            priority: Likewise.
            deadline: Likewise.

        Raises:
            OverloadedError: As `submit` does.
            UnavailableError: Likewise.
        """
        with self._engine.condition:
            self._check_room(count, caller, priority, deadline)

    def seconds_before(self, priority: Priority, turns_seconds: float) -> float:
        """The most that items of this model can delay a request for another one. Called under the engine's lock.

        Args:
            priority: Of the request.
            turns_seconds: What of its own model runs until it is answered.
        """
        item_seconds = self.item_engine_seconds
        equal_seconds = self._queue.waiting(priority) * item_seconds
        return self._queue.waiting_before(priority) * item_seconds + min(equal_seconds, turns_seconds)

    def take(self, sharers: int) -> Batch | None:
        """Takes the next batch: a fair share for each idle thread, so that none idles while another has a long batch.

        Expired items are answered and not taken, so there may be none. What cannot run with the first item waits where
        it was, and nothing of a lower priority goes before it. Called under the engine's lock.

        Args:
            sharers: Threads that are free to run a batch now, the caller included.
        """
        queue = self._queue
        sharers = min(sharers, self._most_running - len(self._running))
        size = min(self._backend.max_batch_size, -(-len(queue) // sharers))
        now = self._clock()
        taken: list[Job] = []
        left: list[Job] = []
        while queue and len(taken) < size:
            job = queue.pop()
            if job.ticket.deadline is not None and job.ticket.deadline <= now:
                expired = DeadlineExpiredError(
                    "the deadline passed while the image waited; allow more time or retry later."
                )
                job.ticket.put(job.index, Outcome(expired, now - job.queued_at))
            elif left and job.ticket.priority != left[0].ticket.priority:
                left.append(job)
                break
            elif taken and not self._runs_with(taken[0].item, job.item):
                left.append(job)
            else:
                taken.append(job)
        queue.put_back(left)
        if not taken:
            return None
        batch = Batch(taken)
        self._running.add(batch)
        self._engine.copies_running += batch.of_copies
        return batch

    def run(self, batch: Batch) -> None:
        """Runs a batch and answers its items, whatever happens. Called by an engine's thread without the lock.

        Raises:
            BaseException: What is no Exception, after every item of the batch was answered with an EngineError.
        """
        began = self._clock()
        values: Sequence[Any] = ()
        try:
            values = self._backend.run([job.item for job in batch.jobs], batch.stop, alone=batch.alone)
            if len(values) != len(batch):
                raise RuntimeError(f"the backend answered {len(values)} of {len(batch)} items")
        except BaseException as error:
            values = [self._failure(batch)] * len(batch)
            # The next batch may be fine, unless the thread itself is to end.
            if not isinstance(error, Exception):
                raise
        finally:
            seconds = (self._clock() - began) / len(batch)
            # Where nothing was answered, the network may not have run, and the time says nothing of its cost.
            answered = not all(isinstance(value, RetinueError) for value in values)
            with self._engine.condition:
                self._engine.finish()
                self._running.remove(batch)
                self._engine.copies_running -= batch.of_copies
                self._batch_ended.notify_all()
                if answered:
                    self._learn_cost(seconds)
                for job, value in zip(batch.jobs, values, strict=True):
                    job.ticket.put(job.index, Outcome(value, began - job.queued_at))
            if answered:
                self._on_batch(len(batch), seconds * len(batch))

    def stop_copies(self, most: int) -> int:
        """Asks running batches of copies to end, at most so many; returns how many do. Called under the lock."""
        copies = [batch for batch in self._running if batch.of_copies]
        # Those that were asked before first: they will have made room.
        copies.sort(key=lambda batch: not batch.stop.requested)
        for batch in copies[:most]:
            batch.stop.request()
        return len(copies[:most])

    def fail_all(self, error: RetinueError) -> None:
        """Answers everything that waits with an error. Called under the engine's lock."""
        while self._queue:
            job = self._queue.pop()
            job.ticket.put(job.index, Outcome(error, self._clock() - job.queued_at))

    def close(self, timeout_seconds: float) -> None:
        """Takes no more items, answers those that wait with UNAVAILABLE, lets what runs end, and closes the backend.

        Args:
            timeout_seconds: How long to wait for what runs; a batch that hangs keeps what it needs until it ends.
        """
        with self._engine.condition:
            self._closed = True
            self._engine.remove(self)
            self.fail_all(_unloaded())
            self._batch_ended.wait_for(lambda: not self._running, timeout_seconds)
        self._backend.close()

    def _failure(self, batch: Batch) -> RetinueError:
        """What the items of a batch get whose run has just raised."""
        if batch.stop.requested and batch.of_copies:
            return OverloadedError(
                "the copy gave way to a request.", retry_after_seconds=_LEAST_RETRY_SECONDS, reason="GAVE_WAY"
            )
        if batch.stop.requested:
            return EngineError("the run was stopped, since no caller waited for it any more.")
        error_id = secrets.token_hex(8)
        _log.exception("batch_failed", model=self._name, batch_size=len(batch), error_id=error_id)
        return EngineError(f"the model failed on this batch; the server logged it as {error_id}.")

    def _check_room(self, count: int, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        queue, engine = self._queue, self._engine
        engine.check_accepting()
        if self._closed:
            raise _unloaded()
        item_seconds = self.item_engine_seconds
        ahead_seconds = queue.ahead_of(count, caller, priority) * item_seconds
        turns_seconds = ahead_seconds + count * item_seconds
        wait_seconds = engine.wait_seconds(self, priority, ahead_seconds, turns_seconds)
        retry_after_seconds = max(wait_seconds, _LEAST_RETRY_SECONDS)
        own = queue.waiting_of(caller)
        waiting = len(queue) if priority is Priority.COPY else self.requested
        if own + count > self._capacity - waiting:
            raise OverloadedError(
                f"the model's queue holds {waiting} of {self._capacity} images, {own} of them this caller's, and a "
                f"caller may add no more than leaves others as much room: {count} are too many; retry in "
                f"{retry_after_seconds:.2f} s or send fewer at once.",
                retry_after_seconds=retry_after_seconds,
            )
        run_seconds = -(-count // self._most_running) * self._item_cost(idle=wait_seconds == 0)
        if deadline is not None and self._clock() + _CAUTION * wait_seconds + run_seconds > deadline:
            raise OverloadedError(
                f"the deadline cannot be met: {wait_seconds:.3f} s of work are waiting, and the request takes "
                f"{run_seconds:.3f} s; allow more time or retry in {retry_after_seconds:.2f} s.",
                retry_after_seconds=retry_after_seconds,
                reason="DEADLINE_TOO_SHORT",
            )

    def _learn_cost(self, seconds: float) -> None:
        """Moves the estimates by what an item of a batch took."""
        self._fastest_item_seconds = min(self._fastest_item_seconds, seconds)
        counted = min(seconds, _MOST_TIMES_ESTIMATE * self.item_seconds)
        self.item_seconds += _COST_SMOOTHING * (counted - self.item_seconds)

    def _item_cost(self, *, idle: bool) -> float:
        """What an item will cost; with an idle engine the least it ever did, since a guess must refuse nothing."""
        if not idle:
            return self.item_seconds
        return 0.0 if math.isinf(self._fastest_item_seconds) else self._fastest_item_seconds

    def _withdraw(self, ticket: Ticket) -> None:
        with self._engine.condition:
            self._queue.remove(ticket)
            ticket.drop()
            for batch in self._running:
                batch.stop_if_abandoned()


def _unloaded() -> UnavailableError:
    return UnavailableError("the model is being unloaded; retry, or name another one.", reason="UNLOADING")
