"""A scoring job from its first entry to its last row."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from retinue_client._errors import ImageError
from retinue_client._models import Task
from retinue_client._score.account import Account
from retinue_client._score.header import size_of
from retinue_client._score.limit import ErrorLimit
from retinue_client._score.memory import give_back_freed
from retinue_client._score.parts import RowTaker
from retinue_client._score.rows import Row, row_of
from retinue_client._score.sample import Sample
from retinue_client._score.scorer import Scorer
from retinue_client._score.sources.entry import Entry, Source, in_requests
from retinue_client._score.thread import in_thread

_BYTES_PER_REQUEST = 4 << 20
# Requests that are read from disk ahead of those under way, so that the server never waits for the disk.
_REQUESTS_AHEAD = 4
# Files in memory at once, beyond the largest.
_MOST_BYTES = 128 << 20
# After so many rows freed memory is given back.
_ROWS_A_TRIM = 2048
# Threads that read, of which some may wait for storage that is slow.
_READERS = 32


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """Entries that are being read and scored."""

    entries: list[Entry]
    size_bytes: int
    rows: asyncio.Task[list[Row]]


class Job:
    """Scores entries in order, many at once, and has their rows written in order.

    Args:
        scorer: Answers them.
        task: The question.
        account: Takes down what is done.
        parts: Takes the rows.
        limit: How many may fail.
        on_rows: Called with rows that are in the account, in order, from the event loop.
        sample: Keeps a few of the images with their results, for the report; None without one.
    """

    def __init__(
        self,
        scorer: Scorer,
        task: Task,
        account: Account,
        parts: RowTaker,
        limit: ErrorLimit,
        on_rows: Callable[[list[Row]], None],
        sample: Sample | None = None,
    ) -> None:
        self._scorer = scorer
        self._task: Task = task
        self._account = account
        self._sample = sample
        self._parts = parts
        self._limit = limit
        self._on_rows = on_rows
        self._rows_since_trim = 0
        # Of their own, so that reads which take long keep nothing from being written.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reading")

    async def run(self, source: Source, after: Any) -> None:
        """Scores every entry of a source after a cursor, and ends the last part. To be called once.

        Raises:
            RetinueError: The question as such is refused, or nothing answers any more.
            ScoreError: The source cannot be read, or too many images have failed.
            OSError: The source cannot be read, or the rows cannot be written.
        """
        requests = in_requests(
            source.entries(after), lambda: self._scorer.images_per_call, _BYTES_PER_REQUEST
        )
        window: deque[_UnderWay] = deque()
        window_bytes = 0
        try:
            more = True
            while more or window:
                room = (
                    len(window) < self._scorer.calls_at_once + _REQUESTS_AHEAD and window_bytes < _MOST_BYTES
                )
                if window and (window[0].rows.done() or not (more and room)):
                    first = window.popleft()
                    window_bytes -= first.size_bytes
                    await self._take(await first.rows, first.entries)
                elif (run := await asyncio.to_thread(next, requests, None)) is None:
                    more = False
                else:
                    size_bytes = sum(entry.size_bytes for entry in run)
                    window.append(_UnderWay(run, size_bytes, asyncio.create_task(self._score(run))))
                    window_bytes += size_bytes
            await in_thread(self._keep)
        finally:
            for one in window:
                one.rows.cancel()
            await asyncio.gather(*(one.rows for one in window), return_exceptions=True)
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._parts.drop()

    async def _take(self, rows: list[Row], entries: list[Entry]) -> None:
        while rows:
            room = self._parts.room()
            some, rows = rows[:room], rows[room:]
            cursor, entries = entries[: len(some)][-1].cursor, entries[room:]
            await in_thread(self._write, some, cursor)
            self._on_rows(some)
            self._limit.check(self._account.failed, self._account.images)

    def _write(self, rows: list[Row], cursor: Any) -> None:
        with self._account.timing("writing"):
            self._parts.write(rows, cursor)
            self._account.add_rows(rows)
            if not self._parts.room():
                self._parts.keep()
        self._rows_since_trim += len(rows)
        if self._rows_since_trim >= _ROWS_A_TRIM:
            give_back_freed()
            self._rows_since_trim = 0

    def _keep(self) -> None:
        with self._account.timing("writing"):
            self._parts.keep()

    async def _score(self, entries: list[Entry]) -> list[Row]:
        """The rows of one request's entries."""
        files = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, entries)
        readable = [data for data, _ in files if isinstance(data, bytes)]
        answers = iter(await self._scorer.answers(readable))
        rows = []
        many_wait = False
        for entry, (data, size) in zip(entries, files, strict=True):
            if isinstance(data, ImageError):
                rows.append(row_of(entry.key, data, size))
                continue
            outcome = next(answers)
            rows.append(row_of(entry.key, outcome, size))
            if self._sample is not None:
                many_wait |= self._sample.offer(entry.key, data, outcome)
        if many_wait and self._sample is not None:
            await asyncio.to_thread(self._sample.draw_waiting)
        return rows

    def _read(self, entries: list[Entry]) -> list[tuple[bytes | ImageError, tuple[int, int] | None]]:
        """Each image's bytes or why there are none, and for classifiers, whose results lack it, the image's size."""
        with self._account.timing("reading"):
            return [self._read_one(entry) for entry in entries]

    def _read_one(self, entry: Entry) -> tuple[bytes | ImageError, tuple[int, int] | None]:
        if isinstance(entry.content, ImageError):
            return entry.content, None
        try:
            data = entry.read()
        except ImageError as error:
            return error, None
        return data, size_of(data) if self._task == "classify" else None
