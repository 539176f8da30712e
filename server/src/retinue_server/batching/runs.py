"""The batches of a model that run, and the backends that run them: the one that is, and those before it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from retinue_server.batching.backend import Backend, Tenure
from retinue_server.batching.batch import Batch
from retinue_server.batching.tickets import Job


class Runs:
    """Keeps account of them. A backend that was replaced is closed when no batch is in it any more.

    All is called under the lock, but for `close_unused`.

    Args:
        backend: The first.
        lock: The engine's.

    Attributes:
        on_closed: Called after each backend that was closed and that no batch is in.
    """

    def __init__(self, backend: Backend[Any, Any], lock: threading.RLock) -> None:
        self.on_closed: Callable[[], object] = lambda: None
        self._current: Tenure | None = Tenure(backend)
        self._former: list[Tenure] = []
        self._batches: set[Batch] = set()
        self._lock = lock
        # Not the engine's, which wakes as many threads as there are items.
        self._ended = threading.Condition(lock)

    def __len__(self) -> int:
        """How many batches run, without those that were given up."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    @property
    def unused(self) -> bool:
        """Whether there are backends to close that no batch will be in any more."""
        return any(not one.runs and not one.closing for one in self._former)

    @property
    def former(self) -> int:
        """How many backends were replaced and are not closed yet."""
        return len(self._former)

    @property
    def max_batch_size(self) -> int:
        """The most items of one batch."""
        assert self._current is not None
        return self._current.backend.max_batch_size

    def begin(self, jobs: Sequence[Job]) -> Batch:
        """A batch that runs from now on."""
        assert self._current is not None
        self._current.runs += 1
        batch = Batch(jobs, self._current)
        self._batches.add(batch)
        return batch

    def is_current(self, batch: Batch) -> bool:
        """Whether the backend that a batch is in has not been replaced."""
        return batch.tenure is self._current

    def give_up(self, batch: Batch) -> None:
        """Counts a batch no more, although its thread is still in it."""
        self._batches.remove(batch)
        self._ended.notify_all()

    def end(self, batch: Batch) -> bool:
        """Counts a batch no more that nothing is in; returns whether it was counted until now."""
        batch.tenure.runs -= 1
        if batch not in self._batches:
            return False
        self.give_up(batch)
        return True

    def wait(self, timeout_seconds: float) -> None:
        """Waits until none is counted."""
        self._ended.wait_for(lambda: not self._batches, timeout_seconds)

    def retire(self) -> None:
        """Has no batch begin in the backend there is."""
        if self._current is not None:
            self._former.append(self._current)
            self._current = None

    def put(self, backend: Backend[Any, Any]) -> None:
        """Has batches begin in another one, after `retire`."""
        self._current = Tenure(backend)

    def settle(self) -> None:
        """Tells of closed backends that nothing is in any more: what hangs in one keeps what that needs."""
        done = [one for one in self._former if one.closed and not one.runs]
        self._former = [one for one in self._former if one not in done]
        for _ in done:
            self.on_closed()

    def close_unused(self, *, used_too: bool = False) -> None:
        """Closes the backends that no batch will be in any more. Called without the lock: it may take a while.

        Args:
            used_too: Whether to close those, too, in which a batch still is.
        """
        with self._lock:
            closing = [one for one in self._former if not one.closing and (used_too or not one.runs)]
            for tenure in closing:
                tenure.closing = True
        try:
            for tenure in closing:
                tenure.backend.close()
        finally:
            with self._lock:
                for tenure in closing:
                    tenure.closed = True
                self.settle()
