"""One model's queue: takes requests of several items, hands out batches, and puts each answer where it belongs."""

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import structlog

from retinue_server.errors import DeadlineExpiredError, EngineError, OverloadedError, RetinueError

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


class Backend(Protocol[Item, Result]):
    """What runs batches."""

    @property
    def max_batch_size(self) -> int:
        """The most items of one batch."""
        ...

    def run(self, items: Sequence[Item]) -> Sequence[Result | RetinueError]:
        """Answers each item, in order; an error answers one item and leaves the others theirs. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What became of one item.

    Attributes:
        value: The answer, or why there is none.
        queue_seconds: How long the item waited before its batch was begun.
    """

    value: Result | RetinueError
    queue_seconds: float


class Ticket:
    """One accepted request: collects the outcomes of its items and hands them to its caller when all are there."""

    __slots__ = ("_loop", "_missing", "_outcomes", "deadline", "future")

    def __init__(self, size: int, deadline: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Outcome[Any]]] = self._loop.create_future()
        self._outcomes: list[Outcome[Any] | None] = [None] * size
        self.deadline = deadline
        self._missing = size

    def put(self, index: int, outcome: Outcome[Any]) -> None:
        """Stores one outcome, unless nobody waits for it any more. Called under the engine's lock."""
        if self.future.done():
            return
        self._outcomes[index] = outcome
        self._missing -= 1
        if self._missing == 0:
            self._loop.call_soon_threadsafe(self._finish)

    def drop(self) -> None:
        """Forgets the outcomes of a caller who has left. Called under the engine's lock."""
        self._outcomes = []

    def _finish(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        if not self.future.done():
            self.future.set_result(outcomes)  # type: ignore[arg-type]


@dataclass(slots=True)
class Job:
    """One item that waits."""

    item: Any
    ticket: Ticket
    index: int
    queued_at: float


class Batcher(Generic[Item, Result]):
    """A bounded queue in front of a backend; an `Engine`'s threads empty it.

    Args:
        backend: What runs the batches.
        engine: Whose threads do it.
        capacity: Items that may wait.
        item_seconds: First estimate of one item's cost; measured from then on.
        runs_with: Whether a second item can be in one batch with a first.
        name: Of the model, for the log.
        on_batch: Called with the size of every batch that answered an item.
    """

    def __init__(
        self,
        backend: Backend[Item, Result],
        engine: "Engine",
        *,
        capacity: int,
        item_seconds: float,
        runs_with: Callable[[Any, Any], bool] = lambda first, second: True,
        name: str = "",
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.item_seconds = item_seconds
        self._backend = backend
        self._engine = engine
        self._capacity = capacity
        self._runs_with = runs_with
        self._name = name
        self._on_batch = on_batch
        self._clock = engine.clock
        self._fastest_item_seconds = math.inf
        self._jobs: deque[Job] = deque()
        engine.add(self)

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._jobs)

    async def submit(self, items: Sequence[Item], *, deadline: float | None = None) -> list[Outcome[Result]]:
        """Waits for the outcomes of all items, in order; an item whose deadline passed in the queue gets that error.

        If the caller is cancelled, its items leave the queue unrun.

        Args:
            items: At least one.
            deadline: When the answers are worthless, on the batcher's clock.

        Raises:
            OverloadedError: The items do not fit into the queue, or it is too long for the deadline.
            UnavailableError: The engine is stopping or has failed.
        """
        ticket = Ticket(len(items), deadline)
        with self._engine.condition:
            self._engine.check_accepting()
            self._check_room(len(items), deadline)
            now = self._clock()
            self._jobs.extend(Job(item, ticket, index, now) for index, item in enumerate(items))
            self._engine.condition.notify(len(items))
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise

    def queued_since(self) -> float | None:
        """When the oldest waiting item came, or None where none waits. Called under the engine's lock."""
        return self._jobs[0].queued_at if self._jobs else None

    def take(self, sharers: int) -> list[Job]:
        """Takes the next batch: a fair share for each idle thread, so that none idles while another has a long batch.

        Expired items are answered and not taken, so the batch may be empty. What cannot run with the oldest item waits
        where it was. Called under the engine's lock.

        Args:
            sharers: Threads that are free to run a batch now, the caller included.
        """
        size = min(self._backend.max_batch_size, -(-len(self._jobs) // sharers))
        now = self._clock()
        batch: list[Job] = []
        left: list[Job] = []
        while self._jobs and len(batch) < size:
            job = self._jobs.popleft()
            if job.ticket.deadline is not None and job.ticket.deadline <= now:
                expired = DeadlineExpiredError(
                    "the deadline passed while the image waited; allow more time or retry later."
                )
                job.ticket.put(job.index, Outcome(expired, now - job.queued_at))
            elif batch and not self._runs_with(batch[0].item, job.item):
                left.append(job)
            else:
                batch.append(job)
        self._jobs.extendleft(reversed(left))
        return batch

    def run(self, batch: Sequence[Job]) -> None:
        """Runs a batch and answers its items, whatever happens. Called by an engine's thread without the lock.

        Raises:
            BaseException: What is no Exception, after every item of the batch was answered with an EngineError.
        """
        began = self._clock()
        values: Sequence[Any] = ()
        try:
            values = self._backend.run([job.item for job in batch])
            if len(values) != len(batch):
                raise RuntimeError(f"the backend answered {len(values)} of {len(batch)} items")
        except BaseException as error:
            error_id = secrets.token_hex(8)
            failed = EngineError(f"the model failed on this batch; the server logged it as {error_id}.")
            values = [failed] * len(batch)
            _log.exception("batch_failed", model=self._name, batch_size=len(batch), error_id=error_id)
            # The next batch may be fine, unless the thread itself is to end.
            if not isinstance(error, Exception):
                raise
        finally:
            seconds = (self._clock() - began) / len(batch)
            # Where nothing was answered, the network may not have run, and the time says nothing of its cost.
            answered = not all(isinstance(value, RetinueError) for value in values)
            with self._engine.condition:
                self._engine.finish()
                if answered:
                    self._learn_cost(seconds)
                for job, value in zip(batch, values, strict=True):
                    job.ticket.put(job.index, Outcome(value, began - job.queued_at))
            if answered:
                self._on_batch(len(batch))

    def fail_all(self, error: RetinueError) -> None:
        """Answers everything that waits with an error. Called under the engine's lock."""
        while self._jobs:
            job = self._jobs.popleft()
            job.ticket.put(job.index, Outcome(error, self._clock() - job.queued_at))

    def _check_room(self, count: int, deadline: float | None) -> None:
        wait_seconds = self._engine.backlog_seconds()
        retry_after_seconds = max(wait_seconds, _LEAST_RETRY_SECONDS)
        if len(self._jobs) + count > self._capacity:
            raise OverloadedError(
                f"the model's queue holds {len(self._jobs)} of {self._capacity} images and has no room "
                f"for {count} more; retry in {retry_after_seconds:.2f} s or send fewer at once.",
                retry_after_seconds=retry_after_seconds,
            )
        run_seconds = -(-count // self._engine.instances) * self._item_cost(idle=wait_seconds == 0)
        if deadline is not None and self._clock() + wait_seconds + run_seconds > deadline:
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
            self._jobs = deque(job for job in self._jobs if job.ticket is not ticket)
            ticket.drop()
