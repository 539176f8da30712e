"""What a scoring job shows while it runs."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from retinue_client._errors import ImageError
from retinue_client._score.rows import Row
from retinue_client.cli._show import failure_line

# More failures than this are only counted on the screen; the file has them all.
_MOST_FAILURES_SHOWN = 100
# Without a terminal: often enough to see that a job lives, seldom enough for a log.
_SECONDS_BETWEEN_LINES = 30.0


class _RateColumn(ProgressColumn):
    """Images a second, lately."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} images/s" if speed else "– images/s", style="progress.data.speed")


class ScoreProgress:
    """A bar with count, rate and time left, and above it a line for each file that failed.

    Without a terminal there is a plain line now and then in place of the bar; the failures are printed all the same.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._line_printed = clock()
        self._done_at_line = 0
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TextColumn("{task.fields[failed]:,} failed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("scoring", total=None, failed=0)
        self._failed = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def count_done(self, count: "asyncio.Future[int]") -> None:
        """Takes how many files there are, once that is known."""
        if not count.cancelled() and count.exception() is None:
            self._progress.update(self._task, total=count.result())

    def add(self, rows: list[Row]) -> None:
        """Takes the rows of some files that are done."""
        for row in rows:
            if row.get("error_reason") is not None:
                self._failed += 1
                self._show_failure(row)
        self._progress.update(self._task, advance=len(rows), failed=self._failed)
        if not self._console.is_terminal:
            self._print_line_when_due()

    def _print_line_when_due(self) -> None:
        now = self._clock()
        seconds = now - self._line_printed
        if seconds < _SECONDS_BETWEEN_LINES:
            return
        task = self._progress.tasks[0]
        done = int(task.completed)
        count = f"{done:,}" if task.total is None else f"{done:,} of {int(task.total):,}"
        rate = (done - self._done_at_line) / seconds
        self._console.print(f"{count} images, {rate:,.1f} images/s, {self._failed:,} failed")
        self._line_printed, self._done_at_line = now, done

    def _show_failure(self, row: Row) -> None:
        if self._failed <= _MOST_FAILURES_SHOWN:
            error = ImageError(row["error_message"], reason=row["error_reason"])
            self._console.print(failure_line(row["path"], error), soft_wrap=True)
        elif self._failed == _MOST_FAILURES_SHOWN + 1:
            self._console.print("More failures are counted here and listed in the results.")
