"""One model's queue: takes requests of several items, hands out batches, and puts each answer where it belongs."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Generic

from retinue_server.batching import diagnosis, origins, refusals
from retinue_server.batching.backend import EQUAL_SHARES, Backend, Item, Plan, Result
from retinue_server.batching.batch import Batch
from retinue_server.batching.cost import ItemCost
from retinue_server.batching.fair_queue import FairQueue
from retinue_server.batching.recovery import Recovery
from retinue_server.batching.runs import Runs
from retinue_server.batching.tickets import BatchEnd, Job, Outcome, Priority, Ticket
from retinue_server.errors import (
    DeadlineExpiredError,
    RetinueError,
    UnavailableError,
)

if TYPE_CHECKING:
    from retinue_server.batching.engine import Engine

_LEAST_RETRY_SECONDS = 0.05


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

    Attributes:
        capacity: Items that may wait, but for copies.
        cost: What an item costs.
        all_cores: As `plan` says.
        virtual_seconds: What it had of the engine: of several models, the one that had least is next.
        joined_at: Since when it waits, which is next in importance.
        recovery: Heals the model; None for what cannot fall ill.
        refusal: Why nothing is taken; None where it is.
        lock: The engine's.
    """

    def __init__(
        self,
        backend: Backend[Item, Result],
        engine: "Engine",
        *,
        capacity: int,
        item_seconds: float,
        runs_with: Callable[[Any, Any], bool] = lambda first, second: True,
        plan: Plan = EQUAL_SHARES,
        name: str = "",
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.cost = ItemCost(item_seconds)
        self.all_cores = plan.all_cores
        self.virtual_seconds = self.joined_at = 0.0
        self.recovery: Recovery | None = None
        self.lock = engine.lock
        self._runs = Runs(backend, engine.lock)
        self._engine = engine
        self.capacity = capacity
        self._runs_with = runs_with
        self._name = name
        self._on_batch = on_batch
        self._clock = engine.clock
        self._queue = FairQueue()
        self._most_running = min(plan.most_running or engine.instances, engine.instances)
        self.refusal: UnavailableError | None = None
        self._closed = self._probe_wanted = False
        # Whether batches are spans, where calls are traced that they run for.
        self.trace_batches = True
        # Whether any call ever was; where none was, batches need not look for those that are.
        self._has_traced = False
        engine.add(self)

    def heal_by(self, recovery: Recovery) -> None:
        """Has somebody look after the backend from now on."""
        self.recovery = recovery
        self._runs.on_closed = recovery.remedy.on_closed
        recovery.look_after(self)

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def former_backends(self) -> int:
        """How many backends were replaced and are not closed yet, since something is still in them."""
        return self._runs.former

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
        if self.saturated:
            return None
        return Priority.HIGH if self._probe_wanted else self._queue.priority

    @property
    def saturated(self) -> bool:
        """Whether as many batches run as may. Called under the engine's lock."""
        return len(self._runs) >= self._most_running

    @property
    def threads_a_batch(self) -> float:
        """How many threads a batch takes: more than its own where others must idle meanwhile."""
        return self._engine.instances / self._most_running

    @property
    def item_engine_seconds(self) -> float:
        """What an item takes of all threads' time."""
        return self.cost.seconds * self.threads_a_batch

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
            UnavailableError: The model is not ready or being unloaded, or the engine is stopping or has failed.
        """
        ticket = Ticket(len(items), caller, priority, deadline)
        with self._engine.condition:
            self._check_room(len(items), caller, priority, deadline)
            if not self._queue:
                self._engine.join(self)
            now = self._clock()
            self._has_traced |= self.trace_batches and ticket.traced
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
        if self._probe_wanted:
            self._probe_wanted = False
            return self._runs.begin([])
        queue = self._queue
        sharers = min(sharers, self._most_running - len(self._runs))
        size = min(self._runs.max_batch_size, -(-len(queue) // sharers))
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
        return self._runs.begin(taken) if taken else None

    def run(self, batch: Batch) -> None:
        """Runs a batch and answers its items, whatever happens. Called by an engine's thread without the lock.

        Where the thread was given up meanwhile, they have been answered, and nothing is counted.

        Raises:
            BaseException: What is no Exception, after every item of the batch was answered with an EngineError.
        """
        began = self._clock()
        values: Sequence[Any] = ()
        raised: type[BaseException] | None = None
        end = BatchEnd.RAN
        try:
            values = self._values(batch)
        except BaseException as error:
            raised = type(error)
            end = BatchEnd.STOPPED if batch.stop.requested and not batch.hung else BatchEnd.FAILED
            values = [diagnosis.failure(batch, self._name)] * len(batch)
            # The next batch may be fine, unless the thread itself is to end.
            if not isinstance(error, Exception):
                raise
        finally:
            ended = self._clock()
            seconds = ended - began
            if self._has_traced:
                origins.trace_batch(self._name, batch.jobs, began, ended)
            # Where nothing was answered, the network may not have run, and the time says nothing of its cost.
            answered = not all(isinstance(value, RetinueError) for value in values)
            with self._engine.condition:
                in_time = self._runs.end(batch)
                if in_time:
                    self._engine.finish(end)
                    if answered:
                        self.cost.learn(seconds / len(batch))
                    for job, value in zip(batch.jobs, values, strict=True):
                        job.ticket.put(job.index, Outcome(value, began - job.queued_at))
                    self._judge(batch, values, raised, seconds)
                elif self.recovery is not None:
                    self.recovery.thread_back()
                self._runs.settle()
                if self.recovery is not None and self._runs.unused:
                    self.recovery.clear()
            if answered and in_time:
                self._on_batch(len(batch), seconds)

    def watch(self, batch: Batch, elapsed_seconds: float) -> bool:
        """Stops a batch that hangs, or answers its items where it does not stop. Called under the engine's lock.

        Args:
            batch: Which.
            elapsed_seconds: Since it was called last.

        Returns:
            Whether its thread is lost.
        """
        recovery = self.recovery
        if recovery is None or not diagnosis.watch(
            recovery, batch, self._expected_seconds(batch), elapsed_seconds
        ):
            return False
        current = self._runs.is_current(batch)
        self._runs.give_up(batch)
        for job in batch.jobs:
            job.ticket.put(job.index, Outcome(diagnosis.hung(), self._clock() - job.queued_at))
        recovery.thread_lost(current=current)
        return True

    def want_probe(self) -> None:
        """Has the next thread run a probe. Called under the engine's lock."""
        self._probe_wanted = True
        self._engine.condition.notify()

    def refuse(self, error: UnavailableError) -> None:
        """Answers what waits and what comes with an error, and begins no batch. Called under the engine's lock."""
        self.refusal = error
        self._probe_wanted = False
        self._runs.retire()
        self.fail_all(error)

    def accept(self, backend: Backend[Item, Result]) -> None:
        """Takes items again, for another backend. Called under the engine's lock."""
        self._runs.put(backend)
        if self._closed:
            self._runs.retire()
        else:
            self.refusal = None

    def clear(self) -> None:
        """Closes the backends that no batch will be in any more. Called without the lock: it may take a while."""
        self._runs.close_unused()

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
            if self.recovery is not None:
                self.recovery.detach()
            self._engine.remove(self)
            self.refuse(refusals.unloading())
            self._runs.wait(timeout_seconds)
        self._runs.close_unused(used_too=True)

    def _values(self, batch: Batch) -> Sequence[Any]:
        """What the backend answers; nothing for a probe."""
        backend = batch.tenure.backend
        if batch.is_probe:
            assert self.recovery is not None
            self.recovery.remedy.probe(backend, batch.stop)
            return ()
        values = backend.run([job.item for job in batch.jobs], batch.stop, alone=batch.alone)
        if len(values) != len(batch):
            raise RuntimeError(f"the backend answered {len(values)} of {len(batch)} items")
        return values

    def _expected_seconds(self, batch: Batch) -> float:
        return len(batch) * self.cost.seconds

    def _judge(
        self, batch: Batch, values: Sequence[Any], raised: type[BaseException] | None, seconds: float
    ) -> None:
        # What befell a backend that was replaced says nothing of the one there is.
        if self.recovery is None or not self._runs.is_current(batch):
            return
        slow = seconds > self.recovery.limits.longest(self._expected_seconds(batch))
        if diagnosis.judge(self.recovery, batch, values, raised, slow=slow):
            self._engine.suspect_all("device_failed")

    def _check_room(self, count: int, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        queue, engine = self._queue, self._engine
        engine.check_accepting()
        if self.refusal is not None:
            raise UnavailableError(self.refusal.message, reason=self.refusal.reason)
        item_seconds = self.item_engine_seconds
        ahead_seconds = queue.ahead_of(count, caller, priority) * item_seconds
        turns_seconds = ahead_seconds + count * item_seconds
        wait_seconds = engine.wait_seconds(self, priority, ahead_seconds, turns_seconds)
        retry_after_seconds = max(wait_seconds, _LEAST_RETRY_SECONDS)
        own = queue.waiting_of(caller)
        waiting = len(queue) if priority is Priority.COPY else self.requested
        refusals.check_room(
            count, own=own, waiting=waiting, capacity=self.capacity, retry_after_seconds=retry_after_seconds
        )
        if deadline is not None:
            run_seconds = -(-count // self._most_running) * self.cost.of_next(idle=wait_seconds == 0)
            refusals.check_deadline(
                deadline - self._clock(), wait_seconds, run_seconds, retry_after_seconds=retry_after_seconds
            )

    def _withdraw(self, ticket: Ticket) -> None:
        with self._engine.condition:
            self._queue.remove(ticket)
            ticket.drop()
            for batch in self._runs:
                batch.stop_if_abandoned()
