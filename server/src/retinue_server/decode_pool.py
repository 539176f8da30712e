"""The threads that decode images in front of a GPU."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from retinue_server.batching.tickets import BatchEnd
from retinue_server.batching.usage import Usage

Item = TypeVar("Item")
Row = TypeVar("Row")
Decoded = TypeVar("Decoded")


class DecodePool:
    """Decodes the images of a batch at once, on threads of its own, and counts what these do.

    Args:
        threads: How many images are decoded at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._lock = threading.Lock()
        self._taken = 0
        self._busy_seconds = 0.0
        self._batches = dict.fromkeys(BatchEnd, 0)

    def map(
        self, decode: Callable[[Item, Row], tuple[Decoded, float]], items: Sequence[Item], rows: Iterable[Row]
    ) -> list[tuple[Decoded, float]]:
        """Decodes each item into its row, in order.

        Args:
            decode: Returns what became of an item, and the seconds that took.
            items: Of one batch.
            rows: At least as many.
        """
        with self._lock:
            self._taken += len(items)
        end = BatchEnd.FAILED
        decoded: list[tuple[Decoded, float]] = []
        try:
            decoded = list(self._pool.map(decode, items, rows))
            end = BatchEnd.RAN
        finally:
            with self._lock:
                self._taken -= len(items)
                self._busy_seconds += sum(seconds for _, seconds in decoded)
                self._batches[end] += 1
        return decoded

    def usage(self) -> Usage:
        """What its threads do; a batch counts as waiting as far as it cannot be with a thread."""
        with self._lock:
            return Usage(
                threads=self._threads,
                healthy=True,
                waiting=max(0, self._taken - self._threads),
                busy_seconds=self._busy_seconds,
                batches=self._batches.copy(),
            )

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()
