"""What a scoring job shows while it runs: a bar, lines, JSON or nothing."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TextIO

from retinue_client._errors import ImageError
from retinue_client._score.account import Account
from retinue_client._score.rows import Row
from retinue_client._score.summary import Summary
from retinue_client._urls import without_secrets
from retinue_client.cli._console import console_for, named, plain
from retinue_client.cli._progress_bar import Moment, ProgressBar, duration
from retinue_client.cli._show import failure_line

# More failures than this are only counted on the screen; the file has them all.
_MOST_FAILURES_SHOWN = 100
# Without a terminal: often enough to see that a job lives, seldom enough for a log.
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_OBJECTS = 1.0
_SECONDS_BETWEEN_BEATS = 0.25
# What the rate is of, so that it neither jumps nor lags.
_RATE_SECONDS = 10.0


class Show(StrEnum):
    """How a job shows that it lives."""

    SCREEN = "screen"
    JSON = "json"
    NOTHING = "nothing"


class ScoreProgress:
    """Shows how far a job is, and the first failures as they come.

    On a terminal it is a bar with count, rate, time left, errors and latencies; elsewhere a plain line every half
    minute. As JSON it is an object on a line of its own every second, whose "event" is "progress", "failure" or, at the
    end, "summary"; the other fields are those of `Moment`, of a row, and of `Summary`'s document.

    Args:
        account: What is done; earlier runs' rows included, which no rate counts.
        show: Which of these.
        stream: Where to.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        account: Account,
        show: Show,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = account
        self._show = show
        self._stream = stream
        self._clock = clock
        self._console = console_for(stream)
        self._began = self._shown = clock()
        self._marks = deque([(self._began, account.images)])
        self._images_shown = account.images
        self._total: int | None = None
        self._failures = 0
        self._bar: ProgressBar | None = None
        if show is Show.SCREEN and self._console.is_terminal:
            self._bar = ProgressBar(self._console, self.moment)
        self._beats: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._beats = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._beats is not None:
            self._beats.cancel()
            with suppress(asyncio.CancelledError):
                await self._beats
        if self._bar is not None:
            self._bar.stop()

    def set_total(self, images: int | None) -> None:
        """Takes how many images there are, once that is known; from any thread."""
        self._total = images

    def add(self, rows: Iterable[Row]) -> None:
        """Takes rows that are done and in the account: those that failed are shown."""
        for row in rows:
            if row.get("error_reason") is not None and self._show is not Show.NOTHING:
                self._failures += 1
                self._show_failure(row)

    def tick(self) -> None:
        """Says how far the job is, where that is due."""
        now = self._clock()
        self._marks.append((now, self._account.images))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _RATE_SECONDS:
            self._marks.popleft()
        if self._show is Show.JSON:
            if now - self._shown >= _SECONDS_BETWEEN_OBJECTS:
                self._shown = now
                self._write({"event": "progress", **self.moment().to_dict()})
        elif self._bar is not None:
            self._bar.update()
        elif self._show is Show.SCREEN and now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._print_line(now)

    def end(self, summary: dict[str, Any]) -> None:
        """Says how it went, as JSON where that is asked for."""
        if self._show is Show.JSON:
            self._write({"event": "summary", **summary})

    def moment(self) -> Moment:
        """How far the job is now."""
        now, images = self._clock(), self._account.images
        since, images_then = self._marks[0]
        rate = (images - images_then) / (now - since) if images > images_then and now > since else None
        left = None if self._total is None or rate is None else max(0, self._total - images) / rate
        return Moment(
            images=images,
            earlier_images=self._account.earlier_images,
            failed=self._account.failed,
            total=self._total,
            seconds=now - self._began,
            images_per_second=rate,
            seconds_left=left,
            p50_ms=self._account.percentile_ms(0.5),
            p99_ms=self._account.percentile_ms(0.99),
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_BEATS)
            self.tick()

    def _print_line(self, now: float) -> None:
        moment = self.moment()
        of = "" if moment.total is None else f" of {moment.total:,}"
        rate = (moment.images - self._images_shown) / (now - self._shown)
        text = f"{moment.images:,}{of} images, {rate:,.1f} images/s"
        if moment.seconds_left is not None:
            text += f", {duration(moment.seconds_left)} left"
        text += f", {moment.failed:,} failed"
        if moment.p50_ms is not None:
            text += f", p50 {moment.p50_ms:.0f} ms, p99 {moment.p99_ms:.0f} ms"
        self._console.print(text, soft_wrap=True)
        self._shown, self._images_shown = now, moment.images

    def _show_failure(self, row: Row) -> None:
        if self._failures > _MOST_FAILURES_SHOWN + 1:
            return
        path, message = without_secrets(row["path"]), without_secrets(row["error_message"])
        if self._show is Show.JSON:
            if self._failures <= _MOST_FAILURES_SHOWN:
                reason = named(row["error_reason"])
                self._write({"event": "failure", "path": path, "reason": reason, "message": plain(message)})
        elif self._failures <= _MOST_FAILURES_SHOWN:
            error = ImageError(message, reason=row["error_reason"])
            self._console.print(failure_line(path, error), soft_wrap=True)
        else:
            self._console.print("More failures are counted here and listed in the results.")

    def _write(self, values: dict[str, Any]) -> None:
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()


def ending(summary: Summary) -> str:
    """How a job went, in a sentence for people."""
    text = f"scored {summary.scored:,} of {summary.images:,} images in {summary.seconds:.1f} s"
    text += f" ({summary.images / max(summary.seconds, 1e-9):.1f} images/s)"
    if summary.failed:
        reasons = ", ".join(f"{count:,} {named(reason)}" for reason, count in summary.reasons.most_common())
        text += f", {summary.failed:,} failed ({reasons})"
    p50, p99 = summary.latencies.percentile(0.5), summary.latencies.percentile(0.99)
    if p50 is not None and p99 is not None:
        text += f"; latency p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
    stage = summary.slowest_stage()
    if stage is not None:
        text += f"; most time went into {stage}, {summary.mean_ms(stage):.2f} ms an image"
    return text
