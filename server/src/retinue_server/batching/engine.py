"""The threads that run batches, shared by all models of a device."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from retinue_server.batching.batch import Batch
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import BatchEnd, Priority
from retinue_server.batching.usage import Usage
from retinue_server.errors import UnavailableError

_log = structlog.get_logger(__name__)

# After so many items in a row that came to an idle engine, the next one is taken to be alone, too.
_ALONE_BEFORE = 3
# For what is told to stop when the threads are.
_STOPPING_SECONDS = 1.0


@dataclass(slots=True)
class _Running:
    """What a thread runs.

    Attributes:
        batcher: Whose batch.
        batch: The batch.
        began: When it began to.
        done_at: When it is done, by what was measured.
        weight: How many threads' time that takes.
    """

    batcher: Batcher[Any, Any]
    batch: Batch
    began: float
    done_at: float
    weight: float


class Engine:
    """Threads that each take a batch and run it: of the highest priority, and there of the model that had least time.

    An idle engine runs what is there at once; a busy one lets batches grow until a thread is free. So models share the
    engine's time equally, whatever they cost and however many images wait for each (start-time fair queueing). A batch
    that fails costs its own items; a thread that dies fails everything that waits and turns `healthy` off. One that
    hangs in a batch is given up where somebody watches: another takes its place, and should it come back, it ends.

    Args:
        instances: How many batches run at once.
        on_failure: Called from every thread that dies.
        clock: Monotonic seconds; a test may drive it.

    Attributes:
        clock: As given; the batchers' deadlines are on it.
        lock: Guards every batcher's queue.
        condition: On the lock; notified when work arrives.
        instances: As given.
        healthy: Whether all threads live.
    """

    def __init__(
        self,
        instances: int,
        on_failure: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.instances = instances
        self.clock = clock
        self.healthy = True
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self._on_failure = on_failure
        self._batchers: list[Batcher[Any, Any]] = []
        self._running: dict[threading.Thread, _Running] = {}
        self._busy_seconds = 0.0
        self._batches = dict.fromkeys(BatchEnd, 0)
        self._virtual_seconds = 0.0
        self._alone_in_a_row = 0
        self._stopping = False
        self._started = instances
        # Of those that were given up, how many have nobody in their place yet.
        self._missing = 0
        # Those that were given up are not among them.
        self._threads = {self._thread(number) for number in range(instances)}

    @property
    def idle(self) -> int:
        """Threads that run nothing."""
        return self.instances - self._missing - len(self._running)

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Lets the threads finish the batch they run, and answers what still waits with UNAVAILABLE.

        Args:
            timeout_seconds: How long to wait for them. Then what runs is told to stop, and what does not even do that
                dies with the process.
        """
        with self.condition:
            self._stopping = True
            self._fail_all(
                UnavailableError("the server is shutting down; retry on another one.", reason="DRAINING")
            )
            self.condition.notify_all()
            threads = [thread for thread in self._threads if thread.is_alive()]
        _join(threads, timeout_seconds)
        with self.condition:
            for running in self._running.values():
                running.batch.stop.request()
        _join(threads, _STOPPING_SECONDS)

    def add(self, batcher: Batcher[Any, Any]) -> None:
        """Gives the threads one more queue to empty."""
        with self.condition:
            self._batchers.append(batcher)

    def remove(self, batcher: Batcher[Any, Any]) -> None:
        """Takes a queue away from the threads; what of it runs is finished. Called under the lock."""
        if batcher in self._batchers:
            self._batchers.remove(batcher)

    @property
    def device_lost(self) -> bool:
        """Whether no model can be opened any more, for the device's sake: only another process may mend that."""
        with self.lock:
            known = [one.recovery for one in self._batchers if one.recovery is not None]
            return bool(known) and all(one.device_lost for one in known)

    def suspect_all(self, reason: str) -> None:
        """Has all models probed. Called under the lock."""
        for batcher in self._batchers:
            if batcher.recovery is not None:
                batcher.recovery.suspect(reason)

    def watch(self, elapsed_seconds: float) -> None:
        """Stops batches that hang, gives up threads that do not stop, and heals models. To be called again and again.

        Args:
            elapsed_seconds: Since the last time, as far as this process could run.

        Raises:
            RuntimeError: No thread can be started in the place of one that was given up; it is tried again next time.
        """
        with self.condition:
            for thread, running in list(self._running.items()):
                if running.batcher.watch(running.batch, elapsed_seconds):
                    self._give_up(thread)
            for batcher in self._batchers:
                if batcher.recovery is not None:
                    batcher.recovery.tick()
            while self._missing:
                self._replace()

    def check_accepting(self) -> None:
        """Refuses work that no thread would run. Called under the lock.

        Raises:
            UnavailableError: The engine is stopping or has failed.
        """
        if self._stopping:
            raise UnavailableError("the server is shutting down; retry on another one.", reason="DRAINING")
        if not self.healthy:
            raise UnavailableError(
                "the engine has failed and must be restarted; retry on another server.",
                reason="ENGINE_FAILED",
            )

    def join(self, batcher: Batcher[Any, Any]) -> None:
        """Counts a model whose queue was empty from now on: what it did not use before gives it no claim.

        Called under the lock.
        """
        batcher.virtual_seconds = max(batcher.virtual_seconds, self._virtual_seconds)
        batcher.joined_at = self.clock()

    def make_way(self) -> None:
        """Ends as many batches of copies as it takes to have a thread for each request that waits.

        Called under the lock.
        """
        copies = [running.batch for running in self._running.values() if running.batch.of_copies]
        if not copies:
            return
        missing = sum(batcher.requested for batcher in self._batchers) - self.idle
        # Those that were asked before first: they will have made room.
        copies.sort(key=lambda batch: not batch.stop.requested)
        for batch in copies[: max(0, missing)]:
            batch.stop.request()

    def wait_seconds(
        self, batcher: Batcher[Any, Any], priority: Priority, ahead_seconds: float, turns_seconds: float
    ) -> float:
        """How long a request that comes now waits until its last item is begun, by what runs and waits.

        0 where a thread idles and nothing comes before it. Called under the lock.

        Args:
            batcher: Of the request's model.
            priority: Of the request.
            ahead_seconds: What of its own model comes before it.
            turns_seconds: The same with what it takes itself: as much time has each other model meanwhile.
        """
        others_seconds = sum(
            other.seconds_before(priority, turns_seconds) for other in self._batchers if other is not batcher
        )
        if self.idle and not batcher.saturated and not ahead_seconds and not others_seconds:
            return 0.0
        now = self.clock()
        running_seconds = sum(max(0.0, one.done_at - now) * one.weight for one in self._running.values())
        return (running_seconds + ahead_seconds + others_seconds) / self.instances

    def finish(self, end: BatchEnd) -> None:
        """Counts the calling thread as idle, before the answers of its batch are seen. Called under the lock."""
        self._ended(self._running.pop(threading.current_thread()), end)

    def usage(self) -> Usage:
        """What its threads do, with the time of what runs now."""
        with self.lock:
            now = self.clock()
            running_seconds = sum(now - one.began for one in self._running.values())
            return Usage(
                threads=self.instances,
                healthy=self.healthy,
                waiting=sum(map(len, self._batchers)),
                busy_seconds=self._busy_seconds + running_seconds,
                batches=self._batches.copy(),
            )

    def _ended(self, running: _Running, end: BatchEnd) -> None:
        self._busy_seconds += self.clock() - running.began
        self._batches[end] += 1

    def _thread(self, number: int) -> threading.Thread:
        return threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)

    def _give_up(self, lost: threading.Thread) -> None:
        """Counts a thread no more that hangs. Called under the lock."""
        self._ended(self._running.pop(lost), BatchEnd.FAILED)
        self._threads.discard(lost)
        self._missing += 1

    def _replace(self) -> None:
        """Has another thread do what one does not that was given up. Called under the lock."""
        another = self._thread(self._started + 1)
        another.start()
        self._started += 1
        self._missing -= 1
        # That waits for the lock, and then finds that it is one of them.
        self._threads.add(another)

    def _work(self) -> None:
        try:
            while self._run_next():
                pass
        except BaseException:
            with self.condition:
                if threading.current_thread() not in self._threads:
                    return
                self.healthy = False
                self._fail_all(
                    UnavailableError(
                        "the engine has failed; retry on another server.", reason="ENGINE_FAILED"
                    )
                )
            _log.exception("engine_thread_died")
            self._on_failure()
            raise

    def _run_next(self) -> bool:
        """Waits for a batch and runs it; false means stop. Nothing of the batch stays behind while a thread waits."""
        taken = self._next()
        if taken is None:
            return False
        batcher, batch = taken
        try:
            batcher.run(batch)
        except Exception:
            # Its callers have been answered: what failed came after.
            _log.exception("batch_not_counted", batch_size=len(batch))
        return True

    def _next(self) -> tuple[Batcher[Any, Any], Batch] | None:
        """Waits for a batch; None means stop."""
        with self.condition:
            while not self._stopping and threading.current_thread() in self._threads:
                waiting = [
                    (priority, batcher.virtual_seconds, batcher.joined_at, number)
                    for number, batcher in enumerate(self._batchers)
                    if (priority := batcher.priority) is not None
                ]
                if not waiting:
                    self.condition.wait()
                    continue
                batcher = self._batchers[min(waiting)[-1]]
                batch = batcher.take(sharers=self.idle)
                if batch is not None:
                    batch.alone = batcher.all_cores or self._is_alone(batch)
                    cost_seconds = len(batch) * batcher.cost.seconds
                    self._virtual_seconds = max(self._virtual_seconds, batcher.virtual_seconds)
                    batcher.virtual_seconds += len(batch) * batcher.item_engine_seconds
                    now = self.clock()
                    self._running[threading.current_thread()] = _Running(
                        batcher, batch, now, now + cost_seconds, batcher.threads_a_batch
                    )
                    return batcher, batch
            return None

    def _is_alone(self, batch: Batch) -> bool:
        """Whether a batch is one item that has the engine to itself, as those before it had.

        Threads that each run a batch and one run on all cores would be in each other's way, so this changes only when
        callers have really become fewer.
        """
        if self._running or len(batch) != 1 or any(len(batcher) for batcher in self._batchers):
            self._alone_in_a_row = 0
            return False
        self._alone_in_a_row += 1
        return self._alone_in_a_row > _ALONE_BEFORE

    def _fail_all(self, error: UnavailableError) -> None:
        for batcher in self._batchers:
            batcher.fail_all(error)


def _join(threads: Sequence[threading.Thread], timeout_seconds: float) -> None:
    """Waits for the end of all, but no longer than so long together."""
    end_at = time.monotonic() + timeout_seconds
    for thread in threads:
        thread.join(max(0.0, end_at - time.monotonic()))
