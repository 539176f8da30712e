"""What the metrics of several processes say, as if one had counted all."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from retinue_server.saturation import SUMMED_GAUGES
from retinue_server.tally import Statistics, summed

# The metric's name, the line's, and its labels.
Sample = tuple[str, str, tuple[tuple[str, str], ...]]
# What a front-end asks for what all processes have counted.
ALL_STATISTICS = "ALL_STATISTICS"
# A model's name and version.
Key = tuple[str, int]


class Counts(dict[Sample, float]):
    """What a process has counted.

    Attributes:
        exemplars: Traces that have more about some of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exemplars: dict[Sample, Exemplar] = {}


# What only grows. Most gauges are the engine's process's alone.
_SUMMED = frozenset({"counter", "histogram"})
_PREFIX = "retinue_"
# All that has Triton's names is counts, whatever its type is said to be.
_TRITON_PREFIX = "nv_"


def read(registry: CollectorRegistry) -> bytes:
    """The counters and histograms of this process, and the gauges that are summed, as JSON."""
    samples = [
        [
            *(metric.name, sample.name, sorted(sample.labels.items()), sample.value),
            *([sample.exemplar] if sample.exemplar else []),
        ]
        for metric in registry.collect()
        if (metric.type in _SUMMED and metric.name.startswith(_PREFIX))
        or metric.name in SUMMED_GAUGES
        or metric.name.startswith(_TRITON_PREFIX)
        for sample in metric.samples
    ]
    return json.dumps(samples).encode()


def parse(body: bytes) -> Counts:
    """What `read` gave.

    Raises:
        ValueError: It gave something else.
    """
    counts = Counts()
    for metric, name, labels, value, *exemplars in json.loads(body):
        sample = metric, name, tuple((key, text) for key, text in labels)
        counts[sample] = float(value)
        for exemplar in exemplars:
            counts.exemplars[sample] = Exemplar(*exemplar)
    return counts


def lasting(counts: Counts) -> Counts:
    """What of a process's counts still holds when it is gone."""
    kept = Counts()
    kept.update((sample, value) for sample, value in counts.items() if sample[0] not in SUMMED_GAUGES)
    kept.exemplars = counts.exemplars
    return kept


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
        more: defaultdict[str, Counts] = defaultdict(Counts)
        for counts in self._others():
            for sample, value in counts.items():
                of_metric = more[sample[0]]
                of_metric[sample] = of_metric.get(sample, 0.0) + value
            for sample, exemplar in counts.exemplars.items():
                more[sample[0]].exemplars[sample] = exemplar
        for metric in self._registry.collect():
            yield _with(metric, more[metric.name]) if metric.name in more else metric


def _with(metric: Metric, more: Counts) -> Metric:
    """A metric with more counts. What was not counted before comes behind, in its order: a histogram stays together."""
    merged = Metric(metric.name, metric.documentation, metric.type, metric.unit)
    left: dict[Sample, float] = dict(more)
    for sample in metric.samples:
        key = metric.name, sample.name, tuple(sorted(sample.labels.items()))
        exemplar = more.exemplars.get(key, sample.exemplar)
        merged.add_sample(sample.name, sample.labels, sample.value + left.pop(key, 0.0), exemplar=exemplar)
    for key, value in left.items():
        _, name, labels = key
        merged.add_sample(name, dict(labels), value, exemplar=more.exemplars.get(key))
    return merged
