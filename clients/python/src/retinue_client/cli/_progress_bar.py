"""How far a scoring job is, and the bar that shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

# Characters of a terminal from which there is room for everything, of the bar there, and of all texts elsewhere.
_WIDE = 130
_BAR_WIDTH = 30
_WIDTH_OF_TEXTS = 66


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a job is.

    Attributes:
        images: Rows of all runs so far.
        earlier_images: Those of them that were there when this run began.
        failed: Those of them that have an error.
        total: How many there will be, or None while that is not known.
        seconds: Since this run began.
        images_per_second: Of the last ten seconds; None at first.
        seconds_left: At this rate; None where rate or total are not known.
        p50_ms: The latency that half of the images do not exceed; None where none was answered.
        p99_ms: That 99 of 100 do not.
    """

    images: int
    earlier_images: int
    failed: int
    total: int | None
    seconds: float
    images_per_second: float | None
    seconds_left: float | None
    p50_ms: float | None
    p99_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {
            "images": self.images,
            "earlier_images": self.earlier_images,
            "failed": self.failed,
            "total": self.total,
            "seconds": round(self.seconds, 3),
            "images_per_second": _rounded(self.images_per_second),
            "seconds_left": _rounded(self.seconds_left),
            "p50_ms": _rounded(self.p50_ms),
            "p99_ms": _rounded(self.p99_ms),
        }


class ProgressBar:
    """The bar of a terminal; a narrow one has no room for latencies and the time so far."""

    def __init__(self, console: Console, moment: Callable[[], Moment]) -> None:
        self._moment = moment
        is_wide = console.width >= _WIDE
        texts = [("{task.fields[count]}", ""), ("{task.fields[rate]}", "progress.data.speed")]
        texts.append(("{task.fields[failed]:,} failed", ""))
        if is_wide:
            texts.append(("{task.fields[latency]}", "dim"))
        texts.append(("left {task.fields[left]}", "progress.remaining"))
        if is_wide:
            texts.append(("of {task.fields[whole]}", "dim"))
        self._progress = Progress(
            BarColumn(bar_width=_BAR_WIDTH if is_wide else max(4, console.width - _WIDTH_OF_TEXTS)),
            *(TextColumn(text, style=style, table_column=Column(no_wrap=True)) for text, style in texts),
            console=console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("scoring", **self._fields(moment()))

    def start(self) -> None:
        """Puts it on the screen."""
        self._progress.start()

    def update(self) -> None:
        """Shows how far the job is now."""
        self._progress.update(self._task, **self._fields(self._moment()))

    def stop(self) -> None:
        """Leaves it on the screen as it is."""
        self.update()
        self._progress.stop()

    @staticmethod
    def _fields(moment: Moment) -> dict[str, Any]:
        rate, left = moment.images_per_second, moment.seconds_left
        total = "?" if moment.total is None else f"{moment.total:,}"
        return {
            "completed": moment.images,
            "total": moment.total,
            "count": f"{moment.images:,}/{total}",
            "failed": moment.failed,
            "rate": "– images/s" if rate is None else f"{rate:,.1f} images/s",
            "latency": "" if moment.p50_ms is None else f"p50 {moment.p50_ms:.0f} p99 {moment.p99_ms:.0f} ms",
            "left": "–" if left is None else duration(left),
            "whole": "–" if left is None else duration(moment.seconds + left),
        }


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
