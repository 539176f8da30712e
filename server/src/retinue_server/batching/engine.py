"""The threads that run batches, shared by all models of a device."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from retinue_server.batching.batcher import Batcher
from retinue_server.errors import UnavailableError

_log = structlog.get_logger(__name__)


class Engine:
    """Threads that each take the batch that has waited longest, over all models, and run it.

    An idle engine runs what is there at once; a busy one lets batches grow until a thread is free. A batch that fails
    costs its own items; a thread that dies fails everything that waits and turns `healthy` off.

    Args:
        instances: How many batches run at once.
        on_failure: Called from every thread that dies.
        clock: Monotonic seconds; a test may drive it.

    Attributes:
        clock: As given; the batchers' deadlines are on it.
        condition: Guards every batcher's queue; notified when work arrives.
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
        self.condition = threading.Condition()
        self._on_failure = on_failure
        self._batchers: list[Batcher[Any, Any]] = []
        self._done_at: dict[threading.Thread, float] = {}
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

    def backlog_seconds(self) -> float:
        """How long an item that comes now will wait, by what runs and waits; 0 where a thread is idle.

        Called under the lock.
        """
        waiting = sum(len(batcher) * batcher.item_seconds for batcher in self._batchers)
        if self.idle and not waiting:
            return 0.0
        now = self.clock()
        running = sum(max(0.0, done_at - now) for done_at in self._done_at.values())
        return (running + waiting) / self.instances

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

    def _next(self) -> "tuple[Batcher[Any, Any], list[Any]] | None":
        """Waits for a batch; None means stop."""
        with self.condition:
            while not self._stopping:
                waiting = [
                    (since, batcher)
                    for batcher in self._batchers
                    if (since := batcher.queued_since()) is not None
                ]
                if not waiting:
                    self.condition.wait()
                    continue
                batcher = min(waiting, key=lambda pair: pair[0])[1]
                if batch := batcher.take(sharers=self.idle):
                    cost_seconds = len(batch) * batcher.item_seconds
                    self._done_at[threading.current_thread()] = self.clock() + cost_seconds
                    return batcher, batch
            return None

    def _fail_all(self, error: UnavailableError) -> None:
        for batcher in self._batchers:
            batcher.fail_all(error)
