"""A scoring job from its first file to its last row."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from retinue_client._errors import ImageError
from retinue_client._images import read_file, upright_size
from retinue_client._models import Task
from retinue_client._score.files import Entry, in_requests, printable
from retinue_client._score.latency import Latencies
from retinue_client._score.rows import Row, row_of
from retinue_client._score.scorer import Scorer
from retinue_client._score.table import Table

_BYTES_PER_REQUEST = 4 << 20
# Requests that are read from disk ahead of those under way, so that the server never waits for the disk.
_REQUESTS_AHEAD = 4
# Files in memory at once, beyond the largest.
_MOST_BYTES = 128 << 20


@dataclass(slots=True)
class Summary:
    """How a job went.

    Attributes:
        scored: Files with a result.
        failed: Files with an error.
        reasons: How often each reason of an error occurred.
        versions: How many files each version of the model has answered.
        seconds: From the first file to the last.
        latencies: From asking until an answer, once for each image that got one.
    """

    scored: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)


class Job:
    """Scores files in order, many at once, and hands over their rows in order.

    Args:
        scorer: Answers them.
        folder: What the files' paths are relative to.
        task: The question.
        on_rows: Called with the rows of each request, in order, from the event loop.
    """

    def __init__(
        self,
        scorer: Scorer,
        folder: Path,
        task: Task,
        on_rows: Callable[[list[Row]], None],
    ) -> None:
        self._scorer = scorer
        self._folder = folder
        self._task: Task = task
        self._on_rows = on_rows
        self.summary = Summary(latencies=scorer.latencies)

    async def run(self, entries: Iterator[Entry], table: Table) -> Summary:
        """Scores every entry and appends its row to the table.

        Raises:
            RetinueError: The server refuses the question as such, or stopped answering.
            OSError: The table cannot be written.
        """
        started = time.monotonic()
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
            self.summary.seconds = time.monotonic() - started
        return self.summary

    async def _take(self, rows: list[Row], table: Table) -> None:
        for row in rows:
            reason = row.get("error_reason")
            if reason is None:
                self.summary.scored += 1
                self.summary.versions[row["version"]] += 1
            else:
                self.summary.failed += 1
                self.summary.reasons[reason] += 1
        if table.append(rows):
            await asyncio.to_thread(table.flush)
        self._on_rows(rows)

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
        files: list[tuple[bytes | ImageError, tuple[int, int] | None]] = []
        for entry in entries:
            if entry.error is not None:
                files.append((entry.error, None))
                continue
            try:
                data = read_file(self._folder / entry.path)
            except ImageError as error:
                files.append((error, None))
            else:
                files.append((data, upright_size(data) if self._task == "classify" else None))
        return files
