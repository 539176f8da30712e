"""What metrics tell of threads and of calls that are being answered."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from retinue_server.batching.tickets import BatchEnd
from retinue_server.batching.usage import Usage
from retinue_server.decode_pool import DecodePool
from retinue_server.metrics import Metrics
from retinue_server.runtime.memory import MemoryLimit, MemoryUse
from retinue_server.saturation import InFlight, InFlightCollector, PoolCollector
from retinue_server.workers import counts
from retinue_server.workers.counts import MergedMetrics


def lines(registry: "CollectorRegistry | MergedMetrics") -> set[str]:
    return set(generate_latest(registry).decode().splitlines())  # type: ignore[arg-type]


def usage(**changes: object) -> Usage:
    values = {
        "threads": 4,
        "healthy": True,
        "waiting": 3,
        "busy_seconds": 1.5,
        "batches": {BatchEnd.RAN: 7, BatchEnd.FAILED: 1, BatchEnd.STOPPED: 2},
    }
    return Usage(**{**values, **changes})  # type: ignore[arg-type]


def test_a_pool_tells_what_its_threads_do() -> None:
    registry = CollectorRegistry()
    registry.register(PoolCollector({"engine": usage, "cutter": lambda: usage(healthy=False)}))
    page = lines(registry)
    assert {
        'retinue_pool_threads{pool="engine"} 4.0',
        'retinue_pool_busy_seconds_total{pool="engine"} 1.5',
        'retinue_pool_waiting_images{pool="engine"} 3.0',
        'retinue_pool_batches_total{outcome="failed",pool="engine"} 1.0',
        'retinue_pool_batches_total{outcome="stopped",pool="engine"} 2.0',
        'retinue_pool_healthy{pool="engine"} 1.0',
        'retinue_pool_healthy{pool="cutter"} 0.0',
    } <= page


class Process:
    """What one process of several tells."""

    def __init__(self, in_flight: InFlight | None, **pools: Usage) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(InFlightCollector(None if in_flight is None else lambda: in_flight))
        self.registry.register(PoolCollector({name: partial(pools.get, name) for name in pools}))


def test_what_front_ends_are_at_is_summed() -> None:
    engine = Process(None, engine=usage())
    front_ends = [Process(InFlight(2, 10, 300, 1000), front_ends=usage(threads=1)) for _ in range(2)]
    read = [counts.parse(counts.read(one.registry)) for one in front_ends]
    page = lines(MergedMetrics(engine.registry, lambda: read))
    assert {
        "retinue_calls_in_flight 4.0",
        "retinue_calls_in_flight_limit 20.0",
        "retinue_bytes_in_flight 600.0",
        "retinue_bytes_in_flight_limit 2000.0",
        'retinue_pool_threads{pool="engine"} 4.0',
        'retinue_pool_threads{pool="front_ends"} 2.0',
        'retinue_pool_busy_seconds_total{pool="front_ends"} 3.0',
    } <= page


def test_a_front_end_that_is_gone_leaves_what_it_counted_and_nothing_of_what_it_was_at() -> None:
    gone = counts.parse(counts.read(Process(InFlight(2, 10, 300, 1000), front_ends=usage()).registry))
    left = {metric for metric, _, _ in counts.lasting(gone)}
    assert left == {"retinue_pool_busy_seconds", "retinue_pool_batches"}


def test_images_beyond_the_threads_wait_for_the_decoders() -> None:
    pool = DecodePool(threads=2)
    gate, begun = threading.Event(), threading.Semaphore(0)

    def decode(item: int, row: int) -> tuple[int, float]:
        begun.release()
        assert gate.wait(10)
        return item * row, 0.25

    with ThreadPoolExecutor(1) as callers:
        batch = callers.submit(pool.map, decode, [1, 2, 3, 4, 5], [10] * 8)
        for _ in range(2):
            assert begun.acquire(timeout=10)
        assert pool.usage().waiting == 3
        gate.set()
        assert batch.result() == [(10, 0.25), (20, 0.25), (30, 0.25), (40, 0.25), (50, 0.25)]
    used = pool.usage()
    assert (used.threads, used.waiting, used.busy_seconds, used.batches[BatchEnd.RAN]) == (2, 0, 1.25, 1)
    pool.close()


def test_a_batch_whose_decoding_raises_has_failed() -> None:
    pool = DecodePool(threads=1)

    def decode(item: int, row: int) -> tuple[int, float]:
        raise MemoryError

    with pytest.raises(MemoryError):
        pool.map(decode, [1], [2])
    assert (pool.usage().waiting, pool.usage().batches[BatchEnd.FAILED]) == (0, 1)
    pool.close()


@pytest.mark.parametrize(("on_device", "memory"), [(False, "process"), (True, "device")])
def test_what_models_may_take_is_told_beside_what_is_taken(on_device: bool, memory: str) -> None:
    metrics, limit = Metrics(), MemoryLimit(1000, "somebody allows", own_bytes=100, on_device=on_device)
    limit.take(MemoryUse(weights_bytes=200, arena_bytes=50))
    metrics.publish_memory(limit)
    page = lines(metrics.registry)
    assert f'retinue_memory_limit_bytes{{memory="{memory}"}} 1000.0' in page
    assert f'retinue_memory_reserved_bytes{{memory="{memory}"}} 350.0' in page


def test_where_there_is_no_limit_none_is_told() -> None:
    metrics = Metrics()
    metrics.publish_memory(MemoryLimit(own_bytes=100))
    page = lines(metrics.registry)
    assert not any(line.startswith("retinue_memory_limit_bytes{") for line in page)
    assert 'retinue_memory_reserved_bytes{memory="process"} 100.0' in page
