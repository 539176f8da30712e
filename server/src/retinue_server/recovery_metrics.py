"""What /metrics says of models that fail: read when Prometheus asks."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retinue_server.batching.batcher import Batcher
from retinue_server.catalog import Catalog

_LABELS = ("model", "version")


class RecoveryCollector(Collector):
    """Reads the health of models.

    Args:
        catalog: The models that are served whenever it is asked.
    """

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Metric]:
        """Yields what there is to say."""
        ready = GaugeMetricFamily(
            "retinue_model_ready",
            "1 where the model takes requests, 0 while it is restored.",
            labels=_LABELS,
        )
        hung = CounterMetricFamily(
            "retinue_hung_batches",
            "Batches and probes that were stopped since they ran for too long.",
            labels=_LABELS,
        )
        lost = GaugeMetricFamily(
            "retinue_lost_threads",
            "Threads in batches that do not stop; others have taken their places.",
            labels=_LABELS,
        )
        lost_bytes = GaugeMetricFamily(
            "retinue_lost_memory_bytes",
            "What sessions take that were replaced and that such a thread, or a batch, still is in.",
            labels=_LABELS,
        )
        rebuilds = CounterMetricFamily(
            "retinue_model_rebuilds",
            "Attempts to open the model anew, by outcome: done or failed.",
            labels=(*_LABELS, "outcome"),
        )
        for model in self._catalog().models:
            key = [model.name, str(model.version)]
            ready.add_metric(key, float(model.ready))
            queue = model.batcher
            if not isinstance(queue, Batcher) or queue.recovery is None:
                continue
            recovery = queue.recovery
            hung.add_metric(key, recovery.hung)
            lost.add_metric(key, recovery.lost_threads)
            lost_bytes.add_metric(key, queue.former_backends * model.memory.total_bytes)
            rebuilds.add_metric([*key, "done"], recovery.rebuilds)
            rebuilds.add_metric([*key, "failed"], recovery.failed_rebuilds)
        yield from (ready, hung, lost, lost_bytes, rebuilds)
