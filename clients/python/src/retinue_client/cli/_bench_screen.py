"""What a measurement shows, while it runs and at its end."""

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from retinue_client._bench.fleet import Course
from retinue_client._bench.result import LATE_MS, Row, summary_ms
from retinue_client._score.latency import Latencies
from retinue_client.cli._console import named, plain

_SECONDS_BETWEEN_FRAMES = 0.2
# What "now" means for latencies.
_LATELY_SECONDS = 2.0
_CHART_ROWS = 6
_LABEL_WIDTH = 8
_WIDEST_CHART = 120
_NARROW = 80
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_MOST_REASONS = 4


class BenchScreen:
    """The rows that are done, and a chart of the one that runs, in a terminal; nothing where there is none.

    Args:
        console: Of the terminal.
        title: What is measured.
        loads: How many loads there will be.
        enabled: Whether to show anything.
        clock: Seconds of the monotonic clock.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        loads: int,
        *,
        enabled: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._title = title
        self._loads = loads
        self._enabled = enabled
        self._clock = clock
        self._rows: list[Row] = []
        self._drawn_at = -math.inf
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._enabled:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def watch(self, course: Course) -> None:
        """Shows how a load goes, as often as an eye can follow."""
        now = self._clock()
        if self._enabled and now - self._drawn_at >= _SECONDS_BETWEEN_FRAMES:
            self._drawn_at = now
            self._live.update(self.frame(course, now), refresh=True)

    def add(self, row: Row) -> None:
        """Takes a load that is done."""
        self._rows.append(row)

    def frame(self, course: Course, now: float) -> RenderableType:
        """What the terminal shows at a moment."""
        window, width = course.window, min(self._console.width, _WIDEST_CHART)
        warming_up = now < window.counted_from
        begun, until = (
            (window.start, window.counted_from) if warming_up else (window.counted_from, window.end)
        )
        doing = "warming up" if warming_up else "measuring" if now < window.end else "waiting for answers"
        status = Text.assemble(
            (str(course.load), "bold"),
            f"  ({len(self._rows) + 1} of {self._loads})  {doing}",
            (f"  {max(0.0, min(now, until) - begun):.1f} of {until - begun:g} s", "dim"),
        )
        parts: list[RenderableType] = [Text(self._title, "bold", no_wrap=True, overflow="ellipsis")]
        if self._rows:
            parts.append(figures_table(self._rows, self._console.width))
        chart = chart_lines(course, now, width)
        return Group(*parts, status, *chart, _numbers(course, now), _reasons(course))


def chart_lines(course: Course, now: float, width: int) -> list[Text]:
    """Images a second from the first request to the window's end, one line of characters below the other.

    What warms up is dim, and where images had no result the bars are yellow.

    Args:
        course: How the load goes.
        now: The moment; only what is over by then is drawn.
        width: In characters.
    """
    columns = _columns(course, now, width - _LABEL_WIDTH - 1)
    top = _nice(max((rate for rate, _ in columns), default=0.0))
    lines = []
    for row in reversed(range(_CHART_ROWS)):
        label = {_CHART_ROWS - 1: f"{top:,g}", 0: "0"}.get(row, "")
        line = Text(f"{label:>{_LABEL_WIDTH}}", "dim", no_wrap=True)
        line.append("│")
        for rate, style in columns:
            eighths = round(8 * (rate / top * _CHART_ROWS - row)) if top else 0
            # What came is seen, however little it is.
            least = 1 if row == 0 and rate > 0 else 0
            line.append(_EIGHTHS[min(8, max(least, eighths))], style)
        lines.append(line)
    lines[0].append(" images/s" if len(columns) + _LABEL_WIDTH + 10 < width else "", "dim")
    return lines


def figures_table(rows: Iterable[Row], width: int) -> Table:
    """Throughput and latency, a line for each load.

    Args:
        rows: The loads.
        width: In characters; the less there is, the fewer columns.
    """
    rows = list(rows)
    columns: dict[str, Callable[[Row], str]] = {"images/s": lambda row: _number(row.images_per_second)}
    if any(row.goodput != row.images_per_second for row in rows):
        columns["goodput"] = lambda row: _number(row.goodput)
    for share in ("p50", "p99", "max") if width < _NARROW else ("p50", "p90", "p95", "p99", "max"):
        columns[f"{share} ms"] = partial(_latency, share)
    if width < _NARROW and any(row.without_result for row in rows):
        columns["no result"] = lambda row: f"{row.without_result:,}"
    elif width >= _NARROW:
        for fate in ("refused", "failed", "unfinished", "unsent"):
            if any(getattr(row.course.tally.images, fate) for row in rows):
                columns[fate] = partial(_count, fate)
    table = _table("load", list(columns), width)
    for row in rows:
        table.add_row(str(row.course.load), *(text(row) for text in columns.values()))
    return table


def server_table(rows: Iterable[Row], width: int) -> Table:
    """Where the time goes, a line for each load.

    Args:
        rows: The loads.
        width: In characters; where there is little, columns stand closer together.
    """
    table = _table("mean ms", ["batch", "queue", "decode", "inference", "postprocess", "outside"], width)
    for row in rows:
        stages = row.stages_ms
        batch = "–" if row.mean_batch_size is None else f"{row.mean_batch_size:.1f}"
        names = ("queue", "decode", "inference", "postprocess", "outside")
        table.add_row(str(row.course.load), batch, *(_number(stages[name]) for name in names))
    return table


def remarks(rows: Iterable[Row]) -> list[Text]:
    """Why images had no result, and what to know before believing the figures."""
    lines = []
    for row in rows:
        tally = row.course.tally
        load = (f"{row.course.load}: ", "bold")
        for reason, count in tally.reasons.most_common():
            lines.append(
                Text.assemble(
                    load, f"{count:,} × ", (named(reason), "red"), f": {plain(tally.messages[reason])}"
                )
            )
        lines += [Text.assemble(load, (plain(warning), "yellow")) for warning in row.warnings()]
    return lines


def _latency(share: str, row: Row) -> str:
    return _number(row.latency_ms[share])


def _count(fate: str, row: Row) -> str:
    return f"{getattr(row.course.tally.images, fate):,}"


def _columns(course: Course, now: float, width: int) -> list[tuple[float, str]]:
    """Images a second and the style of each column of the chart, as far as the load has come."""
    window, slices = course.window, course.tally.slices
    count = max(1, round((window.end - window.start) / window.slice_seconds))
    done = min(count, window.slice_at(max(now, window.start)))
    columns = []
    for column in range(max(1, width)):
        first = column * count // max(1, width)
        last = max(first + 1, (column + 1) * count // max(1, width))
        if last > done:
            break
        parts = [slices[number] for number in range(first, last) if number in slices]
        rate = sum(part.answered for part in parts) / ((last - first) * window.slice_seconds)
        warms_up = window.start + first * window.slice_seconds < window.counted_from
        failing = any(part.unanswered for part in parts)
        columns.append((rate, "yellow" if failing else "bright_black" if warms_up else "cyan"))
    return columns


def _numbers(course: Course, now: float) -> Text:
    """How it goes at the moment."""
    window, slices = course.window, course.tally.slices
    here = window.slice_at(min(now, window.end))
    back = max(1, round(_LATELY_SECONDS / window.slice_seconds))
    recent = [slices[number] for number in range(here - back, here) if number in slices]
    latencies = Latencies()
    for part in recent:
        latencies.merge(part.latencies)
    seconds = min(back, max(1, here)) * window.slice_seconds
    latency = summary_ms(latencies)
    return Text(
        f"{_number(sum(part.answered for part in recent) / seconds)} images/s  p50 {_number(latency['p50'])} ms  "
        f"p99 {_number(latency['p99'])} ms  {course.in_flight:,} in flight"
    )


def _reasons(course: Course) -> Text:
    """Why images that count had no result so far."""
    tally = course.tally
    counts = [f"{count:,} × {named(reason)}" for reason, count in tally.reasons.most_common(_MOST_REASONS)]
    if tally.requests.unsent:
        counts.append(f"{tally.requests.unsent:,} never sent")
    if (late := summary_ms(tally.lateness)["p99"] or 0.0) > LATE_MS:
        counts.append(f"sent late (p99 {_number(late)} ms)")
    return Text(", ".join(counts) or "no errors", "red" if counts else "dim")


def _table(first: str, others: list[str], width: int) -> Table:
    gap = 1 if width < _NARROW else 2
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _nice(value: float) -> float:
    """The next number of one significant digit or of 1.5, 2.5 of its order, so that an axis ends in a round one."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * unit >= value)
