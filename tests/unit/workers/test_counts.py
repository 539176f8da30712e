from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition

from retinue_server.workers import counts
from retinue_server.workers.counts import MergedMetrics


class Process:
    """What one process counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("retinue_calls", "Calls.", ("code",), registry=self.registry)
        self.seconds = Histogram(
            "retinue_seconds", "Seconds.", ("code",), buckets=(1, 2), registry=self.registry
        )
        self.ready = Gauge("retinue_ready", "Ready.", registry=self.registry)
        self.other = Counter("process_seconds", "Of this process alone.", registry=self.registry)


def page(*processes: Process) -> list[str]:
    first, *others = processes
    merged = MergedMetrics(
        first.registry, lambda: [counts.parse(counts.read(one.registry)) for one in others]
    )
    return generate_latest(merged).decode().splitlines()


def test_counts_are_summed_and_gauges_are_not() -> None:
    one, two, three = Process(), Process(), Process()
    for process, times in ((one, 1), (two, 10), (three, 100)):
        process.calls.labels("OK").inc(times)
        process.ready.set(times)
        process.other.inc(times)
        process.seconds.labels("OK").observe(1.5)
    lines = page(one, two, three)
    assert 'retinue_calls_total{code="OK"} 111.0' in lines
    assert "retinue_ready 1.0" in lines
    assert "process_seconds_total 1.0" in lines
    assert 'retinue_seconds_bucket{code="OK",le="1.0"} 0.0' in lines
    assert 'retinue_seconds_bucket{code="OK",le="2.0"} 3.0' in lines
    assert 'retinue_seconds_count{code="OK"} 3.0' in lines
    assert 'retinue_seconds_sum{code="OK"} 4.5' in lines


def test_what_only_others_have_counted_is_there_too() -> None:
    one, two = Process(), Process()
    two.calls.labels("INTERNAL").inc()
    two.seconds.labels("INTERNAL").observe(1.5)
    lines = page(one, two)
    assert 'retinue_calls_total{code="INTERNAL"} 1.0' in lines
    histogram = [line for line in lines if line.startswith("retinue_seconds_") and "_created" not in line]
    assert histogram == [
        'retinue_seconds_bucket{code="INTERNAL",le="1.0"} 0.0',
        'retinue_seconds_bucket{code="INTERNAL",le="2.0"} 1.0',
        'retinue_seconds_bucket{code="INTERNAL",le="+Inf"} 1.0',
        'retinue_seconds_count{code="INTERNAL"} 1.0',
        'retinue_seconds_sum{code="INTERNAL"} 1.5',
    ]


def test_every_metric_is_described_once() -> None:
    lines = page(Process(), Process())
    assert lines.count("# TYPE retinue_calls_total counter") == 1
    merged = MergedMetrics(Process().registry, list)
    assert exposition.generate_latest(merged).decode().endswith("# EOF\n")  # type: ignore[arg-type]


def test_traces_that_say_more_are_named_whichever_process_has_them() -> None:
    one, two = Process(), Process()
    one.seconds.labels("OK").observe(0.5, {"trace_id": "of-one"})
    two.seconds.labels("OK").observe(1.5, {"trace_id": "of-two"})
    two.seconds.labels("INTERNAL").observe(1.5, {"trace_id": "failed"})
    merged = MergedMetrics(one.registry, lambda: [counts.parse(counts.read(two.registry))])
    page = exposition.generate_latest(merged).decode()  # type: ignore[no-untyped-call]
    lines = [line.split(" # ") for line in page.splitlines() if " # " in line]
    assert [(count, exemplar.split(" ")[:2]) for count, exemplar in lines] == [
        ('retinue_seconds_bucket{code="OK",le="1.0"} 1.0', ['{trace_id="of-one"}', "0.5"]),
        ('retinue_seconds_bucket{code="OK",le="2.0"} 2.0', ['{trace_id="of-two"}', "1.5"]),
        ('retinue_seconds_bucket{code="INTERNAL",le="2.0"} 1.0', ['{trace_id="failed"}', "1.5"]),
    ]
