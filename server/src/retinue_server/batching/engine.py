"""The threads that run batches, shared by all models of a device."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.tickets import Batch, Priority
from retinue_server.errors import UnavailableError

_log = structlog.get_logger(__name__)

# After so many items in a row that came to an idle engine, the next one is taken to be alone, too.
_ALONE_BEFORE = 3


class Engine:
    """Threads that each take a batch and run it: of the highest priority, and there of the model that had least time.

    An idle engine runs what is there at once; a busy one lets batches grow until a thread is free. So models share the
    engine's time equally, whatever they cost and however many images wait for each (start-time fair queueing). A batch
    that fails costs its own items; a thread that dies fails everything that waits and turns `healthy` off.

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
        copies_running: Batches that run and are of copies only. Kept by the batchers, under the lock.
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
        self.copies_running = 0
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self._on_failure = on_failure
        self._batchers: list[Batcher[Any, Any]] = []
        # When what a thread runs is done, and how many threads' time that takes.
        self._done_at: dict[threading.Thread, tuple[float, float]] = {}
        self._virtual_seconds = 0.0
        self._alone_in_a_row = 0
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)
            for number in range(instances)
        ]

    @property
    def idle(self) -> int:
        """Threads that run nothing."""
        return self.instances - len(self._done_at)

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Lets the threads finish the batch they run, and answers what still waits with UNAVAILABLE.

        Args:
            timeout_seconds: How long to wait for each thread; one that hangs in a network dies with the process.
        """
        with self.condition:
            self._stopping = True
            self._fail_all(
                UnavailableError("the server is shutting down; retry on another one.", reason="DRAINING")
            )
            self.condition.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_seconds)

    def add(self, batcher: Batcher[Any, Any]) -> None:
        """Gives the threads one more queue to empty."""
        with self.condition:
            self._batchers.append(batcher)

    def remove(self, batcher: Batcher[Any, Any]) -> None:
        """Takes a queue away from the threads; what of it runs is finished. Called under the lock."""
        if batcher in self._batchers:
            self._batchers.remove(batcher)

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
        if not self.copies_running:
            return
        missing = sum(batcher.requested for batcher in self._batchers) - self.idle
        for batcher in self._batchers:
            if missing <= 0:
                return
            missing -= batcher.stop_copies(missing)

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
        running_seconds = sum(max(0.0, done_at - now) * weight for done_at, weight in self._done_at.values())
        return (running_seconds + ahead_seconds + others_seconds) / self.instances

    def finish(self) -> None:
        """Counts the calling thread as idle, before the answers of its batch are seen. Called under the lock."""
        del self._done_at[threading.current_thread()]

    def _work(self) -> None:
        try:
            while self._run_next():
                pass
        except BaseException:
            with self.condition:
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
            while not self._stopping:
                waiting = [
                    (priority, batcher.virtual_seconds, batcher.joined_at, number)
                    for number, batcher in enumerate(self._batchers)
                    if (priority := batcher.priority) is not None
                ]
                if not waiting:
                    self.condition.wait()
                    continue
                batcher = self._batchers[min(waiting)[-1]]
                if batch := batcher.take(sharers=self.idle):
                    batch.alone = batcher.all_cores or self._is_alone(batch)
                    cost_seconds = len(batch) * batcher.item_seconds
                    self._virtual_seconds = max(self._virtual_seconds, batcher.virtual_seconds)
                    batcher.virtual_seconds += len(batch) * batcher.item_engine_seconds
                    done_at = self.clock() + cost_seconds
                    self._done_at[threading.current_thread()] = done_at, batcher.threads_a_batch
                    return batcher, batch
            return None

    def _is_alone(self, batch: Batch) -> bool:
        """Whether a batch is one item that has the engine to itself, as those before it had.

        Threads that each run a batch and one run on all cores would be in each other's way, so this changes only when
        callers have really become fewer.
        """
        if self._done_at or len(batch) > 1 or any(len(batcher) for batcher in self._batchers):
            self._alone_in_a_row = 0
            return False
        self._alone_in_a_row += 1
        return self._alone_in_a_row > _ALONE_BEFORE

    def _fail_all(self, error: UnavailableError) -> None:
        for batcher in self._batchers:
            batcher.fail_all(error)
