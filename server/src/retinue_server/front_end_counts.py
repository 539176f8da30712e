"""What front-ends have counted, together: those that are, and those that have ended."""

import asyncio
from collections.abc import Collection, Iterator

from retinue_server.front_end_process import FrontEndProcess
from retinue_server.metrics import Metrics
from retinue_server.tally import Statistics
from retinue_server.workers.counts import Counts, Key, MergedMetrics, lasting, merged_statistics


class FrontEndCounts:
    """Adds up what the front-ends say that they have counted.

    Args:
        metrics: What this process has counted.
        processes: Those that are, at any time.

    Attributes:
        merged: The metrics of all, as of the last `update`.
    """

    def __init__(self, metrics: Metrics, processes: Collection[FrontEndProcess]) -> None:
        self._metrics = metrics
        self._processes = processes
        self._lost_counts = Counts()
        self._lost_statistics: dict[Key, Statistics] = {}
        self.merged = MergedMetrics(metrics.registry, self._all_counts)

    async def update(self) -> None:
        """Asks those that are."""
        await asyncio.gather(*(process.count() for process in self._processes if process.listening.is_set()))

    def statistics(self) -> dict[Key, Statistics]:
        """What all have counted of each model."""
        return merged_statistics(self._all_statistics())

    def keep(self, gone: FrontEndProcess) -> None:
        """Goes on to count what one had counted that has ended."""
        _add(self._lost_counts, lasting(gone.counts))
        self._lost_statistics = merged_statistics([self._lost_statistics, gone.statistics])

    def forget_model(self, name: str, version: int) -> None:
        """Drops what was counted of a model that is gone."""
        # The second is of those that were compared with another version.
        of_model = [{("model", name), (label, str(version))} for label in ("version", "candidate")]
        for counts in self._all_counts():
            for sample in [one for one in counts if any(labels <= set(one[2]) for labels in of_model)]:
                del counts[sample]
        for statistics in (self._lost_statistics, *(one.statistics for one in self._processes)):
            statistics.pop((name, version), None)

    def _all_statistics(self) -> Iterator[dict[Key, Statistics]]:
        # What runs in this process counts its batches here.
        yield self._metrics.all_statistics()
        yield self._lost_statistics
        for process in self._processes:
            yield process.statistics

    def _all_counts(self) -> Iterator[Counts]:
        yield self._lost_counts
        for process in self._processes:
            yield process.counts


def _add(counts: Counts, more: Counts) -> None:
    for sample, value in more.items():
        counts[sample] = counts.get(sample, 0.0) + value
