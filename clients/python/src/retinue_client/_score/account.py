"""The books of a job: of the part that is being made, and of everything that is done."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from retinue_client._errors import ImageError
from retinue_client._score.rows import Result, Row
from retinue_client._score.summary import Stage, Summary


class Account:
    """Takes down what a job does, part by part.

    A part's summary goes into the journal with it; a job that goes on is given those of the parts that are done. Times
    count for the part that is being made when they end, which with reading ahead is now and then the one before theirs.

    Any thread may call any of its methods.

    Args:
        clock: Seconds, monotonic.

    Attributes:
        earlier_images: Rows of the runs before this one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._part_began = clock()
        self._done = Summary()
        self._part = Summary()
        self.earlier_images = 0

    @property
    def images(self) -> int:
        """Rows of all runs so far."""
        with self._lock:
            return self._done.images + self._part.images

    @property
    def failed(self) -> int:
        """Those of them that have an error."""
        with self._lock:
            return self._done.failed + self._part.failed

    def begin(self) -> None:
        """Counts time from now on: what came before, such as loading a model, was no scoring."""
        with self._lock:
            self._part_began = self._clock()

    def resume(self, state: dict[str, Any]) -> None:
        """Adds a part that an earlier run has made, by what `close_part` gave of it; in order.

        Raises:
            ValueError: It is no state of a part.
        """
        part = Summary.from_state(state)
        with self._lock:
            self._done.merge(part)
            self.earlier_images += part.images

    def add_part(self, state: dict[str, Any]) -> dict[str, Any]:
        """Adds a part that another process has made for this run, by what `close_part` gave of it there.

        Returns:
            The part's summary, for the journal: several are made at once, so it took the time since the last one.
        """
        part = Summary.from_state(state)
        with self._lock:
            now = self._clock()
            part.seconds = now - self._part_began
            self._part_began = now
            self._done.merge(part)
        return part.state()

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Counts rows that belong to the part, in order."""
        with self._lock:
            self._part.add_rows(rows)

    def add_answer(
        self, waited_seconds: float, took_seconds: float, outcomes: Sequence[Result | ImageError]
    ) -> None:
        """Counts the answer to a request, as `Summary.add_answer` says."""
        with self._lock:
            self._part.add_answer(waited_seconds, took_seconds, outcomes)

    @contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        """Counts how long its body takes, in whatever thread."""
        started = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - started
            with self._lock:
                self._part.add_time(stage, seconds)

    def close_part(self) -> dict[str, Any]:
        """Ends the part and begins the next one.

        Returns:
            The part's summary, for the journal.
        """
        with self._lock:
            part, self._part = self._part, Summary()
            now = self._clock()
            part.seconds = now - self._part_began
            self._part_began = now
            self._done.merge(part)
        return part.state()

    def total(self) -> Summary:
        """Everything so far, in all runs."""
        total = Summary()
        with self._lock:
            total.merge(self._done)
            total.merge(self._part)
            if self._part.images:
                total.seconds += self._clock() - self._part_began
        return total

    def percentile_ms(self, share: float) -> float | None:
        """The latency in milliseconds that so large a share of all images does not exceed; None without any."""
        with self._lock:
            latencies = self._done.latencies.copy()
            latencies.merge(self._part.latencies)
        seconds = latencies.percentile(share)
        return None if seconds is None else seconds * 1000
