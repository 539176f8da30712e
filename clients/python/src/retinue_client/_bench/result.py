"""What a measurement says: the figures of each load, and what to know before believing them."""

from dataclasses import dataclass
from typing import Any

from retinue_client._bench.fleet import Course
from retinue_client._bench.tally import Counts
from retinue_client._score.latency import Latencies

PERCENTILES = (50, 90, 95, 99)
STAGES = ("queue", "decode", "inference", "postprocess", "total")
_BUSY_SHARE = 0.9
# A request that is sent so much later than it is due is worth a word.
LATE_MS = 10.0
# Of fewer requests the slowest one is the 99th percentile.
_LEAST_REQUESTS = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One load and its figures.

    Attributes:
        course: How it went.
        drain_seconds: How long it waited for answers at the end.
    """

    course: Course
    drain_seconds: float

    @property
    def without_result(self) -> int:
        """How many images should have a result and have none."""
        images = self.course.tally.images
        return images.sent + images.unsent - images.answered

    @property
    def images_per_second(self) -> float | None:
        """Images whose results came while requests counted; None where none ever counted."""
        return self._per_second(self.course.tally.in_window)

    @property
    def goodput(self) -> float | None:
        """Of these, those that came in time."""
        return self._per_second(self.course.tally.on_time)

    @property
    def latency_ms(self) -> dict[str, float | None]:
        """Mean, percentiles and longest."""
        return summary_ms(self.course.tally.latencies)

    @property
    def mean_batch_size(self) -> float | None:
        """How many images an average run had."""
        server = self.course.tally.server
        return server.images / server.batches if server.batches else None

    @property
    def stages_ms(self) -> dict[str, float | None]:
        """Where the time of an average image went in the server, and of its request outside of it."""
        tally = self.course.tally
        images = tally.server.images
        stages: dict[str, float | None] = {
            name: getattr(tally.server, f"{name}_us") / images / 1000 if images else None for name in STAGES
        }
        total, answered = stages["total"], tally.requests.answered
        # An estimate where some images of answered requests have no result: those do not count in the server's mean.
        stages["outside"] = (
            None if total is None else max(0.0, 1000 * tally.served_seconds / answered - total)
        )
        return stages

    @property
    def cpu_share(self) -> float | None:
        """Of the busiest process that sent, the share of a core that it took."""
        seconds = self.course.counted_seconds
        return max(self.course.cpu_seconds) / seconds if seconds else None

    def warnings(self) -> list[str]:
        """What to know before believing the figures, in sentences."""
        tally, said = self.course.tally, []
        if self.cpu_share is not None and self.cpu_share > _BUSY_SHARE:
            said.append(
                f"The client itself was at its limit, with {self.cpu_share:.0%} of a core: the server may do more than "
                "this. Use more --processes, where the machine has cores for them, or more --images-per-request."
            )
        late_ms = summary_ms(tally.lateness)["p99"]
        if late_ms is not None and late_ms > LATE_MS:
            why = (
                "as many as --max-in-flight allows were under way"
                if tally.was_full
                else "the client was too slow, or its machine too busy"
            )
            said.append(f"Requests were sent late (p99 {late_ms:,.0f} ms): {why}. The latencies count it.")
        if tally.requests.unsent:
            said.append(f"{tally.requests.unsent:,} requests that were due were never sent.")
        if unfinished := tally.requests.unfinished:
            cut_short = self.course.interrupted or self.course.lost is not None
            until = "when this load was cut short" if cut_short else f"{self.drain_seconds:g} s after its end"
            said.append(
                f"{unfinished:,} requests had no answer {until}; the latencies are those of the others."
            )
        if 0 < tally.latencies.count < _LEAST_REQUESTS:
            said.append(
                f"Only {tally.latencies.count:,} requests were answered, so p99 is the slowest of them: more "
                "--seconds say more."
            )
        if self.course.lost is not None:
            said.append("The server went away, and this load ended there.")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON knows."""
        tally, seconds = self.course.tally, self.course.counted_seconds
        late = summary_ms(tally.lateness)
        cpu_seconds = sum(self.course.cpu_seconds)
        return {
            **self.course.load.to_dict(),
            "seconds": round(seconds, 3),
            "requests": _counts(tally.requests),
            "images": _counts(tally.images),
            "images_per_second": _rounded(self.images_per_second),
            "goodput_images_per_second": _rounded(self.goodput),
            "latency_ms": {name: _rounded(value) for name, value in self.latency_ms.items()},
            "server_ms": {name: _rounded(self.stages_ms[name]) for name in STAGES},
            "outside_server_ms": _rounded(self.stages_ms["outside"]),
            "mean_batch_size": _rounded(self.mean_batch_size),
            "errors": {
                reason: {"images": count, "message": tally.messages[reason]}
                for reason, count in tally.reasons.most_common()
            },
            "client": {
                "cpu_share": _rounded(self.cpu_share),
                "cpu_ms_per_request": _rounded(1000 * cpu_seconds / max(1, tally.requests.sent)),
                "sent_late_ms": {"p99": _rounded(late["p99"]), "max": _rounded(late["max"])},
            },
            "interrupted": self.course.interrupted,
            "lost": self.course.lost,
            "warnings": self.warnings(),
            "timeline": self._timeline(),
        }

    def _per_second(self, images: int) -> float | None:
        seconds = self.course.counted_seconds
        return images / seconds if seconds else None

    def _timeline(self) -> list[dict[str, Any]]:
        window, tally = self.course.window, self.course.tally
        timeline = []
        for number in range(max(tally.slices, default=-1) + 1):
            begins = window.start + number * window.slice_seconds
            seconds = max(1e-3, min(window.slice_seconds, self.course.ended_at - begins))
            part, latency = tally.slice(number), summary_ms(tally.slice(number).latencies)
            timeline.append(
                {
                    "at_seconds": round(begins - window.counted_from, 3),
                    "images_per_second": _rounded(part.answered / seconds),
                    "unanswered_images_per_second": _rounded(part.unanswered / seconds),
                    "p50_ms": _rounded(latency["p50"]),
                    "p99_ms": _rounded(latency["p99"]),
                }
            )
        return timeline


def summary_ms(latencies: Latencies) -> dict[str, float | None]:
    """Mean, percentiles and longest in milliseconds; all None where there are none."""
    if not latencies.count:
        return dict.fromkeys(("mean", *(f"p{share}" for share in PERCENTILES), "max"))
    seconds: dict[str, float | None] = {"mean": latencies.mean()}
    seconds |= {f"p{share}": latencies.percentile(share / 100) for share in PERCENTILES}
    seconds["max"] = latencies.longest_seconds
    return {name: None if value is None else 1000 * value for name, value in seconds.items()}


def _counts(counts: Counts) -> dict[str, int]:
    return {
        "sent": counts.sent,
        "answered": counts.answered,
        "refused": counts.refused,
        "failed": counts.failed,
        "unfinished": counts.unfinished,
        "unsent": counts.unsent,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
