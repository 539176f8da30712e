"""What became of spans, as a metric."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class SpanCounts(Collector):
    """Reads how many spans there were when it is asked for.

    Args:
        counts: Gives them by outcome.
    """

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yields the counter."""
        spans = CounterMetricFamily(
            "retinue_trace_spans",
            "Spans, by outcome: sent, failed (the collector did not take them) or dropped (too many waited).",
            labels=["outcome"],
        )
        for outcome, count in self._counts().items():
            spans.add_metric([outcome], count)
        yield spans
