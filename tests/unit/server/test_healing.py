"""Models that are opened anew answer as before, and take no more memory than there is."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import colour_bundles
from tests.unit.server.test_memory_loading import KnowingTuner, inference_sessions

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.recovery import Limits, Recovery, State
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import ServedModel
from retinue_server.errors import DeviceError
from retinue_server.healing import Healing
from retinue_server.loader import Loader
from retinue_server.metrics import Metrics
from retinue_server.runtime import device_failures
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import MemoryLimit
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.runtime.session import Machine, Threads

_AT_ONCE = Limits(first_pause_seconds=0, longest_pause_seconds=0)


class Bench:
    """A model that is served, and the engine that would run it."""

    def __init__(self, folder: Path, limit_bytes: int = 0) -> None:
        kept = ModelCache(folder / "cache")
        provider = Provider(CPU, "cpu", "", ((CPU, {}),))
        machine = Machine(provider, Threads(2, 1), kept, ThreadPools(2))
        self.engine = Engine(2)
        self.limit = MemoryLimit(limit_bytes, "--memory-limit allows")
        self.loader = Loader(
            self.engine,
            machine,
            max_queue_images=8,
            decoders=None,
            tuner=KnowingTuner("fast", machine, kept),
            limit=self.limit,
            metrics=Metrics(),
            healing=Healing(self.limit, _AT_ONCE),
        )
        self.path = colour_bundles.locator(folder / "models", "colour-locator")
        self.model: ServedModel = self.loader.load(BundleFolder("colour-locator", 1, self.path))
        assert isinstance(self.model.batcher, Batcher)
        self.batcher = self.model.batcher

    @property
    def recovery(self) -> Recovery:
        assert self.batcher.recovery is not None
        return self.batcher.recovery

    def lose_a_thread(self) -> Callable[[], None]:
        """Has a batch hang for ever; returns what ends it."""
        with self.engine.lock:
            self.batcher.want_probe()
            batch = self.batcher.take(sharers=1)
            assert batch is not None
            self.engine.watch(0)
            assert not self.batcher.watch(batch, 0)
            assert self.batcher.watch(batch, 1000)
        return lambda: self.batcher.run(batch)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.engine.watch(0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_model_that_is_opened_anew_takes_the_place_of_the_former_one(tmp_path: Path) -> None:
    others = inference_sessions()
    bench = Bench(tmp_path)
    former = inference_sessions() - others
    with bench.engine.lock:
        bench.recovery.device_failed()
    bench.until(lambda: bench.recovery.state is State.READY and not bench.batcher.former_backends)
    assert bench.model.ready
    assert bench.limit.taken_bytes == bench.model.memory.total_bytes
    # One that usually runs, one for heatmaps, and one for lone images.
    latter = inference_sessions() - others
    assert (len(latter), len(latter & former)) == (3, 0)
    bench.loader.unload(bench.model)
    assert bench.limit.taken_bytes == 0


def test_what_hangs_keeps_its_memory_until_it_comes_back(bench: Bench) -> None:
    come_back = bench.lose_a_thread()
    bench.until(lambda: bench.recovery.state is State.READY)
    assert bench.limit.taken_bytes == 2 * bench.model.memory.total_bytes
    come_back()
    bench.until(lambda: bench.limit.taken_bytes == bench.model.memory.total_bytes)
    assert bench.recovery.lost_threads == 0
    bench.loader.unload(bench.model)
    assert bench.limit.taken_bytes == 0


def test_what_hangs_keeps_its_memory_also_when_its_model_is_unloaded(bench: Bench) -> None:
    come_back = bench.lose_a_thread()
    bench.until(lambda: bench.recovery.state is State.READY)
    bench.loader.unload(bench.model)
    assert bench.limit.taken_bytes == bench.model.memory.total_bytes
    come_back()
    assert bench.limit.taken_bytes == 0


def test_a_model_is_not_opened_anew_where_there_is_no_memory_for_two(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit_bytes=8_000_000)
    come_back = bench.lose_a_thread()
    bench.until(lambda: bench.recovery.failed_rebuilds > 0)
    assert not bench.model.ready
    assert bench.limit.taken_bytes == bench.model.memory.total_bytes
    come_back()
    bench.until(lambda: bench.recovery.state is State.READY)
    assert bench.limit.taken_bytes == bench.model.memory.total_bytes


def test_a_bundle_that_is_another_one_by_now_is_not_taken_for_the_model(bench: Bench) -> None:
    colour_bundles.rewrite_manifest(bench.path, labels=["other", "names", "here"])
    with bench.engine.lock:
        bench.recovery.device_failed()
    bench.until(lambda: bench.recovery.failed_rebuilds > 0)
    assert not bench.model.ready
    assert bench.limit.taken_bytes == 0
    bench.loader.unload(bench.model)
    assert bench.limit.taken_bytes == 0


@pytest.mark.parametrize(
    ("message", "lasts"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=a ; file=b", True),
        ("cudaEventSynchronize failed: unspecified launch failure (CUDA error 719)", True),
        ("CUDA failure 2: out of memory ; GPU=0", False),
        ("Failed to allocate memory for requested buffer of size 700", False),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_errors_that_outlast_the_batch_are_told_apart(message: str, lasts: bool) -> None:
    error = ValueError("the bundle cannot be run")
    error.__cause__ = RuntimeError(message)
    known = device_failures.known(error)
    assert isinstance(known, DeviceError) == lasts
    assert lasts or known is error
