"""A scoring job from its first file to its last row."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from retinue_client._errors import ImageError
from retinue_client._images import read_file
from retinue_client._models import Task
from retinue_client._score.account import Account
from retinue_client._score.files import Entry, in_requests, printable
from retinue_client._score.header import size_of
from retinue_client._score.rows import Row, row_of
from retinue_client._score.scorer import Scorer
from retinue_client._score.table import Table

_BYTES_PER_REQUEST = 4 << 20
# Requests that are read from disk ahead of those under way, so that the server never waits for the disk.
_REQUESTS_AHEAD = 4
# Files in memory at once, beyond the largest.
_MOST_BYTES = 128 << 20


class Job:
    """Scores files in order, many at once, and hands over their rows in order.

    Args:
        scorer: Answers them.
        folder: What the files' paths are relative to.
        task: The question.
        account: Takes down what is done.
        on_rows: Called with the rows of each request, in order, from the event loop.
    """

    def __init__(
        self,
        scorer: Scorer,
        folder: Path,
        task: Task,
        account: Account,
        on_rows: Callable[[list[Row]], None],
    ) -> None:
        self._scorer = scorer
        self._folder = folder
        self._task: Task = task
        self._account = account
        self._on_rows = on_rows

    async def run(self, entries: Iterator[Entry], table: Table) -> None:
        """Scores every entry and appends its row to the table.

        Raises:
            RetinueError: The server refuses the question as such, or stopped answering.
            OSError: The table cannot be written.
        """
        requests = in_requests(entries, lambda: self._scorer.images_per_call, _BYTES_PER_REQUEST)
        window: deque[tuple[int, asyncio.Task[list[Row]]]] = deque()
        window_bytes = 0
        try:
            more = True
            while more or window:
                room = (
                    len(window) < self._scorer.calls_at_once + _REQUESTS_AHEAD and window_bytes < _MOST_BYTES
                )
                if window and (window[0][1].done() or not (more and room)):
                    size_bytes, task = window.popleft()
                    window_bytes -= size_bytes
                    await self._take(await task, table)
                elif (run := await asyncio.to_thread(next, requests, None)) is None:
                    more = False
                else:
                    size_bytes = sum(entry.size_bytes for entry in run)
                    window.append((size_bytes, asyncio.create_task(self._score(run))))
                    window_bytes += size_bytes
        finally:
            for _, task in window:
                task.cancel()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)

    async def _take(self, rows: list[Row], table: Table) -> None:
        self._account.add_rows(rows)
        if table.append(rows):
            await asyncio.to_thread(self._flush, table)
        self._on_rows(rows)

    def _flush(self, table: Table) -> None:
        with self._account.timing("writing"):
            table.flush()

    async def _score(self, entries: list[Entry]) -> list[Row]:
        """The rows of one request's files."""
        files = await asyncio.to_thread(self._read, entries)
        readable = [data for data, _ in files if isinstance(data, bytes)]
        answers = iter(await self._scorer.answers(readable))
        rows = []
        for entry, (data, size) in zip(entries, files, strict=True):
            outcome = data if isinstance(data, ImageError) else next(answers)
            rows.append(row_of(printable(entry.path), outcome, size))
        return rows

    def _read(self, entries: list[Entry]) -> list[tuple[bytes | ImageError, tuple[int, int] | None]]:
        """Each file's bytes or why there are none, and for classifiers, whose results lack it, the image's size."""
        with self._account.timing("reading"):
            return [self._read_one(entry) for entry in entries]

    def _read_one(self, entry: Entry) -> tuple[bytes | ImageError, tuple[int, int] | None]:
        if entry.error is not None:
            return entry.error, None
        try:
            data = read_file(self._folder / entry.path)
        except ImageError as error:
            return error, None
        return data, size_of(data) if self._task == "classify" else None
