"""How full a server is: what its threads are busy with, and what its calls hold of what they may."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retinue_server.batching.usage import Usage

# Gauges that front-ends have, too, and that mean something as a sum.
SUMMED_GAUGES = frozenset(
    {
        "retinue_pool_threads",
        "retinue_pool_waiting_images",
        "retinue_calls_in_flight",
        "retinue_calls_in_flight_limit",
        "retinue_bytes_in_flight",
        "retinue_bytes_in_flight_limit",
    }
)


class PoolCollector(Collector):
    """Reads what pools of threads do when it is asked for.

    Args:
        pools: What each does, by its name.
    """

    def __init__(self, pools: Mapping[str, Callable[[], Usage]]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """Yields all of it."""
        labels = ["pool"]
        threads = GaugeMetricFamily(
            "retinue_pool_threads", "Threads that run batches, or decode.", labels=labels
        )
        busy = CounterMetricFamily(
            "retinue_pool_busy_seconds",
            "Time that the threads of the pool were busy, all together.",
            labels=labels,
        )
        waiting = GaugeMetricFamily(
            "retinue_pool_waiting_images", "Images that no thread of the pool has begun.", labels=labels
        )
        batches = CounterMetricFamily(
            "retinue_pool_batches",
            "Batches, by how their run ended: ran, failed or stopped, since nobody waited any more.",
            labels=["pool", "outcome"],
        )
        healthy = GaugeMetricFamily(
            "retinue_pool_healthy", "1 where all threads of the pool live.", labels=labels
        )
        for name, read in self._pools.items():
            usage = read()
            threads.add_metric([name], usage.threads)
            busy.add_metric([name], usage.busy_seconds)
            waiting.add_metric([name], usage.waiting)
            healthy.add_metric([name], float(usage.healthy))
            for end, count in usage.batches.items():
                batches.add_metric([name, end], count)
        yield from (threads, busy, waiting, batches, healthy)


@dataclass(frozen=True, slots=True)
class InFlight:
    """What the calls take that are being answered.

    Attributes:
        calls: How many there are.
        max_calls: How many there may be.
        held_bytes: What they hold of requests and replies.
        max_held_bytes: What they may hold.
    """

    calls: int
    max_calls: int
    held_bytes: int
    max_held_bytes: int


class InFlightCollector(Collector):
    """Reads what calls take when it is asked for.

    Args:
        read: Gives it; None where other processes have the calls.
    """

    def __init__(self, read: Callable[[], InFlight] | None) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yields all of it."""
        families = (
            GaugeMetricFamily("retinue_calls_in_flight", "Calls that are being answered."),
            GaugeMetricFamily("retinue_calls_in_flight_limit", "Further calls are refused."),
            GaugeMetricFamily(
                "retinue_bytes_in_flight",
                "What the calls that are being answered hold of requests and replies.",
            ),
            GaugeMetricFamily("retinue_bytes_in_flight_limit", "What would exceed that is refused."),
        )
        if self._read is not None:
            now = self._read()
            for family, value in zip(
                families, (now.calls, now.max_calls, now.held_bytes, now.max_held_bytes), strict=True
            ):
                family.add_metric([], value)
        yield from families
