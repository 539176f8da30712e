"""What the metrics of several processes say, as if one had counted all."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retinue_server.tally import Statistics, summed

# The metric's name, the line's, and its labels.
Sample = tuple[str, str, tuple[tuple[str, str], ...]]
Counts = dict[Sample, float]
# What a front-end asks for what all processes have counted.
ALL_STATISTICS = "ALL_STATISTICS"
# A model's name and version.
Key = tuple[str, int]

# What only grows. Gauges are the engine's process's alone.
_SUMMED = frozenset({"counter", "histogram"})
_PREFIX = "retinue_"
# All that has Triton's names is counts, whatever its type is said to be.
_TRITON_PREFIX = "nv_"


def read(registry: CollectorRegistry) -> bytes:
    """The counters and histograms of this process, as JSON."""
    samples = [
        [metric.name, sample.name, sorted(sample.labels.items()), sample.value]
        for metric in registry.collect()
        if (metric.type in _SUMMED and metric.name.startswith(_PREFIX))
        or metric.name.startswith(_TRITON_PREFIX)
        for sample in metric.samples
    ]
    return json.dumps(samples).encode()


def parse(body: bytes) -> Counts:
    """What `read` gave.

    Raises:
        ValueError: It gave something else.
    """
    return {
        (metric, name, tuple((key, text) for key, text in labels)): float(value)
        for metric, name, labels, value in json.loads(body)
    }


def pack_statistics(statistics: Mapping[Key, Statistics]) -> bytes:
    """Statistics of models, by name and version, as JSON."""
    return json.dumps(
        [
            [*key, one.success, one.fail, one.images, one.last_at, one.stages, list(one.batches.items())]
            for key, one in statistics.items()
        ]
    ).encode()


def unpack_statistics(body: bytes) -> dict[Key, Statistics]:
    """What `pack_statistics` was given.

    Raises:
        ValueError: It was given something else.
    """
    return {
        (name, version): Statistics(
            tuple(success),
            tuple(fail),
            images,
            last_at,
            {stage: tuple(counted) for stage, counted in stages.items()},
            {size: tuple(counted) for size, counted in batches},
        )
        for name, version, success, fail, images, last_at, stages, batches in json.loads(body)
    }


def merged_statistics(parts: Iterable[Mapping[Key, Statistics]]) -> dict[Key, Statistics]:
    """What all of several processes have counted of each model that any knows."""
    of_model: defaultdict[Key, list[Statistics]] = defaultdict(list)
    for part in parts:
        for key, one in part.items():
            of_model[key].append(one)
    return {key: summed(found) for key, found in of_model.items()}


class MergedMetrics(Collector):
    """The metrics of this process, with the counts of others added.

    Args:
        registry: Of this process.
        others: Gives what the others have counted.
    """

    def __init__(self, registry: CollectorRegistry, others: Callable[[], Iterable[Counts]]) -> None:
        self._registry = registry
        self._others = others

    def collect(self) -> Iterator[Metric]:
        """Yields all of them; what only others have counted, too, where this process knows the metric."""
        more: defaultdict[str, Counts] = defaultdict(dict)
        for counts in self._others():
            for sample, value in counts.items():
                of_metric = more[sample[0]]
                of_metric[sample] = of_metric.get(sample, 0.0) + value
        for metric in self._registry.collect():
            yield _with(metric, more[metric.name]) if metric.name in more else metric


def _with(metric: Metric, more: Counts) -> Metric:
    """A metric with more counts. What was not counted before comes behind, in its order: a histogram stays together."""
    merged = Metric(metric.name, metric.documentation, metric.type, metric.unit)
    left = dict(more)
    for sample in metric.samples:
        key = metric.name, sample.name, tuple(sorted(sample.labels.items()))
        merged.add_sample(sample.name, sample.labels, sample.value + left.pop(key, 0.0))
    for (_, name, labels), value in left.items():
        merged.add_sample(name, dict(labels), value)
    return merged
