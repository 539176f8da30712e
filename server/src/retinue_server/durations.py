"""How long the stages of an image's way take, counted for many images at once."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString


class Durations:
    """One histogram. That of prometheus_client takes a lock for each value, which costs ten times as much.

    It is filled by one thread, and may be read by others meanwhile.

    Args:
        bounds_seconds: The upper ends of its buckets, ascending, but for the last, which has none.
    """

    def __init__(self, bounds_seconds: Sequence[float]) -> None:
        self._bounds = bounds_seconds
        self._counts = [0] * (len(bounds_seconds) + 1)
        self._exemplars: list[Exemplar | None] = [None] * len(self._counts)
        self._sum = 0.0

    def add(self, seconds: Iterable[float], trace_id: str = "") -> None:
        """Counts durations.

        Args:
            seconds: Them.
            trace_id: Of the trace that has more about them, where there is one.
        """
        if trace_id:
            seconds = list(seconds)
            self._keep_longest(seconds, trace_id)
        bounds, counts = self._bounds, self._counts
        total = 0.0
        for value in seconds:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._sum += total

    def total(self) -> tuple[int, float]:
        """How many there were, and their sum in seconds."""
        return sum(self._counts), self._sum

    def read(self) -> tuple[list[tuple[str, float] | tuple[str, float, Exemplar]], float]:
        """The buckets, each with its upper end, all that is in it and those before, and an example; and the sum."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = zip(names, accumulate(self._counts), self._exemplars, strict=True)
        return [
            (name, count) if example is None else (name, count, example) for name, count, example in buckets
        ], self._sum

    def _keep_longest(self, seconds: Sequence[float], trace_id: str) -> None:
        if seconds:
            longest = max(seconds)
            example = Exemplar({"trace_id": trace_id}, longest, time.time())
            self._exemplars[bisect_left(self._bounds, longest)] = example


class StageDurations(Collector):
    """A histogram for each stage of each model.

    Args:
        name: Of the metric.
        documentation: Of the metric.
        bounds_seconds: As for `Durations`.
    """

    _LABELS = ("stage", "model", "version")

    def __init__(self, name: str, documentation: str, bounds_seconds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds_seconds
        self._histograms: dict[tuple[str, str, str], Durations] = {}

    def of(self, stage: str, model: str, version: int) -> Durations:
        """The histogram of those; it is empty at first."""
        return self._histograms.setdefault((stage, model, str(version)), Durations(self._bounds))

    def forget(self, model: str, version: int) -> None:
        """Drops the histograms of a model."""
        for labels in [labels for labels in self._histograms if labels[1:] == (model, str(version))]:
            del self._histograms[labels]

    def collect(self) -> Iterator[Metric]:
        """Yields all of them."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._LABELS)
        for labels, histogram in list(self._histograms.items()):
            buckets, total = histogram.read()
            family.add_metric(labels, buckets, total)
        yield family
